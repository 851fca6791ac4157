"""Runs the job of ``sync``, shows how far it is, and stops it when the command is to end."""

import asyncio
import os
import signal
from functools import partial

from rongcloud_groups.bulk.estimate import estimate
from rongcloud_groups.bulk.failed_ids import FailedIdsFile, FailedIdsPrinter, Failures, MissingIdsFile
from rongcloud_groups.bulk.job import Job
from rongcloud_groups.bulk.report import Report
from rongcloud_groups.bulk.sinks.interface import Sink
from rongcloud_groups.bulk.sinks.open import open_sink
from rongcloud_groups.cli.connection_options import ConnectionOptions
from rongcloud_groups.cli.exit import Context, ExitCode
from rongcloud_groups.cli.progress import Display, display
from rongcloud_groups.cli.signals import handled
from rongcloud_groups.cli.sync_options import SyncOptions
from rongcloud_groups.cli.sync_output import say_failure, tell_estimate, tell_report
from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import ConfigError


async def run_job(options: SyncOptions, connection: ConnectionOptions, context: Context) -> int:
    """Run the job of a ``sync`` command line; returns the exit code."""
    async with GroupClient(**connection.for_client()) as client:
        source = options.source(client)
        if options.dry_run:
            tell_estimate(options, await estimate(client, source))
            return ExitCode.DONE
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # the others keep much of the memory they free
        sink = open_sink(options.path, options.file_format, force=options.force, keep_missing=options.keep_missing)
        if options.retry_failed is not None and not options.adds_to_output:
            _check_that_new(options, sink)
        in_json = options.report == "json"
        screen = display(options.progress, stdout_has_rows=options.path is None, in_json=in_json, debug=options.debug)
        printer = FailedIdsPrinter(partial(say_failure, screen))
        failures: Failures = printer if options.path is None else FailedIdsFile(options.path)
        missing = None if options.missing_path is None else MissingIdsFile(options.missing_path, options.path)
        job = Job(
            client,
            source,
            sink,
            failures,
            missing=missing,
            restart=options.restart,
            keep=options.adds_to_output,
            allow_empty=options.allow_empty,
        )

        def stop() -> None:
            message = "stopping: the requests under way end first; the same signal again stops at once"
            screen.say(message, {"message_type": "note", "message": message})
            job.stop()

        context.interruption.grace = 5.0  # the job ends within a second, but for a slow disk
        try:
            with context.interruption.stopping(stop):
                report = await watch(job, screen, context)
        finally:
            if missing is not None and options.path is None:  # nothing can be resumed
                missing.discard()
    context.warnings.show_held_back()
    tell_report(options, report, context.warnings.kept)
    if not report.complete:
        return context.interruption.exit_code
    if report.counts.failed or (options.fail_on_missing and report.counts.missing):
        return ExitCode.SOME_FAILED
    return ExitCode.DONE


def _check_that_new(options: SyncOptions, sink: Sink) -> None:
    """Only the list beside an output is known to have no ID that has a row there already."""
    if options.path is not None and options.path.exists() and (options.restart or sink.load() is None):
        raise ConfigError(
            f"{options.output} exists, and {options.retry_failed} is not its own list of failed IDs "
            f"({options.failures_path}); give a new output"
        )


async def watch(job: Job, screen: Display, context: Context) -> Report:
    """Run a job, and show how far it is; neither the terminal's end nor Ctrl-Z harms it."""
    speaker, context.warnings.speaker = context.warnings.speaker, screen
    try:
        with screen.suspendable(), handled({signal.SIGHUP: signal.SIG_IGN}):
            showing = asyncio.create_task(_show(screen, job))
            try:
                return await job.run()
            finally:
                showing.cancel()
                await asyncio.wait([showing])
    finally:
        context.warnings.speaker = speaker
        screen.close()


async def _show(screen: Display, job: Job) -> None:
    while True:
        await asyncio.sleep(screen.interval)
        screen.show(job.progress())

"""``rongcloud-groups sync``: parse, run a job, end with an exit code."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import anyio
from cyclopts import Parameter

from rongcloud_groups.bulk.estimate import estimate
from rongcloud_groups.bulk.failed_ids import FailedIdsFile, FailedIdsPrinter, Failures
from rongcloud_groups.bulk.job import Job, Report
from rongcloud_groups.bulk.sinks.interface import Format, Sink
from rongcloud_groups.bulk.sinks.open import open_sink
from rongcloud_groups.cli.console import one_line
from rongcloud_groups.cli.exit import ExitCode, Flag, ShowHelp, error_message, exit_code_for, print_error, run
from rongcloud_groups.cli.progress import Display, Style, display, print_json
from rongcloud_groups.cli.sync_options import Options, Reporting
from rongcloud_groups.cli.sync_output import tell_estimate, tell_failure, tell_report
from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import ConfigError, RongCloudError

STOPPED: Final = 5
"""The exit code of a job that ``--max-time`` stopped."""

MaybeHyphen = Annotated[str | None, Parameter(allow_leading_hyphen=True)]


def sync(
    ids: MaybeHyphen = None,
    *,
    output: Annotated[str | None, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)] = None,
    file_format: Annotated[Format | None, Parameter(name="--format")] = None,
    column: str | None = None,
    field: str | None = None,
    all_groups: Annotated[Flag, Parameter(name="--all")] = False,
    since: datetime | None = None,
    retry_failed: Path | None = None,
    restart: Flag = False,
    dry_run: Flag = False,
    max_time: str | None = None,
    fail_on_missing: Flag = False,
    progress: Style = "auto",
    report: Reporting = "text",
    debug: Flag = False,
) -> int:
    """Look up every ID of a file into a file or a database; run it again to go on where it stopped.

    The credentials come from the environment, as for get. Rows come in the order of the input, each distinct ID
    once. Stopped or killed at any moment, the same command goes on from its last checkpoint; Ctrl-C and SIGTERM let
    the requests under way end first, and a second one stops at once. IDs that failed are noted in OUT.failed.jsonl.

    Exit codes: 0 done; 1 error; 2 usage, configuration or input; 3 done, but some IDs failed; 4 credentials not
    accepted or service not enabled; 5 stopped by --max-time; 130 and 143 stopped by a signal; 141 nobody reads
    stdout any more.

    Args:
        ids: A file of group IDs: text with an ID a line, .csv, .tsv or .jsonl; - for stdin.
        output: Where the rows go: .jsonl, .csv, .sqlite, .db or .parquet; - for JSON lines on stdout.
        file_format: The output's format, where its name does not tell.
        column: The column of a CSV or TSV input that holds the ID; without it, group_id.
        field: The field of a JSON lines input that holds the ID; without it, group_id.
        all_groups: Take all groups of the app, oldest first, in place of a file.
        since: With --all: only groups created since then, in ISO 8601; UTC where it names no zone.
        retry_failed: Take the IDs of a list of failed IDs. Those of OUT.failed.jsonl are added to OUT; any other list
            needs a new output.
        restart: Forget an unfinished run and begin afresh.
        dry_run: Count IDs, duplicates and invalid ones, estimate requests and time, try the credentials; write nothing.
        max_time: Stop after so long (90, 30m, 8h), resumable.
        fail_on_missing: Exit with 3 where the service does not have one of the IDs.
        progress: auto is a bar on a terminal, otherwise a line every 30 seconds.
        report: json makes stderr JSON lines, the last one a summary, unless --progress asks for a bar or plain lines.
        debug: Log what happens, and show the traceback of an error.
    """
    if ids is None and not all_groups and retry_failed is None:
        raise ShowHelp("sync")

    def work() -> int:
        options = Options(
            ids=ids,
            output=output,
            file_format=file_format,
            column=column,
            field=field,
            all_groups=all_groups,
            since=None if since is None else since.replace(tzinfo=since.tzinfo or UTC),
            retry_failed=retry_failed,
            restart=restart,
            dry_run=dry_run,
            max_time=max_time,
            fail_on_missing=fail_on_missing,
            progress=progress,
            report=report,
        )
        return asyncio.run(_with_words(options, debug=debug))

    return run(work, debug=debug)


async def _with_words(options: Options, *, debug: bool) -> int:
    """An error says what to do next, or is JSON where all of stderr is."""
    try:
        return await _sync(options)
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        code = exit_code_for(error)
        words = _words_for(error)
        if options.speaks_json:
            print_json({"message_type": "error", "message": words, "exit_code": code})
        elif code != ExitCode.USAGE and isinstance(error, RongCloudError | OSError) and options.path is not None:
            print_error(f"{words}; what was done is saved, the same command goes on from there")
        else:
            raise
        return code


async def _sync(options: Options) -> int:
    options.check()
    async with GroupClient.from_env() as client:
        source = options.source(client)
        if options.dry_run:
            tell_estimate(options, await estimate(client, source))
            return ExitCode.DONE
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # the others keep much of what they free
        sink = open_sink(options.path, options.file_format)
        if options.retry_failed is not None and not options.adds_to_output:
            _check_that_new(options, sink)
        told = FailedIdsPrinter(partial(tell_failure, options))
        failures: Failures = told if options.path is None else FailedIdsFile(options.path)
        job = Job(client, source, sink, failures, restart=options.restart, keep=options.adds_to_output)
        report, stopped_by = await _watched(options, job)
    tell_report(options, report)
    if not report.complete:
        return stopped_by
    if report.counts.failed or (options.fail_on_missing and report.counts.missing):
        return ExitCode.SOME_FAILED
    return ExitCode.DONE


def _check_that_new(options: Options, sink: Sink) -> None:
    """Only the list beside an output is known to have no ID that has a row there already."""
    if options.path is not None and options.path.exists() and (options.restart or sink.load() is None):
        raise ConfigError(
            f"{options.output} exists, and {options.retry_failed} is not its own list of failed IDs "
            f"({options.failures_path}); give a new output"
        )


async def _watched(options: Options, job: Job) -> tuple[Report, int]:
    """Run the job; show it, and stop it when it is time. Returns the exit code of what stopped it, too."""
    screen = display(options.progress, stdout_has_rows=options.path is None, in_json=options.report == "json")
    stopped_by = [0]
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_stop_by_signal, job, screen, stopped_by)
            tasks.start_soon(_show, screen, job)
            if options.most_seconds is not None:
                tasks.start_soon(_stop_in_time, job, options.most_seconds, stopped_by)
            outcome = await _outcome_of(job.run)
            tasks.cancel_scope.cancel()
    finally:
        screen.close()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome, stopped_by[0]


async def _outcome_of(work: Callable[[], Awaitable[Report]]) -> Report | Exception:
    try:
        return await work()
    except Exception as error:  # noqa: BLE001  raised outside of the task group, which would wrap it
        return error


async def _show(screen: Display, job: Job) -> None:
    while True:
        await anyio.sleep(screen.interval)
        screen.show(job.progress())


async def _stop_by_signal(
    job: Job, screen: Display, stopped_by: list[int], *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if stopped_by[0] > STOPPED:  # the second one; what is committed is safe
                screen.close()
                os._exit(stopped_by[0])
            stopped_by[0] = 128 + number
            screen.say("stopping: the requests under way end first; the same signal again stops at once")
            job.stop()


async def _stop_in_time(job: Job, seconds: float, stopped_by: list[int]) -> None:
    await anyio.sleep(seconds)
    stopped_by[0] = stopped_by[0] or STOPPED
    job.stop()


def _words_for(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return one_line(f"cannot write {error.filename}: {error.strerror}")
    return error_message(error, debug=False)

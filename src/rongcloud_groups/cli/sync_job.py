"""The job of ``sync``: the checks before it, and its report."""

import asyncio
import os
from datetime import UTC
from functools import partial
from pathlib import Path

import msgspec

from rongcloud_groups import bulk
from rongcloud_groups._tables.output import printable
from rongcloud_groups._tables.rows import ROW_SCHEMA_VERSION
from rongcloud_groups.bulk.estimate import Estimate, estimate
from rongcloud_groups.bulk.files import check_writable, files_beside
from rongcloud_groups.bulk.sinks.open import check_output_name
from rongcloud_groups.cli.console import Say, one_line, print_json, prompt_for_ids, tell
from rongcloud_groups.cli.exit import Context, ExitCode
from rongcloud_groups.cli.options import ConnectionOptions, SyncOptions, is_same
from rongcloud_groups.cli.progress import display, watch
from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import ConfigError


def check(options: SyncOptions) -> None:
    """Refuse options that contradict each other, with a `ConfigError` that names them."""
    if options.inputs > 1:
        raise ConfigError("give one of: a file of IDs, - for stdin, --all, --retry-failed")
    if options.since is not None and not options.all_groups:
        raise ConfigError("--since goes with --all")
    if options.output is None and not options.dry_run:
        raise ConfigError("give an output: -o FILE, or -o - for stdout")
    if options.output is not None:
        check_output_name(options.output)
    path = options.path
    given = options.retry_failed if options.ids is None else Path(options.ids)
    if options.missing is not None:
        check_writable(options.missing)
        others = [given] if path is None else [given, path, *files_beside(path)]
        if any(is_same(options.missing, other) for other in others):
            raise ConfigError(f"{options.missing} is the list of missing IDs and another file too; give another name")
    if path is not None:
        check_writable(path)
    if is_same(given, path):
        raise ConfigError(f"{given} is the input and the output; give another output")
    if options.retry_failed is None and is_same(given, options.failures_path):
        raise ConfigError(f"{given} is the list of failed IDs of {options.output}; retry them with --retry-failed")


async def run_job(options: SyncOptions, connection: ConnectionOptions, context: Context) -> int:
    async with GroupClient(**connection.for_client()) as client:
        source = _source(options, client)
        if options.dry_run:
            _tell_estimate(options, await estimate(client, source))
            return ExitCode.DONE
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # the others keep much of the memory they free
        path = options.path
        sink = bulk.open_sink(path, options.file_format, force=options.force, keep_missing=options.keep_missing)
        if options.retry_failed is not None and not options.adds_to_output:
            _check_that_new(options, sink)
        in_json = options.report == "json"
        screen = display(options.progress, stdout_has_rows=path is None, in_json=in_json, debug=options.debug)
        printer = bulk.FailedIdsPrinter(partial(_say_failed, screen.say))
        failures: bulk.Failures = printer if path is None else bulk.FailedIdsFile(path)
        missing = None if options.missing_path is None else bulk.MissingIdsFile(options.missing_path, path)
        job = bulk.Job(
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

        context.grace = 5.0  # the job ends within a second, but for a slow disk
        cancel, context.stop = context.stop, partial(asyncio.get_running_loop().call_soon_threadsafe, stop)
        try:
            report = await watch(job, screen, context.warnings)
        finally:
            context.stop = cancel
            if missing is not None and path is None:  # nothing can be resumed
                missing.discard()
    context.warnings.show_held_back()
    _tell_report(options, report, context.warnings.kept)
    if not report.complete:
        return context.exit_code
    if report.counts.failed or (options.fail_on_missing and report.counts.missing):
        return ExitCode.SOME_FAILED
    return ExitCode.DONE


def _source(options: SyncOptions, client: GroupClient) -> bulk.Source:
    if options.all_groups:
        since = None if options.since is None else options.since.replace(tzinfo=options.since.tzinfo or UTC)
        return bulk.ListingSource(client.list_groups(), since=since, output=options.path)
    if options.retry_failed is not None:
        return bulk.FileSource(options.retry_failed, bulk.input_format(".jsonl"))
    if options.ids is None:
        prompt_for_ids()
        return bulk.StdinSource(bulk.input_format("", column=options.column, field=options.field))
    return bulk.file_source(Path(options.ids), column=options.column, field=options.field)


def _check_that_new(options: SyncOptions, sink: bulk.Sink) -> None:
    """Refuse an output with rows: only the list of failed IDs beside it is known to have none of their IDs."""
    if options.path is not None and options.path.exists() and (options.restart or sink.load() is None):
        raise ConfigError(
            f"{options.output} exists, and {options.retry_failed} is not its own list of failed IDs "
            f"({options.failures_path}); give a new output"
        )


def _say_failed(say: Say, failure: bulk.Failure) -> None:
    """Say that an ID failed, where no file keeps it."""
    fields = {"message_type": "failed", **msgspec.structs.asdict(failure)}
    say(printable(f"failed: {failure.group_id}: {failure.message}"), fields)


def _tell_report(options: SyncOptions, report: bulk.Report, warnings: list[str]) -> None:
    counts = report.counts
    failed_file = str(options.failures_path) if options.path is not None and counts.failed else None
    missing_file = str(options.missing_path) if options.missing_path is not None and counts.missing else None
    if options.speaks_json:
        summary = {
            "message_type": "summary",
            "complete": report.complete,
            **msgspec.structs.asdict(counts),
            "resumed_from": report.resumed_from,
            "seconds": round(report.seconds, 3),
            "requests": report.requests,
            "unreadable": report.unreadable,
            "output": options.output,
            "failed_file": failed_file,
            "missing_file": missing_file,
            "row_schema_version": ROW_SCHEMA_VERSION,
            "warnings": warnings,
        }
        print_json(summary)
        return
    tell(
        f"{_number_of(counts.records, 'ID')}, {counts.duplicates:,} of them duplicates: {counts.found:,} found, "
        f"{counts.missing:,} missing, {counts.failed:,} failed"
    )
    if report.unreadable:
        tell(f"groups in the listing without an ID that can be looked up: {report.unreadable:,}")
    tell(f"{_number_of(report.requests, 'request')} in {report.seconds:.1f} s")
    if report.complete:
        lists = {"done": options.path or "stdout", "failed IDs": failed_file, "missing IDs": missing_file}
        tell(one_line("; ".join(f"{name}: {file}" for name, file in lists.items() if file)))
    elif options.path is None:
        tell("stopped before the end")
    else:
        tell("stopped before the end; what was done is saved")
        tell("run the same command again to resume")


def _tell_estimate(options: SyncOptions, estimate: Estimate) -> None:
    if options.speaks_json:
        print_json({"message_type": "estimate", **msgspec.structs.asdict(estimate)})
        return
    if estimate.records is None:
        tell("how many groups the app has is known only at the end of its listing")
    else:
        ids = _number_of(estimate.records, "ID")
        tell(f"{ids}, {estimate.duplicates:,} of them duplicates, {estimate.invalid:,} invalid")
        duration = "less than a second" if estimate.seconds < 1 else f"at least {estimate.seconds:,.0f} s"
        tell(f"{_number_of(estimate.requests, 'request')}, {duration}")
    tell(estimate.credentials)


def _number_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

"""The messages of ``sync`` on stderr when it ends."""

import msgspec

from rongcloud_groups._tables.output import printable
from rongcloud_groups._tables.rows import ROW_SCHEMA_VERSION
from rongcloud_groups.bulk.estimate import Estimate
from rongcloud_groups.bulk.failed_ids import Failure
from rongcloud_groups.bulk.report import Report
from rongcloud_groups.cli.console import Speaker, one_line, print_json, tell
from rongcloud_groups.cli.sync_options import SyncOptions


def say_failure(speaker: Speaker, failure: Failure) -> None:
    """Say that an ID failed, where no file keeps it."""
    fields = {"message_type": "failed", **msgspec.structs.asdict(failure)}
    speaker.say(printable(f"failed: {failure.group_id}: {failure.message}"), fields)


def tell_report(options: SyncOptions, report: Report, warnings: list[str]) -> None:
    """Print the report, and what to do next; in JSON, with the client's warnings."""
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


def tell_estimate(options: SyncOptions, estimate: Estimate) -> None:
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

"""The options of ``sync``."""

import os
import re
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rongcloud_groups.cli.console import prompt_for_ids
from rongcloud_groups.cli.exit import Flag
from rongcloud_groups.errors import ConfigError

if TYPE_CHECKING:  # help needs none of it
    from rongcloud_groups.bulk.sources.interface import Source
    from rongcloud_groups.client import GroupClient

OutputFormat = Literal["jsonl", "csv", "excel-csv", "sqlite", "parquet"]
ProgressStyle = Literal["auto", "bar", "plain", "json", "none"]
ReportFormat = Literal["text", "json"]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@Parameter(name="*")
@dataclass(frozen=True)
class SyncOptions:
    """The command line of ``sync``; the docstring of a field is its help text."""

    ids: str | None = None
    """A file of group IDs: text with an ID a line, .csv, .tsv, .json, .jsonl or .parquet; each but the last also as .gz
    or, from Python 3.14 on, .zst; - for stdin."""

    _: KW_ONLY

    stdin: Annotated[bool, Parameter(name="-", negative=(), show=False)] = False

    output: Annotated[str | None, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)] = None
    """Where the rows go: .jsonl, .csv, .sqlite, .db or .parquet; - for JSON lines on stdout."""

    file_format: Annotated[OutputFormat | None, Parameter(name="--format")] = None
    """The output's format, where its name does not tell. In csv, an absent value is an empty cell and an empty text is
    "". excel-csv is for spreadsheets: it begins with a byte order mark, and a text that a spreadsheet would take for a
    formula begins with an apostrophe."""

    column: str | None = None
    """The column of a CSV, TSV or Parquet input that holds the ID; without it, group_id."""

    field: str | None = None
    """The field of a JSON input that holds the ID; without it, group_id."""

    all_groups: Annotated[Flag, Parameter(name="--all")] = False
    """Take all groups of the app, oldest first, in place of a file."""

    since: datetime | None = None
    """With --all: only groups created since then, in ISO 8601; UTC where it names no zone."""

    retry_failed: Path | None = None
    """Take the IDs of a list of failed IDs. Those of OUT.failed.jsonl are added to OUT; any other list needs a new
    output."""

    restart: Flag = False
    """Discard an unfinished run and start over."""

    force: Flag = False
    """Replace an output that no run of this command wrote; add to a database that has the groups of another App Key."""

    allow_empty: Flag = False
    """An input without any ID is no error."""

    missing: Path | None = None
    """Where the IDs of missing groups are listed; without it, OUT.missing.txt, and nowhere for stdout."""

    keep_missing: Flag = False
    """SQLite: leave the rows of missing groups, which are deleted otherwise."""

    dry_run: Flag = False
    """Count IDs, duplicates and invalid ones, estimate requests and time, try the credentials; write nothing."""

    max_time: str | None = None
    """Stop after this time (90, 30m, 8h); the same command resumes."""

    fail_on_missing: Flag = False
    """Exit with 3 if the service does not have one of the IDs."""

    progress: ProgressStyle = "auto"
    """auto is a bar on a terminal, otherwise a line every 30 seconds."""

    report: ReportFormat = "text"
    """json makes stderr JSON lines, the last one a summary, unless --progress asks for a bar or plain lines."""

    debug: Flag = False
    """Log what happens, and show the traceback of an error."""

    @property
    def inputs(self) -> int:
        """How many sources of IDs the command line names."""
        return sum([self.ids is not None, self.stdin, self.all_groups, self.retry_failed is not None])

    @property
    def path(self) -> Path | None:
        """The output; None for stdout. A link is followed, and its target replaced."""
        if self.output is None or self.output == "-":
            return None
        return _followed(Path(self.output))

    @property
    def failures_path(self) -> Path | None:
        """The list of failed IDs beside the output."""
        return None if self.path is None else Path(f"{self.path}.failed.jsonl")

    @property
    def missing_path(self) -> Path | None:
        """The list of the IDs of missing groups."""
        if self.missing is not None:
            return _followed(self.missing)
        return None if self.path is None else Path(f"{self.path}.missing.txt")

    @property
    def adds_to_output(self) -> bool:
        """Whether the output's own failed IDs are retried."""
        return self.retry_failed is not None and _is_same(self.retry_failed, self.failures_path)

    @property
    def max_seconds(self) -> float | None:
        """The seconds of ``--max-time``."""
        return None if self.max_time is None else seconds_of(self.max_time)

    @property
    def speaks_json(self) -> bool:
        """Whether stderr carries JSON alone."""
        return self.report == "json" or self.progress == "json"

    def check(self) -> None:
        """Refuse options that contradict each other, with a `ConfigError` that names them."""
        if self.inputs > 1:
            raise ConfigError("give one of: a file of IDs, - for stdin, --all, --retry-failed")
        if self.since is not None and not self.all_groups:
            raise ConfigError("--since goes with --all")
        if self.output is None and not self.dry_run:
            raise ConfigError("give an output: -o FILE, or -o - for stdout")
        self._check_files()

    def _check_files(self) -> None:
        from rongcloud_groups.bulk.files import check_writable, files_beside
        from rongcloud_groups.bulk.sinks.open import check_output_name

        if self.output is not None:
            check_output_name(self.output)
        path = self.path
        given = self.retry_failed if self.ids is None else Path(self.ids)
        if self.missing is not None:
            check_writable(self.missing)
            others = [given] if path is None else [given, path, *files_beside(path)]
            if any(_is_same(self.missing, other) for other in others):
                raise ConfigError(f"{self.missing} is the list of missing IDs and another file too; give another name")
        if path is None:
            return
        check_writable(path)
        if given is not None and _is_same(given, path):
            raise ConfigError(f"{given} is the input and the output; give another output")
        if self.retry_failed is None and given is not None and _is_same(given, self.failures_path):
            raise ConfigError(f"{given} is the list of failed IDs of {self.output}; retry them with --retry-failed")

    def source(self, client: "GroupClient") -> "Source":
        """Where the IDs come from."""
        from rongcloud_groups.bulk.sources.files import FileSource, StdinSource, file_source, input_format
        from rongcloud_groups.bulk.sources.listing import ListingSource

        if self.all_groups:
            since = None if self.since is None else self.since.replace(tzinfo=self.since.tzinfo or UTC)
            return ListingSource(client.list_groups(), since=since, output=self.path)
        if self.retry_failed is not None:
            return FileSource(self.retry_failed, input_format(".jsonl"))
        if self.ids is None:
            prompt_for_ids()
            return StdinSource(input_format("", column=self.column, field=self.field))
        return file_source(Path(self.ids), column=self.column, field=self.field)


def _followed(path: Path) -> Path:
    """The target of a link to a file, or to none yet; a device or pipe keeps the name that was given."""
    if path.is_symlink() and (path.is_file() or not path.exists()):
        return Path(os.path.realpath(path))
    return path


def _is_same(one: Path, other: Path | None) -> bool:
    return other is not None and os.path.realpath(one) == os.path.realpath(other)


def seconds_of(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None:
        raise ConfigError(f"--max-time {text!r} is not a time; write 90, 90s, 30m or 8h")
    return min(float(match[1]) * _UNITS[match[2]], TIMEOUT_MAX)

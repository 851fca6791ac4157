"""The options of the commands; their help texts are in the docstrings."""

import os
import re
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from rongcloud_groups._http import Proxy
from rongcloud_groups.config import options_from_environment, with_machine_budget
from rongcloud_groups.errors import ConfigError

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
OutputFormat = Literal["jsonl", "csv", "excel-csv", "sqlite", "parquet"]
ProgressStyle = Literal["auto", "bar", "plain", "json", "none"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """The options of all commands that connect to the service.

    Attributes:
        proxy: Connect through an HTTP proxy, http://[user:password@]host[:port]; env takes it from HTTPS_PROXY, but for
            the hosts in NO_PROXY. Without it, RONGCLOUD_PROXY, which shows no password in the list of processes.
        http2: Offer HTTP/2, or HTTP/1.1 alone.
    """

    proxy: str | None = None
    http2: Annotated[bool, Parameter(show_default=False)] = True

    def for_client(self) -> dict[str, Any]:
        """The client's options: the environment's, and these; all commands of this user and App Key share a budget."""
        options = with_machine_budget(options_from_environment())
        if not self.http2:
            options["http2"] = False
        if self.proxy == "env":
            options["proxy"] = Proxy.from_environment()
            if not options["proxy"]:
                raise ConfigError("--proxy env: HTTPS_PROXY is not set")
        elif self.proxy is not None:
            options["proxy"] = self.proxy
        return options


@Parameter(name="*")
@dataclass(frozen=True)
class SyncOptions:
    """The options of ``sync``.

    Attributes:
        ids: A file of group IDs: text with an ID a line, .csv, .tsv, .json, .jsonl or .parquet; each but the last also
            as .gz or, from Python 3.14 on, .zst; - for stdin.
        output: Where the rows go: .jsonl, .csv, .sqlite, .db or .parquet; - for JSON lines on stdout.
        file_format: The output's format, where its name does not tell. In csv, an absent value is an empty cell and an
            empty text is "". excel-csv is for spreadsheets: it begins with a byte order mark, and a text that a
            spreadsheet would take for a formula begins with an apostrophe.
        column: The column of a CSV, TSV or Parquet input that holds the ID; without it, group_id.
        field: The field of a JSON input that holds the ID; without it, group_id.
        all_groups: Take all groups of the app, oldest first, in place of a file.
        since: With --all: only groups created since then, in ISO 8601; UTC where it names no zone.
        retry_failed: Take the IDs of a list of failed IDs. Those of OUT.failed.jsonl are added to OUT; any other list
            needs a new output.
        restart: Discard an unfinished run and start over.
        force: Replace an output that no run of this command wrote; add to a database that has the groups of another App
            Key.
        allow_empty: An input without any ID is no error.
        missing: Where the IDs of missing groups are listed; without it, OUT.missing.txt, and nowhere for stdout.
        keep_missing: SQLite: leave the rows of missing groups, which are deleted otherwise.
        dry_run: Count IDs, duplicates and invalid ones, estimate requests and time, try the credentials; write nothing.
        max_time: Stop after this time (90, 30m, 8h); the same command resumes.
        fail_on_missing: Exit with 3 if the service does not have one of the IDs.
        progress: auto is a bar on a terminal, otherwise a line every 30 seconds.
        report: json makes stderr JSON lines, the last one a summary, unless --progress asks for a bar or plain lines.
        debug: Log what happens, and show the traceback of an error.
    """

    ids: str | None = None
    _: KW_ONLY
    stdin: Annotated[bool, Parameter(name="-", negative=(), show=False)] = False
    output: Annotated[str | None, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)] = None
    file_format: Annotated[OutputFormat | None, Parameter(name="--format")] = None
    column: str | None = None
    field: str | None = None
    all_groups: Annotated[Flag, Parameter(name="--all")] = False
    since: datetime | None = None
    retry_failed: Path | None = None
    restart: Flag = False
    force: Flag = False
    allow_empty: Flag = False
    missing: Path | None = None
    keep_missing: Flag = False
    dry_run: Flag = False
    max_time: str | None = None
    fail_on_missing: Flag = False
    progress: ProgressStyle = "auto"
    report: Literal["text", "json"] = "text"
    debug: Flag = False

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
        return None if self.path is None else Path(f"{self.path}.failed.jsonl")

    @property
    def missing_path(self) -> Path | None:
        if self.missing is not None:
            return _followed(self.missing)
        return None if self.path is None else Path(f"{self.path}.missing.txt")

    @property
    def adds_to_output(self) -> bool:
        """Whether the output's own failed IDs are retried."""
        return is_same(self.retry_failed, self.failures_path)

    @property
    def max_seconds(self) -> float:
        """The seconds of ``--max-time``; without it, as many as a timer takes."""
        if self.max_time is None:
            return TIMEOUT_MAX
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", self.max_time.strip())
        if match is None:
            raise ConfigError(f"--max-time {self.max_time!r} is not a time; write 90, 90s, 30m or 8h")
        return min(float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]], TIMEOUT_MAX)

    @property
    def speaks_json(self) -> bool:
        """Whether stderr carries JSON alone."""
        return self.report == "json" or self.progress == "json"


def is_same(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)


def _followed(path: Path) -> Path:
    """The target of a link to a file or to nothing; a link to a device or pipe stays as it is."""
    if path.is_symlink() and (path.is_file() or not path.exists()):
        return Path(os.path.realpath(path))
    return path

"""What the command line of ``sync`` asks for."""

import re
from datetime import datetime
from pathlib import Path
from typing import Literal

from msgspec import Struct

from rongcloud_groups.bulk.sinks.interface import Format
from rongcloud_groups.bulk.sources.files import FileSource, StdinSource, file_source, input_format
from rongcloud_groups.bulk.sources.interface import Source
from rongcloud_groups.bulk.sources.listing import ListingSource
from rongcloud_groups.cli.progress import Style
from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import ConfigError

Reporting = Literal["text", "json"]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Options(Struct, frozen=True, kw_only=True):
    """The arguments of ``sync``, under the names of its parameters."""

    ids: str | None
    output: str | None
    file_format: Format | None
    column: str | None
    field: str | None
    all_groups: bool
    since: datetime | None
    retry_failed: Path | None
    restart: bool
    dry_run: bool
    max_time: str | None
    fail_on_missing: bool
    progress: Style
    report: Reporting

    @property
    def path(self) -> Path | None:
        """The output; None for stdout. Where it is a link, what that leads to is replaced."""
        if self.output is None or self.output == "-":
            return None
        path = Path(self.output)
        return path.resolve() if path.is_symlink() else path

    @property
    def failures_path(self) -> Path | None:
        """The list of failed IDs beside the output."""
        return None if self.path is None else self.path.with_name(f"{self.path.name}.failed.jsonl")

    @property
    def adds_to_output(self) -> bool:
        """Whether the output's own failed IDs are retried."""
        return self.retry_failed is not None and _is_same(self.retry_failed, self.failures_path)

    @property
    def most_seconds(self) -> float | None:
        """When to stop."""
        return None if self.max_time is None else seconds_of(self.max_time)

    @property
    def speaks_json(self) -> bool:
        """Whether stderr carries JSON alone."""
        return self.report == "json" or self.progress == "json"

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: the message says what.
        """
        given = [self.ids is not None, self.all_groups, self.retry_failed is not None]
        if sum(given) > 1:
            raise ConfigError("give one of: a file of IDs, --all, --retry-failed")
        if self.since is not None and not self.all_groups:
            raise ConfigError("--since goes with --all")
        if self.output is None and not self.dry_run:
            raise ConfigError("give an output: -o FILE, or -o - for stdout")
        if self.max_time is not None:
            seconds_of(self.max_time)
        self._check_files()

    def _check_files(self) -> None:
        path = self.path
        if path is None:
            return
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ConfigError(f"cannot write {self.output}: it is no regular file; write to stdout (-o -) instead")
        given = self.retry_failed if self.ids in {None, "-"} else Path(self.ids or "")
        if given is not None and _is_same(given, path):
            raise ConfigError(f"{given} is the input and the output; give another output")
        if self.retry_failed is None and given is not None and _is_same(given, self.failures_path):
            raise ConfigError(f"{given} is the list of failed IDs of {self.output}; retry them with --retry-failed")

    def source(self, client: GroupClient) -> Source:
        """Where the IDs come from."""
        if self.all_groups:
            return ListingSource(client.list_groups(), since=self.since, output=self.path)
        if self.retry_failed is not None:
            return FileSource(self.retry_failed, input_format(".jsonl"))
        if self.ids == "-":
            return StdinSource(input_format("", column=self.column, field=self.field))
        return file_source(Path(self.ids or ""), column=self.column, field=self.field)


def _is_same(one: Path, other: Path | None) -> bool:
    return other is not None and one.resolve() == other.resolve()


def seconds_of(text: str) -> float:
    """The seconds of ``90``, ``90s``, ``30m`` or ``8h``.

    Raises:
        ConfigError: it is no time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None:
        raise ConfigError(f"--max-time {text!r} is not a time; write 90, 90s, 30m or 8h")
    return float(match[1]) * _UNITS[match[2]]

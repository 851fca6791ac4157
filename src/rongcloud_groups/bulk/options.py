"""What the command line of ``sync`` asks for."""

import re
from datetime import datetime
from pathlib import Path
from typing import Literal

from msgspec import Struct

from rongcloud_groups.bulk.progress import Style
from rongcloud_groups.bulk.sinks import Format
from rongcloud_groups.bulk.sources import FileSource, ListingSource, Source, StdinSource, file_source, input_format
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
    max_time: float | None
    fail_on_missing: bool
    progress: Style
    report: Reporting

    @property
    def path(self) -> Path | None:
        """The output; None for stdout."""
        return None if self.output is None or self.output == "-" else Path(self.output)

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

    def source(self, client: GroupClient) -> Source:
        """Where the IDs come from."""
        if self.all_groups:
            return ListingSource(client.list_groups(), since=self.since, output=self.path)
        if self.retry_failed is not None:
            return FileSource(self.retry_failed, input_format(".jsonl"))
        if self.ids == "-":
            return StdinSource(input_format("", column=self.column, field=self.field))
        return file_source(Path(self.ids or ""), column=self.column, field=self.field)


def seconds_of(text: str) -> float:
    """The seconds of ``90``, ``90s``, ``30m`` or ``8h``.

    Raises:
        ConfigError: it is no time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None:
        raise ConfigError(f"--max-time {text!r} is not a time; write 90, 90s, 30m or 8h")
    return float(match[1]) * _UNITS[match[2]]

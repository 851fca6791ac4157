"""What a demo came to, and whether it adds up."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from rongcloud_groups.errors import InvalidGroupId, RongCloudError

RATE: Final = 100
"""Requests in any one second that the service allows an App Key."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a demo came to.

    Attributes:
        ids_file: the file of IDs.
        lines: the lines in it.
        distinct: the different IDs in it.
        profiles_file: the file of profiles.
        written: how often each group ID is in it.
        found: IDs with a profile.
        missing: IDs that the service does not have.
        failed: why the others failed, by ID.
        requests: requests that the emulator received.
        connections: connections that the client opened.
        worst_second: the most requests that the emulator received in any one second.
        seconds: how long the lookup took.
    """

    ids_file: Path
    lines: int
    distinct: int
    profiles_file: Path
    written: Counter[str]
    found: int
    missing: int
    failed: dict[str, RongCloudError]
    requests: int
    connections: int
    worst_second: int
    seconds: float

    def contradictions(self, *, invalid: Collection[str]) -> list[str]:
        """What does not add up, in words; empty where all does.

        Args:
            invalid: the IDs that must fail, as invalid, and no others.
        """
        settled = self.found + self.missing + len(self.failed)
        refused = {group_id for group_id, error in self.failed.items() if isinstance(error, InvalidGroupId)}
        others = {group_id: error for group_id, error in self.failed.items() if group_id not in refused}
        words = [f"{group_id!r} failed: {error}" for group_id, error in others.items()]
        if settled != self.distinct:
            words.append(f"{settled:,} IDs are found, missing or failed; it should be all {self.distinct:,}")
        if refused != set(invalid):
            words.append(f"{len(refused)} IDs were refused as invalid; it should be the {len(invalid)} that are")
        if len(self.written) != self.found or self.written.total() != self.found:
            words.append(f"{self.written.total():,} profiles are in the file; it should be the {self.found:,} found")
        if self.worst_second > RATE:
            words.append(f"{self.worst_second} requests came in one second; the service allows {RATE}")
        return words

"""The interface of a job's input."""

from collections.abc import AsyncGenerator
from typing import Final, Protocol

from rongcloud_groups.bulk.checkpoint import ListingPlace

BLOCK: Final = 100
"""Records that a job takes up at a time; it stops and writes between blocks."""


class Source(Protocol):
    """Gives group IDs, in an order that is the same each time.

    Derive from it: only `records` has to be defined. The other methods are for a source that notes its IDs on the way.

    Attributes:
        name: the name in messages.
        kind: a description that must be the same when an unfinished job is resumed.
        rereadable: whether it can be read twice, so that it is scanned before the first request.
        asks_service: whether reading it takes requests.
        may_be_empty: whether it is no fault that it has no IDs.
        place: how far it was read, for the checkpoint; None where reading it from its start is as good.
    """

    name: str
    kind: str
    rereadable: bool = False
    asks_service: bool = False
    may_be_empty: bool = False
    place: ListingPlace | None = None

    def records(self) -> AsyncGenerator[list[str]]:
        """The IDs, some at a time; duplicates and invalid ones as they come.

        Raises:
            SourceError: the input cannot be read; the message names the line.
        """
        ...

    def begin(self, place: ListingPlace | None) -> None:
        """Start where a checkpoint says, or at the start."""
        return

    def make_durable(self) -> None:
        """Make the IDs that `place` counts durable; called in a worker thread."""
        return

    def close(self) -> None:
        """The job has ended."""
        return

    def forget(self) -> None:
        """The job is complete: remove its notes."""
        return

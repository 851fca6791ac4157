"""The interface of a job's input."""

from collections.abc import AsyncGenerator
from typing import Final, Protocol

from rongcloud_groups.bulk.checkpoint import ListingPlace
from rongcloud_groups.bulk.lists import MissingIds

BLOCK: Final = 100
"""Records that a job takes up at a time; it stops and writes between blocks."""


class Source(Protocol):
    """Gives group IDs, in an order that is the same each time. Derive from it: only `records` has to be defined.

    Attributes:
        name: the name in messages.
        kind: a description that must be the same when an unfinished job is resumed.
        rereadable: whether it can be read twice, so that it is scanned before the first request.
        asks_service: whether reading it takes requests.
        may_be_empty: whether it is no fault that it has no IDs.
        place: how far it was read, for the checkpoint, which sets it when a job is resumed; None where reading it from
            its start is as good.
        noted: the IDs up to that place, in a list that is durable before the checkpoint is.
    """

    name: str
    kind: str
    rereadable: bool = False
    asks_service: bool = False
    may_be_empty: bool = False
    place: ListingPlace | None = None
    noted: MissingIds = MissingIds()

    def records(self) -> AsyncGenerator[list[str]]:
        """The IDs, some at a time; duplicates and invalid ones as they come.

        Raises:
            SourceError: the input cannot be read; the message names the line.
        """
        ...

"""What a job needs of an input."""

from collections.abc import AsyncGenerator
from typing import Final, Protocol

BLOCK: Final = 100
"""Records that are taken up at a time; a job stops, writes and goes on between blocks."""


class Source(Protocol):
    """Gives group IDs, in an order that is the same each time.

    Attributes:
        name: what messages call it.
        kind: what must be the same when an unfinished job is gone on with.
        rereadable: whether it can be read twice, so that it is looked through before anything is asked.
    """

    name: str
    kind: str
    rereadable: bool

    def records(self) -> AsyncGenerator[list[str]]:
        """The IDs, some at a time; duplicates and invalid ones as they come.

        Raises:
            SourceError: the input cannot be read; the message names the line.
        """
        ...

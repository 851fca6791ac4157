"""What a job needs of an output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from rongcloud_groups.bulk.checkpoint import Checkpoint
from rongcloud_groups.models import GroupProfile

Format = Literal["jsonl", "csv", "sqlite", "parquet"]


class Sink(Protocol):
    """Takes rows in the order of the input, and can go on where an earlier run was killed.

    All methods but `encode` may block; a `Job` calls them in a worker thread, one at a time.

    Attributes:
        name: what messages call it.
        path: the output; None where it is stdout.
        seconds_between_commits: how often it is worth while.
    """

    name: str
    path: Path | None
    seconds_between_commits: float

    def load(self) -> Checkpoint | None:
        """The checkpoint of an unfinished run, or None."""
        ...

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:
        """Open the output: at a checkpoint, or afresh; ``keep`` adds to the rows that a finished output has."""
        ...

    def encode(self, profile: GroupProfile) -> Any:
        """The row that `write` takes."""
        ...

    def write(self, rows: Sequence[Any]) -> None:
        """Add rows; they are durable after `commit`."""
        ...

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make all rows so far durable, and then the checkpoint that counts them."""
        ...

    def publish(self) -> None:
        """Put the complete output in its place; done a second time, nothing happens."""
        ...

    def forget(self) -> None:
        """Remove the checkpoint of what is published."""
        ...

    def close(self) -> None:
        """Let go of the output."""
        ...

"""The interface of a job's output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from rongcloud_groups.bulk.checkpoint import Checkpoint
from rongcloud_groups.models import GroupProfile

Format = Literal["jsonl", "csv", "excel-csv", "sqlite", "parquet"]


class Sink(Protocol):
    """Takes rows in the order of the input, and can resume where an earlier run was killed.

    Derive from it: a method that is not defined does nothing. All methods but `encode` and `cancel` may block; a `Job`
    calls them in a worker thread, one at a time.

    Attributes:
        name: the name in messages.
        path: the output; None where it is stdout.
        seconds_between_commits: how often it is worth while.
    """

    name: str
    path: Path | None = None
    seconds_between_commits: float = 1.0

    def load(self) -> Checkpoint | None:
        """The checkpoint of an unfinished run, or None."""
        return None

    def app_key_of_rows(self) -> str | None:
        """Whose groups a finished output has that this job adds to; None where that does not matter."""
        return None

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:
        """Open the output: at a checkpoint, or empty; ``keep`` adds to the rows that a finished output has.

        Raises:
            ConfigError: it cannot be written, or is not an output of a job.
        """
        return

    def encode(self, profile: GroupProfile) -> Any:
        """The row that `write` takes."""
        ...

    def write(self, rows: Sequence[Any]) -> None:
        """Add rows; they are durable after `commit`."""
        ...

    def remove(self, group_ids: Sequence[str]) -> None:
        """The service does not have these groups: remove their rows, which earlier jobs wrote."""
        return

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make all rows so far durable, and then the checkpoint that counts them."""
        return

    def publish(self) -> None:
        """Put the complete output in its place; done a second time, nothing happens."""
        return

    def forget(self) -> None:
        """Remove the checkpoint, and rows that are not in their place."""
        return

    def close(self) -> None:
        """Let go of the output."""
        return

    def cancel(self) -> None:
        """End waits in other methods, now and later, with `WriteCancelled`; called from the event loop's thread."""
        return

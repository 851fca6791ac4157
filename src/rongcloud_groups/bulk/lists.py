"""The lists beside an output: the IDs that failed, each with why, and the IDs of missing groups."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from rongcloud_groups._protocol.error_codes import RETRIED, action_for
from rongcloud_groups.bulk.files import PartialFile
from rongcloud_groups.errors import InvalidGroupId, RongCloudError, ServiceError


class Failure(Struct, frozen=True):
    """One line of ``OUT.failed.jsonl``.

    Attributes:
        group_id: the ID.
        error: the kind of error, a name from `rongcloud_groups.errors`.
        code: the service's code; None where there was no response with one.
        message: the text of the error.
        attempts: requests that were lost on it: 0 for an ID that was refused here, 1 where the response was final,
            otherwise as many as the client makes.
    """

    group_id: str
    error: str
    code: int | None
    message: str
    attempts: int


def failure(group_id: str, error: RongCloudError, max_attempts: int) -> Failure:
    """The note of an ID that ended in this error."""
    code = error.code if isinstance(error, ServiceError) else None
    most = max_attempts if action_for(error) in RETRIED else 1
    attempts = 0 if isinstance(error, InvalidGroupId) else most
    return Failure(group_id, type(error).__name__, code, str(error), attempts)


_T = TypeVar("_T")


class IdList(Generic[_T]):
    """A list that grows with the job. Derive from it: a method that is not defined does nothing."""

    size = 0
    """Bytes so far."""

    def begin(self, size: int, *, keep: bool = False) -> None:
        """Open it with so many bytes that are good; ``keep`` begins with the list of a finished run."""

    def write(self, items: Sequence[_T], /) -> None:
        """Add to it; the items are durable after `make_durable`."""

    def make_durable(self) -> int:
        """Make it durable; return its size in bytes."""
        return 0

    def publish(self) -> None:
        """The job is complete: put the list in its place."""

    def discard(self) -> None:
        """Remove a list that is not in its place yet."""

    def close(self) -> None:
        """Let go of it."""


class Failures(IdList[Failure]):
    """Where failed IDs are noted."""


class MissingIds(IdList[str]):
    """Where the IDs of missing groups are noted; this class itself notes nothing."""


class FailedIdsFile(PartialFile, Failures):
    """``OUT.failed.jsonl`` beside the output, JSON lines; it is there only if an ID failed.

    Args:
        output: the job's output.
    """

    def __init__(self, output: Path | str) -> None:
        super().__init__(Path(f"{Path(output)}.failed.jsonl"), like=Path(output), even_empty=False)

    def write(self, failures: Sequence[Failure]) -> None:
        self.append(msgspec.json.Encoder().encode_lines(failures))


class FailedIdsPrinter(Failures):
    """For an output that has no file beside it: each failure is shown at once.

    Args:
        show: shows a failure.
    """

    def __init__(self, show: Callable[[Failure], None]) -> None:
        self._show = show

    def write(self, failures: Sequence[Failure]) -> None:
        for each in failures:
            self._show(each)


class MissingIdsFile(PartialFile, MissingIds):
    """An ID a line; the file is there only if a group is missing.

    Args:
        path: the file.
        output: the job's output, whose mode and owner the list has; None where it is stdout.
    """

    def __init__(self, path: Path | str, output: Path | None = None) -> None:
        super().__init__(Path(path), like=output, even_empty=False)

    @classmethod
    def beside(cls, output: Path | str) -> "MissingIdsFile":
        """``OUT.missing.txt``."""
        return cls(f"{Path(output)}.missing.txt", Path(output))

    def write(self, group_ids: Sequence[str]) -> None:
        self.append("".join(f"{group_id}\n" for group_id in group_ids).encode())

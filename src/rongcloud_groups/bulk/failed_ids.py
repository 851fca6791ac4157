"""The lists beside an output: the IDs that failed, each with why, and the IDs of missing groups."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

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
    attempts = max_attempts if action_for(error) in RETRIED else 1
    if isinstance(error, InvalidGroupId):
        attempts = 0
    return Failure(group_id, type(error).__name__, code, str(error), attempts)


class IdList(Protocol):
    """A list of IDs that grows with the job; by default nothing is kept."""

    def begin(self, size: int | None, *, keep: bool) -> None:
        """Open it: with so many bytes that are good, or empty; ``keep`` begins with the list of a finished run."""
        return

    def make_durable(self) -> int:
        """Make it durable; return its size in bytes."""
        return 0

    def publish(self) -> None:
        """The job is complete: put the list in its place."""
        return

    def discard(self) -> None:
        """Remove a list that is not in its place yet."""
        return

    def close(self) -> None:
        """Let go of it."""
        return


class Failures(IdList, Protocol):
    """Where failed IDs are noted."""

    def write(self, failures: Sequence[Failure]) -> None:
        """Note failures."""
        ...


class MissingIds(IdList, Protocol):
    """Where the IDs of missing groups are noted."""

    def write(self, group_ids: Sequence[str]) -> None:
        """Note IDs."""
        ...


class _ListFile:
    """A file that is there only if it has a line."""

    def __init__(self, path: Path, output: Path | None) -> None:
        self.path = path
        self._file = PartialFile(path, like=output)

    def begin(self, size: int | None, *, keep: bool) -> None:
        self._file.begin(size)
        if size is None and keep and self.path.exists():
            self._file.write(self.path.read_bytes())

    def make_durable(self) -> int:
        return self._file.sync()

    def publish(self) -> None:
        self._file.publish(even_empty=False)

    def discard(self) -> None:
        self._file.discard()

    def close(self) -> None:
        self._file.close()


_ENCODER: Final = msgspec.json.Encoder()


class FailedIdsFile(_ListFile, Failures):
    """``OUT.failed.jsonl`` beside the output, JSON lines; it is there only if an ID failed.

    Args:
        output: the job's output.
    """

    def __init__(self, output: Path | str) -> None:
        output = Path(output)
        super().__init__(output.with_name(f"{output.name}.failed.jsonl"), output)

    def begin(self, size: int | None, *, keep: bool) -> None:
        """Open it; the list of a finished run is replaced."""
        super().begin(size, keep=False)

    def write(self, failures: Sequence[Failure]) -> None:
        """Append lines."""
        self._file.write(_ENCODER.encode_lines(failures))


class MissingIdsFile(_ListFile, MissingIds):
    """An ID a line; the file is there only if a group is missing.

    Args:
        path: the file.
        output: the job's output, whose mode and owner the list has; None where it is stdout.
    """

    def __init__(self, path: Path | str, output: Path | None = None) -> None:
        super().__init__(Path(path), output)

    @classmethod
    def beside(cls, output: Path | str) -> "MissingIdsFile":
        """``OUT.missing.txt``."""
        output = Path(output)
        return cls(output.with_name(f"{output.name}.missing.txt"), output)

    def write(self, group_ids: Sequence[str]) -> None:
        """Append lines."""
        self._file.write("".join(f"{group_id}\n" for group_id in group_ids).encode())


class UnlistedIds(MissingIds):
    """The IDs of missing groups are counted, and not listed."""

    def write(self, group_ids: Sequence[str]) -> None:
        """Nothing is kept."""


class FailedIdsPrinter(Failures):
    """For an output that has no file beside it: each failure is shown at once.

    Args:
        show: shows a failure.
    """

    def __init__(self, show: Callable[[Failure], None]) -> None:
        self._show = show

    def write(self, failures: Sequence[Failure]) -> None:
        """Show them."""
        for each in failures:
            self._show(each)

"""The IDs that failed, each with why, as JSON lines that `--retry-failed` reads back."""

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
        code: the service's code; None where the service did not answer.
        message: what went wrong.
        attempts: requests that were lost on it: 0 for an ID that was refused here, 1 where the service's answer
            was final, otherwise as many as the client makes.
    """

    group_id: str
    error: str
    code: int | None
    message: str
    attempts: int


def failure(group_id: str, error: RongCloudError, max_attempts: int) -> Failure:
    """What is noted of a failed ID."""
    code = error.code if isinstance(error, ServiceError) else None
    attempts = max_attempts if action_for(error) in RETRIED else 1
    if isinstance(error, InvalidGroupId):
        attempts = 0
    return Failure(group_id, type(error).__name__, code, str(error), attempts)


class Failures(Protocol):
    """Where failed IDs are noted."""

    def begin(self, size: int | None) -> None:
        """Open it: with so many bytes that are good, or afresh."""
        ...

    def write(self, failures: Sequence[Failure]) -> None:
        """Note failures."""
        ...

    def make_durable(self) -> int:
        """Make what was written durable; return its size in bytes."""
        ...

    def publish(self) -> None:
        """The job is complete."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


_ENCODER: Final = msgspec.json.Encoder()


class FailedIdsFile:
    """``OUT.failed.jsonl`` beside the output; it is there only if an ID failed.

    Args:
        output: the job's output.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f"{output.name}.failed.jsonl")
        self._file = PartialFile(self.path)

    def begin(self, size: int | None) -> None:
        """Open it."""
        self._file.begin(size)

    def write(self, failures: Sequence[Failure]) -> None:
        """Append lines."""
        self._file.write(_ENCODER.encode_lines(failures))

    def make_durable(self) -> int:
        """Make them durable."""
        return self._file.sync()

    def publish(self) -> None:
        """Rename the file, or remove an older one where nothing failed."""
        self._file.publish(even_empty=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FailedIdsPrinter:
    """For an output that has no file beside it: each failure is told at once.

    Args:
        tell: shows a failure.
    """

    def __init__(self, tell: Callable[[Failure], None]) -> None:
        self._tell = tell

    def begin(self, size: int | None) -> None:
        """There is nothing to open."""

    def write(self, failures: Sequence[Failure]) -> None:
        """Tell them."""
        for each in failures:
            self._tell(each)

    def make_durable(self) -> int:
        """Nothing is kept."""
        return 0

    def publish(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """There is nothing to close."""

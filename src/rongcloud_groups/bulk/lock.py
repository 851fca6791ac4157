"""The lock that keeps a second job from the same output."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rongcloud_groups.errors import ConfigError


@contextmanager
def locked(output: Path | None) -> Iterator[None]:
    """Keep out other jobs with the same output, from before its checkpoint is read until all is in its place.

    The lock is the file ``OUT.lock``. One that a killed process left behind is taken over.

    Args:
        output: the job's output; None where there is nothing to keep others from.

    Raises:
        ConfigError: another process has the lock, or the file cannot be written.
    """
    if output is None:
        yield
        return
    path = output.with_name(f"{output.name}.lock")
    descriptor = _taken(path, output)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _taken(path: Path, output: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"cannot write {output}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(f"another process is writing {output}") from None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # the process that had it has removed it meanwhile

"""Files that are written under another name until they are whole, made durable, and locked."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rongcloud_groups.bulk.errors import ResumeError
from rongcloud_groups.errors import ConfigError


class PartialFile:
    """Appended to as ``NAME.partial``, cut back to a known size on resume, renamed to ``NAME`` or removed at the end.

    Args:
        path: the final name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.size = 0
        self._descriptor: int | None = None

    def begin(self, size: int | None, *, keep: bool = False) -> None:
        """Open it.

        Args:
            size: bytes that are good; None to begin an empty file.
            keep: begin with what is under the final name already, not with an empty file.

        Raises:
            ConfigError: it cannot be written.
            ResumeError: it is shorter than ``size``.
        """
        try:
            if self.path.is_dir():
                raise IsADirectoryError(21, "it is a directory")
            self._descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from None
        if size is None:
            os.ftruncate(self._descriptor, 0)
            self.size = self._copy_of_final(self._descriptor) if keep else 0
        else:
            self._check_size(size)
            os.ftruncate(self._descriptor, size)
            self.size = size
        os.lseek(self._descriptor, self.size, os.SEEK_SET)

    def check_complete(self, size: int) -> None:
        """Check that the rows of a complete run are all there, before they are published.

        Args:
            size: bytes that the checkpoint counts.

        Raises:
            ResumeError: they are not.
        """
        if self.partial.exists():
            self._check_size(size)
        elif not self.path.exists():
            raise ResumeError(f"{self.partial} is gone, and its checkpoint is not; --restart begins afresh")

    def write(self, content: bytes) -> None:
        """Append; what is written is durable after `sync`."""
        assert self._descriptor is not None, "it was begun"  # noqa: S101  an invariant
        rest = memoryview(content)
        with naming_file(self.partial):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        self.size += len(content)

    def sync(self) -> int:
        """Make it durable; return its size."""
        assert self._descriptor is not None, "it was begun"  # noqa: S101  an invariant
        with naming_file(self.partial):
            os.fsync(self._descriptor)
        return self.size

    def publish(self, *, even_empty: bool = True) -> None:
        """Give it its final name; done a second time, nothing happens.

        Args:
            even_empty: otherwise an empty file is removed, and so is an older one under the final name.
        """
        self.close()
        if not self.partial.exists():
            return
        if even_empty or self.partial.stat().st_size:
            self.partial.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)
            self.partial.unlink()
        sync_directory(self.path.parent)

    def discard(self) -> None:
        """Remove it, where it has not its final name yet."""
        self.close()
        self.partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave it as it is."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _check_size(self, size: int) -> None:
        if self.partial.stat().st_size < size:
            raise ResumeError(f"{self.partial} is shorter than its checkpoint says; --restart begins afresh")

    def _copy_of_final(self, descriptor: int) -> int:
        if not self.path.exists():
            return 0
        with naming_file(self.partial), self.path.open("rb") as source, os.fdopen(os.dup(descriptor), "wb") as target:
            shutil.copyfileobj(source, target)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # an editor may have left it so
            size += os.pwrite(descriptor, b"\n", size)
        return size


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Let an error of the operating system name the file that could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


def sync_file(path: Path) -> None:
    """Make what a file holds durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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

"""Files that are written under another name until they are whole, made durable, and locked."""

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from rongcloud_groups._tables.output import write_all
from rongcloud_groups.bulk.errors import OutputLost, ResumeError
from rongcloud_groups.errors import ConfigError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

_BESIDE: Final = (
    *(".partial", ".checkpoint", ".checkpoint.new", ".lock", ".listed.partial", ".new"),
    *(".failed.jsonl", ".failed.jsonl.partial", ".missing.txt.partial"),
)
"""Suffixes of the files that a job has beside its output; -wal and the like are SQLite's."""
_MAX_NAME: Final = 255 - max(map(len, _BESIDE))
"""Bytes of an output's name: the files beside it have longer ones."""
_CANNOT: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}
"""Given by network and FUSE file systems that have no locks, or no fsync, for directories or at all."""


class PartialFile:
    """Appended to as ``NAME.partial``, cut back to a known size on resume, renamed to ``NAME`` or removed at the end.

    It has the mode and the owner of the file that it replaces, or of ``like`` where there is none yet. Unless
    ``even_empty``, an empty file is not published, and an older one of the final name is removed.
    """

    def __init__(self, path: Path, *, like: Path | None = None, even_empty: bool = True) -> None:
        self.path = path
        self.partial = Path(f"{path}.partial")
        self.size = 0
        self._like = like or path
        self._even_empty = even_empty
        self._descriptor = -1

    def begin(self, size: int, *, keep: bool = False) -> None:
        """Open it with so many bytes that are good; ``keep`` begins with the content of the file that it replaces."""
        self._descriptor = _opened(self.partial, self.path)
        _copy_mode(self.path if self.path.exists() else self._like, self._descriptor)
        self._check_size(size)
        self.size = size
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)
        if keep and self.path.exists():
            self.append(self.path.read_bytes())

    def check_complete(self, size: int) -> None:
        """Raise a `ResumeError` unless all bytes of a complete run are there, or were put in their place."""
        if self.partial.exists():
            self._check_size(size)
        elif not self.path.exists():
            raise ResumeError(f"{self.partial} is missing although its checkpoint exists; use --restart to start over")

    def append(self, content: bytes) -> None:
        with _naming_file(self.partial):
            write_all(self._descriptor, content)
        self.size += len(content)

    def make_durable(self) -> int:
        """Make it durable, unless it was removed; return its size."""
        _check_in_place(self.partial, self._descriptor)
        with _naming_file(self.partial):
            _fsync(self._descriptor)
        return self.size

    def publish(self) -> None:
        """Give it its final name; done a second time, nothing happens."""
        self.close()
        if not self.partial.exists():
            return
        if self._even_empty or self.partial.stat().st_size:
            self.partial.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)
            self.partial.unlink()
        _sync_directory(self.path.parent)

    def discard(self) -> None:
        """Remove it, where it has not its final name yet."""
        self.close()
        self.partial.unlink(missing_ok=True)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _check_size(self, size: int) -> None:
        if self.partial.stat().st_size < size:
            raise ResumeError(f"{self.partial} is shorter than its checkpoint says; use --restart to start over")


@contextmanager
def replacing(path: Path, *, like: Path) -> Iterator[BinaryIO]:
    """Write a file in place of another one, atomically and durably, with the mode and the owner of ``like``."""
    new = Path(f"{path}.new")
    with _naming_file(new), new.open("wb") as file:
        _copy_mode(like, file.fileno())
        yield file
        file.flush()
        _fsync(file.fileno())
    new.replace(path)
    _sync_directory(path.parent)


class OutputLock:
    """Keeps out other jobs with the same output, by the file ``OUT.lock``; one of a killed process is taken over."""

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._path = Path(f"{output}.lock")
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Lock it; raise a `ConfigError` if another process has the lock, or the file cannot be written."""
        if self._output is not None and fcntl is None:
            raise ConfigError(
                "a file as output needs a POSIX system (Linux, macOS, WSL); write to stdout (-o -) instead"
            )
        while self._output is not None:
            self._descriptor = _opened(self._path, self._output)
            with suppress(OutputLost):  # the process that had it has removed it
                self._lock()
                self.check()
                break
            self._close()
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            with suppress(OutputLost):  # the file there now is another job's
                self.check()
                self._path.unlink()
            self._close()

    def check(self) -> None:
        """Raise `OutputLost` if other jobs are no longer kept out."""
        if self._descriptor >= 0:
            _check_in_place(self._path, self._descriptor)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _CANNOT:
                _log.warning(
                    "%s: no locks on this file system; take care that no other run writes %s", self._path, self._output
                )
                return
            self._close()
            if isinstance(error, BlockingIOError):
                raise ConfigError(f"another process is writing {self._output}") from None
            raise ConfigError(f"cannot lock {self._path}: {error.strerror}") from None

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


def files_beside(output: Path) -> list[Path]:
    """The files that a job has beside its output, but for its list of missing IDs."""
    return [Path(f"{output}{suffix}") for suffix in _BESIDE]


def check_writable(output: Path) -> None:
    """Raise a `ConfigError` that says why, if an output cannot be written or replaced."""
    if len(os.fsencode(output.name)) > _MAX_NAME:
        raise ConfigError(
            f"the name {output.name!r} is too long for the files beside it; give one of at most {_MAX_NAME} bytes"
        )
    try:
        status = output.stat()
    except FileNotFoundError:
        if output.parent.is_dir():
            return
        raise ConfigError(f"cannot write {output}: there is no directory {output.parent}") from None
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"cannot write {output}: it is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"cannot write {output}: it is no regular file; write to stdout (-o -) instead")
    if not status.st_mode & 0o222 or not os.access(output, os.W_OK):
        raise ConfigError(f"cannot write {output}: it is read-only; allow writing to it, or give another output")


def _opened(path: Path, output: Path) -> int:
    """The descriptor of a file that an output needs."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None


def _copy_mode(source: Path, descriptor: int) -> None:
    """Give an open file the mode and the owner of another one, as far as the user and the file system can."""
    with suppress(OSError):
        status = source.stat()
        with suppress(OSError):
            os.fchown(descriptor, -1, status.st_gid)
            os.fchown(descriptor, status.st_uid, -1)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


@contextmanager
def _naming_file(path: Path) -> Iterator[None]:
    """Let an error of the operating system name the file that could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


def _check_in_place(path: Path, descriptor: int) -> None:
    opened = os.fstat(descriptor)
    with suppress(FileNotFoundError, NotADirectoryError):
        named = path.stat()
        if opened.st_nlink or os.path.samestat(opened, named):  # some file systems count no links
            return
    raise OutputLost(f"{path} was removed or replaced while it was in use; run the same command again")


def _sync_directory(path: Path) -> None:
    """Make renames in a directory durable, where the file system can."""
    with suppress(PermissionError):  # it can be written, and not read
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _fsync(descriptor)
        finally:
            os.close(descriptor)


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise

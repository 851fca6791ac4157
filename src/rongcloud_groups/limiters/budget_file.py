"""The file in which the processes of one machine keep their common schedule."""

import errno
import logging
import os
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from math import inf
from pathlib import Path
from stat import S_ISDIR, S_ISREG, S_IWGRP
from struct import Struct
from time import monotonic
from typing import TypeVar

from rongcloud_groups.errors import ConfigError
from rongcloud_groups.limiters.schedule import (
    HOST_JITTER,
    MAX_HISTORY,
    MAX_LATE,
    MAX_PAUSE,
    MAX_RESERVED,
    MIN_SHARE,
    PAUSE_JITTER,
    QUIET_PERIOD,
    SlotSchedule,
)

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

MARK = b"rcslots"
VERSION = b"4"
HEADER = Struct("<7sc16s8s2q7d")
STATE = ("next_slot", "late", "late_at", "paused_until", "cut_at", "cut_from")
"""The numbers of a schedule that a record has, in this order, after the limit."""
MAX_RECORD = HEADER.size + 8 * (MAX_HISTORY + 2 * MAX_RESERVED)
RECENT = 10.0  # seconds; a limit that was written longer ago than this may have been changed since

_Result = TypeVar("_Result")


class BudgetFile:
    """A `SlotSchedule` in a file, which processes change one after the other under a lock.

    Times are on the clock that all processes of a machine share since it was started. Content from before a reboot, or
    from another machine, says nothing about the last second; nor does a file that took the place of another.
    A file that is empty when it is first used begins with the whole budget.
    """

    def __init__(self, path: str | os.PathLike[str], limit: float) -> None:
        if fcntl is None:
            raise ConfigError("HostLimiter needs flock, which this system does not have; use RedisLimiter")
        self.path = Path(path).expanduser().absolute()
        self._limit = limit
        self._name = b""
        self._warned_of_limit = False
        try:
            with suppress(BlockingIOError):
                self.update(lambda _, __: None)
        except OSError as error:
            raise ConfigError(f"the budget file {self.path} cannot be used: {_explained(error)}") from None

    def update(self, change: Callable[[SlotSchedule, float], _Result]) -> _Result:
        """Let ``change`` read and change the schedule at this time; its result holds once this has returned.

        Raises:
            BlockingIOError: another process has the lock.
            OSError: the file cannot be used now.
        """
        file = self._open()  # each time: it may have been replaced, or this process forked
        try:
            if not S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "it is not a file")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = monotonic()
            schedule = self._read(os.pread(file, MAX_RECORD, 0), now)
            result = change(schedule, now)
            record = _record(self._name, schedule, self._limit)
            if os.pwrite(file, record, 0) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return result
        finally:
            os.close(file)  # and with it the lock, as when the process dies

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with suppress(FileNotFoundError):
            return os.open(self.path, flags)
        file = os.open(self.path, flags | os.O_CREAT, 0o660)
        with suppress(OSError):  # another user's process created it
            if self.path.parent.stat().st_mode & S_IWGRP:  # a group shares the directory, whatever the umask
                os.fchmod(file, 0o660)
        return file

    def _read(self, record: bytes, now: float) -> SlotSchedule:
        if record and not record.startswith(MARK):
            raise OSError(errno.EEXIST, "it holds something else; name a file that does not exist yet")
        schedule = _schedule(record, self._limit, now)
        name = HEADER.unpack_from(record)[3] if schedule else os.urandom(8)
        known = self._name in {b"", name}
        self._name = name
        if schedule and known:
            self._compare_limit(record, schedule, now)
            return schedule
        schedule = schedule or SlotSchedule(self._limit, jitter=HOST_JITTER)
        if record or not known:
            schedule.next_slot = now + QUIET_PERIOD
            logger.warning(
                "the budget file %s was replaced or damaged, or is from before a reboot or from another machine: "
                "nothing leaves for %g s",
                self.path,
                QUIET_PERIOD,
            )
        return schedule

    def _compare_limit(self, record: bytes, schedule: SlotSchedule, now: float) -> None:
        limit = HEADER.unpack_from(record)[6]
        if limit != self._limit and not self._warned_of_limit and schedule.sent and now - schedule.sent[-1] < RECENT:
            self._warned_of_limit = True
            logger.warning(
                "the budget file %s is used with a rate of %g here and of %g in another process: make them one",
                self.path,
                self._limit,
                limit,
            )


def default_budget_file(name: str) -> Path:
    """The file of this user for a budget of that name; its directory is created, and is no other user's.

    Raises:
        OSError: there is no such directory.
    """
    if not hasattr(os, "getuid"):
        raise OSError(errno.ENOSYS, "this system has no such directory")
    user = os.getuid()
    for runtime in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}"):
        if runtime and os.path.isdir(runtime) and os.stat(runtime).st_uid == user:  # noqa: PTH112, PTH116  a str
            directory = Path(runtime, "rongcloud-groups")
            break
    else:
        from tempfile import gettempdir  # brings modules that nothing else here needs

        directory = Path(gettempdir(), f"rongcloud-groups-{user}")
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, f"{directory} can be changed by another user")
    return directory / f"{sha256(name.encode()).hexdigest()[:16]}.budget"


def _record(name: bytes, schedule: SlotSchedule, limit: float) -> bytes:
    counts = len(schedule.sent), len(schedule.reserved)
    numbers = (getattr(schedule, name) for name in STATE)
    header = HEADER.pack(MARK, VERSION, _boot_id(), name, *counts, limit, *numbers)
    owners = array("q", (schedule.owners.get(slot, 0) for slot in schedule.reserved))
    return header + schedule.sent.tobytes() + schedule.reserved.tobytes() + owners.tobytes()


def _schedule(record: bytes, limit: float, now: float) -> SlotSchedule | None:
    """The schedule in a record; None where it is damaged, or not of this machine's clock."""
    if len(record) < HEADER.size:
        return None
    _, version, boot_id, _, sent, reserved, _, *numbers = HEADER.unpack_from(record)
    end = HEADER.size + 8 * (sent + 2 * reserved)
    complete = 0 <= sent <= MAX_HISTORY and 0 <= reserved <= MAX_RESERVED and end <= len(record)
    if version != VERSION or boot_id != _boot_id() or not complete:
        return None
    times = array("d", record[HEADER.size : end - 8 * reserved])
    schedule = SlotSchedule(limit, jitter=HOST_JITTER, sent=times[:sent], **dict(zip(STATE, numbers, strict=True)))
    schedule.reserved = times[sent:]
    schedule.owners = dict(zip(schedule.reserved, array("q", record[end - 8 * reserved : end]), strict=True))
    return schedule if _is_possible(schedule, now) else None


def _is_possible(schedule: SlotSchedule, now: float) -> bool:
    """Whether this can have been written at this time or before, and makes no process wait for longer than it must."""
    longest_gap = (schedule.window.seconds + 1) / schedule.window.requests / MIN_SHARE
    last_slot = max(now, schedule.paused_until) + QUIET_PERIOD + (len(schedule.reserved) + 1) * longest_gap
    return (
        all(time <= now for time in schedule.sent)
        and schedule.paused_until <= now + MAX_PAUSE + PAUSE_JITTER
        and all(slot <= last_slot for slot in (*schedule.reserved, schedule.next_slot))
        and -MAX_PAUSE <= schedule.cut_at <= now
        and 0 <= schedule.cut_from < inf
        and 0 <= schedule.late <= MAX_LATE
        and 0 <= schedule.late_at <= now
    )


@cache
def _boot_id() -> bytes:
    """Sixteen bytes that change when the machine is started, where the system tells them."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return bytes.fromhex(text.replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def _explained(error: OSError) -> str:
    if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}:
        return f"its file system has no locks ({error.strerror}); name a file on a local disk, or use RedisLimiter"
    if error.errno == errno.ELOOP:
        return "it is a symbolic link; name the file itself"
    return error.strerror or str(error)

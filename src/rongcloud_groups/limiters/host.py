"""HostLimiter: the processes of one machine share a budget through a file."""

import os
import struct
from array import array
from asyncio import Lock, sleep
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from rongcloud_groups._validation import positive
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.events import logger
from rongcloud_groups.limiters.schedule import (
    HOST_JITTER,
    MAX_HISTORY,
    MAX_LATE,
    MAX_RESERVED,
    QUIET_PERIOD,
    SlotSchedule,
)
from rongcloud_groups.limiters.throttle import MAX_PAUSE

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows
    fcntl = None  # type: ignore[assignment]

HEADER = struct.Struct("<8s2q6d")
MAX_RECORD = HEADER.size + 8 * (MAX_HISTORY + MAX_RESERVED)
MARK = b"rcslots2"
MAX_DAMAGED = 16_384
"""Bytes; a larger file is somebody's, not a damaged budget."""
LOCK_RETRY = 0.0005
"""Seconds until a lock that another process holds is tried again; it is held for microseconds."""
FILE_RETRY = 0.1
"""Seconds until a file that cannot be used is tried again."""

_Result = TypeVar("_Result")


class HostLimiter:
    """A budget that all processes of one machine share, if each of them names the same file.

    Each request gets a send time of its own, whichever process sends it, such that no second has more than the limit.
    The file remembers when the latest ones left. It is created where there is none, and may be deleted at any time
    (nothing leaves for 1.6 s then, as after a reboot). A process that dies leaves nothing locked. The file must be on
    a local file system. Windows has no such locks: use `RedisLimiter` there.

    Args:
        path: the file.
        limit: requests/s that the service allows to all of them together; the same in each process.

    Raises:
        ConfigError: the limit is not a positive number, or the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], limit: float = 100.0) -> None:
        if fcntl is None:
            raise ConfigError("HostLimiter needs flock, which this system does not have; use RedisLimiter")
        self._limit = self._rate = positive("rate", limit)
        self._path = Path(path).expanduser().absolute()
        self._door = Lock()
        self._slot: float | None = None
        self._complained = False
        self._check_file()

    @property
    def rate(self) -> float:
        """Requests/s that all processes together may send now, as far as this one knows."""
        return self._rate

    async def acquire(self) -> None:
        """Wait until one request may leave."""
        async with self._door:
            while not await self._wait_for_slot():
                pass

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Pause all processes, cut the rate once for all of them, and climb back on a cubic curve."""

        def refused(budget: Budget, now: float) -> float:
            budget.refused(now, retry_after, age)
            self._rate = budget.rate(now)
            return max(0.0, budget.paused_until - now)

        return await self._locked(refused)

    async def aclose(self) -> None:
        """Nothing is open between two requests; this is here so that every shared limiter can be closed."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"HostLimiter({str(self._path)!r}, {self._limit:g}, rate={self._rate:.1f})"

    async def _wait_for_slot(self) -> bool:
        # A slot whose wait was cancelled is still here, for whoever comes next.
        if self._slot is None:
            reserved, left = await self._locked(self._reserve)
            if left:
                return True
            self._slot = reserved
        slot = self._slot
        while (wait := slot - monotonic()) > 0:  # noqa: ASYNC110  a timer may be early
            await sleep(wait)
        self._slot = None
        return await self._locked(lambda budget, now: budget.use(slot, now))

    def _reserve(self, budget: "Budget", now: float) -> tuple[float, bool]:
        """A slot, and whether a request leaves with it at once: to come back for that could take too long."""
        self._rate = budget.rate(now)
        slot = budget.reserve(now)
        return slot, slot <= now and budget.use(slot, now)

    async def _locked(self, step: Callable[["Budget", float], _Result]) -> _Result:
        """Let ``step`` read and change the budget while no other process does."""
        while True:
            try:
                result = self._under_lock(step)
            except BlockingIOError:
                await sleep(LOCK_RETRY)
            except OSError as error:
                self._warn_once(error)
                await sleep(FILE_RETRY)
            else:
                self._complained = False
                return result

    def _under_lock(self, step: Callable[["Budget", float], _Result]) -> _Result:
        file = self._open()  # each time anew: it may have been deleted, or this process forked
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = monotonic()
            budget = Budget.read(os.pread(file, MAX_RECORD, 0), self._limit, now)
            result = step(budget, now)
            os.pwrite(file, budget.record(), 0)
            return result
        finally:
            os.close(file)  # and with it the lock, as when the process dies

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)

    def _check_file(self) -> None:
        try:
            file = self._open()
        except OSError as error:
            raise ConfigError(f"the budget file {self._path} cannot be used: {error.strerror}") from None
        try:
            status = os.fstat(file)
        finally:
            os.close(file)
        if not S_ISREG(status.st_mode) or status.st_size > MAX_DAMAGED:
            raise ConfigError(f"{self._path} is not a budget file: name a file that does not exist yet")

    def _warn_once(self, error: OSError) -> None:
        if not self._complained:
            logger.warning("the budget file %s cannot be used (%s): nothing leaves until it can", self._path, error)
        self._complained = True


class Budget(SlotSchedule):
    """A schedule that a file holds; times are of the clock that all processes share since the machine was started."""

    def __init__(self, limit: float, next_slot: float, **others: Any) -> None:
        super().__init__(limit, jitter=HOST_JITTER, next_slot=next_slot, **others)

    @classmethod
    def read(cls, record: bytes, limit: float, now: float) -> Self:
        """The budget that a record holds; a silent one where it is damaged, or from before a reboot."""
        if len(record) >= HEADER.size:
            mark, sent, reserved, next_slot, late, late_at, paused_until, cut_at, cut_from = HEADER.unpack_from(record)
            if (
                mark == MARK
                and 0 <= sent <= MAX_HISTORY
                and 0 <= reserved <= MAX_RESERVED
                and sent + reserved <= (len(record) - HEADER.size) // 8
            ):
                times = array("d", record[HEADER.size : HEADER.size + 8 * (sent + reserved)])
                budget = cls(
                    limit,
                    next_slot,
                    sent=times[:sent],
                    reserved=times[sent:],
                    late=late,
                    late_at=late_at,
                    paused_until=paused_until,
                    cut_at=cut_at,
                    cut_from=min(cut_from, limit),
                )
                if budget.is_of_this_clock(now):
                    return budget
        return cls(limit, now + QUIET_PERIOD)

    def record(self) -> bytes:
        """What the file is to hold."""
        header = HEADER.pack(
            MARK,
            len(self.sent),
            len(self.reserved),
            self.next_slot,
            self.late,
            self.late_at,
            self.paused_until,
            self.cut_at,
            self.cut_from,
        )
        return header + self.sent.tobytes() + self.reserved.tobytes()

    def is_of_this_clock(self, now: float) -> bool:
        """Whether this can have been written since the machine was started."""
        latest = now + 2 * MAX_PAUSE
        numbers = (self.next_slot, self.late, self.late_at, self.paused_until, self.cut_at, self.cut_from)
        return (
            all(map(isfinite, numbers))
            and self.next_slot <= latest
            and self.paused_until <= latest
            and -MAX_PAUSE <= self.cut_at <= now
            and 0 <= self.late <= MAX_LATE
            and 0 <= self.late_at <= now
            and self.cut_from >= 0
            and all(time <= now for time in self.sent)
            and all(slot <= latest for slot in self.reserved)
        )

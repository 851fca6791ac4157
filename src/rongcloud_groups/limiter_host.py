"""HostLimiter: the processes of one machine share a budget through a file."""

import os
import struct
from asyncio import Lock, sleep
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from time import monotonic
from types import TracebackType
from typing import Self

from rongcloud_groups.config import positive
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.events import logger
from rongcloud_groups.limiter import LATE, LONGEST_PAUSE, SILENCE, Throttle, slot_gap

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows
    fcntl = None  # type: ignore[assignment]

RECORD = struct.Struct("<8s4d")
MARK = b"rcslots1"
LARGEST_DAMAGE = 4096
"""Bytes; a larger file is somebody's, not a damaged budget."""
LOCK_RETRY = 0.0005
"""Seconds until a lock that another process holds is tried again; it is held for microseconds."""
FILE_RETRY = 0.1
"""Seconds until a file that cannot be used is tried again."""


class HostLimiter:
    """A budget that all processes of one machine share, if each of them names the same file.

    Each request gets a send time of its own, 1 / rate after the one before, whichever process took that. The file
    holds only the next free one; it is created where there is none, and may be deleted at any time (nothing leaves
    for 1.6 s then, as after a reboot). A process that dies leaves nothing locked. The file must be on a local file
    system. Windows has no such locks: use `RedisLimiter` there.

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
            while not await self._came_in_time():
                pass

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Pause all processes, cut the rate once for all of them, and climb back on a cubic curve."""

        def refused(budget: Budget, now: float) -> float:
            budget.refused(now, budget.rate(now), retry_after, age)
            self._rate = budget.rate(now)
            return max(0.0, budget.paused_until - now)

        return await self._in_turn(refused)

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

    async def _came_in_time(self) -> bool:
        # A slot whose wait was cancelled is still here, for whoever comes next.
        if self._slot is None:
            self._slot = await self._in_turn(self._reserve)
        await sleep(max(0.0, self._slot - monotonic()))
        slot, self._slot = self._slot, None
        return bool(await self._in_turn(lambda budget, now: budget.let_go(slot, now)))

    def _reserve(self, budget: "Budget", now: float) -> float:
        self._rate = budget.rate(now)
        return budget.reserve(now)

    async def _in_turn(self, step: Callable[["Budget", float], float]) -> float:
        """Let ``step`` read and change the budget while no other process does."""
        while True:
            try:
                result = self._under_lock(step)
            except BlockingIOError:
                await sleep(LOCK_RETRY)
            except OSError as error:
                self._complain(error)
                await sleep(FILE_RETRY)
            else:
                self._complained = False
                return result

    def _under_lock(self, step: Callable[["Budget", float], float]) -> float:
        file = self._open()  # each time anew: it may have been deleted, or this process forked
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = monotonic()
            budget = Budget.read(os.pread(file, RECORD.size, 0), self._limit, now)
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
        if not S_ISREG(status.st_mode) or status.st_size > LARGEST_DAMAGE:
            raise ConfigError(f"{self._path} is not a budget file: name a file that does not exist yet")

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            logger.warning("the budget file %s cannot be used (%s): nothing leaves until it can", self._path, error)
        self._complained = True


class Budget(Throttle):
    """What the file holds; times are of the clock that all processes of a machine share since it was started.

    Args:
        limit: requests/s that the service allows.
        next_slot: the next free send time.
        **throttle: see `Throttle`.
    """

    def __init__(self, limit: float, next_slot: float, **throttle: float) -> None:
        super().__init__(limit, **throttle)
        self.next_slot = next_slot

    @classmethod
    def read(cls, record: bytes, limit: float, now: float) -> Self:
        """The budget that a record holds; a silent one where it is damaged, or from before a reboot."""
        if len(record) == RECORD.size:
            mark, next_slot, paused_until, cut_at, cut_from = RECORD.unpack(record)
            budget = cls(limit, next_slot, paused_until=paused_until, cut_at=cut_at, cut_from=min(cut_from, limit))
            if mark == MARK and budget.is_of_this_clock(now):
                return budget
        return cls(limit, now + SILENCE)

    def record(self) -> bytes:
        """What the file is to hold."""
        return RECORD.pack(MARK, self.next_slot, self.paused_until, self.cut_at, self.cut_from)

    def reserve(self, now: float) -> float:
        """Take the next free slot."""
        slot = max(now, self.next_slot, self.paused_until)
        self.next_slot = slot + slot_gap(self.rate(now))
        return slot

    def let_go(self, slot: float, now: float) -> bool:
        """Whether a request may leave now that has this slot; if it is late, the free slots move, see `slot_gap`."""
        over = max(0.0, now - slot - LATE)
        if slot < self.paused_until or over >= slot_gap(self.rate(now)):
            return False
        self.next_slot += over
        return True

    def is_of_this_clock(self, now: float) -> bool:
        """Whether this can have been written since the machine was started."""
        latest = now + 2 * LONGEST_PAUSE
        return (
            all(map(isfinite, (self.next_slot, self.paused_until, self.cut_at, self.cut_from)))
            and self.next_slot <= latest
            and self.paused_until <= latest
            and -LONGEST_PAUSE <= self.cut_at <= now
            and self.cut_from >= 0
        )

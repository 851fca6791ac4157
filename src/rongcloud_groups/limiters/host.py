"""HostLimiter: the processes of one machine share a budget through a file."""

import logging
import os
from asyncio import sleep
from collections.abc import Callable
from contextlib import suppress
from random import uniform
from time import monotonic
from typing import TypeVar

from rongcloud_groups.limiters.budget_file import BudgetFile
from rongcloud_groups.limiters.interface import Shared
from rongcloud_groups.limiters.schedule import WAKE_UP_SLACK, SlotSchedule, Window

logger = logging.getLogger(__name__)

LOCK_RETRY = 0.0005  # seconds until a lock of another process is tried again; it is held for microseconds, or for long
MAX_RETRY = 0.1  # upper bound of that wait, in seconds
WARN_AFTER = 1.0  # seconds without the file until that is logged

_Result = TypeVar("_Result")


class HostLimiter(Shared):
    """A budget that all processes of one machine share, if each of them names the same file.

    Each request gets its own send time, whichever process sends it, so that no second has more than the limit;
    the law is in `limiters.schedule`. The file remembers when the latest requests left. It is created where there is
    none, with the group's permission to write where the directory has that. It may be deleted: nothing leaves for 1.6 s
    then, as after a reboot. A process that dies leaves nothing locked, and its slot to the others. The file must be on
    a local file system. Windows has no such locks: use `RedisLimiter` there.

    More than about 90 processes that always have work use 91 % of the limit: while one waits for its slot, the others
    allow for its being `MAX_LATE` late.

    One limiter may serve several clients, also of event loops that run one after the other, and after a fork.

    Args:
        path: the file; one that exists must be empty or such a file, and is not reached through a symbolic link.
        limit: requests/s that the service allows to all of them together; the same in each process. Of a fraction only
            whole requests are used.

    Raises:
        ConfigError: the limit is not a positive number, or the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], limit: float = 100.0) -> None:
        super().__init__()
        self._limit = self._rate = Window.of(limit).rate
        self._file = BudgetFile(path, self._limit)
        self._slot: float | None = None
        self._granted = (0.0, 0.0)  # the slot of the request that left last, and when it was allowed to leave
        self._late_sends: list[tuple[float, float, float]] = []  # the same, and when they left

    @property
    def rate(self) -> float:
        """Requests/s that all processes together may send now, as far as this one knows."""
        return self._rate

    async def acquire(self) -> None:
        """Wait until one request may leave.

        Raises:
            ClientClosed: another event loop is using the limiter.
        """
        async with self._bind():
            while not await self._take():
                pass

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Pause all processes, cut the rate once for all of them, and climb back on a cubic curve."""
        refused_at = monotonic() - age

        def refuse(schedule: SlotSchedule, now: float) -> float:
            schedule.refused(now, retry_after, now - refused_at)
            self._rate = schedule.rate(now)
            return max(0.0, schedule.paused_until - now)

        return await self._update(refuse)

    def sent(self) -> None:
        """See `SendObserver`."""
        now = monotonic()
        if now - self._granted[1] > WAKE_UP_SLACK:
            self._late_sends.append((*self._granted, now))
            with suppress(OSError):  # else with the next request
                self._file.update(self._correct)

    def __repr__(self) -> str:
        return f"HostLimiter({str(self._file.path)!r}, {self._limit:g}, rate={self._rate:.1f})"

    async def _take(self) -> bool:
        """Wait for a slot; False where it came too late."""
        if self._slot is None:
            slot, used = await self._update(self._reserve)
            if used:
                return True
            self._slot = slot
        # A slot whose wait was cancelled is still here for the next caller.
        slot = self._slot
        while (wait := slot - monotonic()) > 0:  # noqa: ASYNC110  a timer may be early
            await sleep(wait)
        self._slot = None
        return await self._update(lambda schedule, now: self._use(schedule, slot, now))

    def _reserve(self, schedule: SlotSchedule, now: float) -> tuple[float, bool]:
        """A slot, and whether a request leaves with it at once: to come back for that could take too long."""
        self._correct(schedule, now)
        self._rate = schedule.rate(now)
        slot = schedule.reserve(now, owner=os.getpid(), is_gone=_is_gone)
        return slot, slot <= now and self._use(schedule, slot, now)

    def _use(self, schedule: SlotSchedule, slot: float, now: float) -> bool:
        self._granted = slot, now
        return schedule.use(slot, now)

    def _correct(self, schedule: SlotSchedule, _: float) -> None:
        while self._late_sends:
            schedule.left_later(*self._late_sends.pop())

    def _start_over(self) -> None:
        self._slot = None

    async def _update(self, change: Callable[[SlotSchedule, float], _Result]) -> _Result:
        retry, began_at, warned = LOCK_RETRY, monotonic(), False
        while True:
            try:
                return self._file.update(change)
            except OSError as error:
                locked = isinstance(error, BlockingIOError)
                if not warned and (not locked or monotonic() - began_at >= WARN_AFTER):
                    warned = True
                    logger.warning(
                        "the budget file %s cannot be used (%s): nothing leaves until it can",
                        self._file.path,
                        "another process holds its lock" if locked else error.strerror,
                    )
            await sleep(uniform(0.5, 1.0) * retry)
            retry = min(2 * retry, MAX_RETRY)


def _is_gone(process: int) -> bool:
    """Whether this machine, or this container, has no process of that number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # another user's
    return False

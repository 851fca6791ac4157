"""RedisLimiter: processes of many machines share a budget through Redis or Valkey. Needs the extra ``redis``."""

from asyncio import Lock, sleep
from contextlib import suppress
from logging import getLogger
from math import inf
from random import random
from time import monotonic

import anyio
from redis.exceptions import RedisError

from rongcloud_groups._validation import positive
from rongcloud_groups.errors import ClientClosed, ConfigError
from rongcloud_groups.limiters.interface import Shared
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.limiters.redis_connection import RedisConnection
from rongcloud_groups.limiters.redis_slots import RedisSlots
from rongcloud_groups.limiters.schedule import QUIET_PERIOD, Window

DEFAULT_SHARE = 0.05  # of the limit, for each process while Redis is away: right for twenty processes or fewer
FALLBACK_MARGIN = 0.9  # part of that share that is used
ROUNDING = 1e-9  # part of a request by which the product of a share and the number of processes may be off
PROBE_INTERVAL = 1.0  # seconds between two attempts to reach a Redis that was away

logger = getLogger(__name__)


class RedisLimiter(Shared):
    """A budget that processes of many machines share, if each of them names the same Redis and the same App Key.

    Each request gets its own send time on Redis's clock, whichever process sends it, so that no second has more
    than the limit; Redis remembers when the latest ones left. A busy process reserves them ahead, as many as its calls
    to Redis take time. A process that is killed near Redis costs the others about one request. Works on Redis 6.2 and
    later and on Valkey, over TCP, TLS and Unix sockets; not with Sentinel or Cluster URLs.

    Redis's clock should be slewed and not stepped, and its keys must not be evicted: a round trip that takes a few
    milliseconds more one way than the other, or lost keys, can let a request or more over the limit.

    While Redis is away, or takes longer than 0.5 s to answer, the process pauses for 1.6 s, then sends at nine tenths
    of its ``share`` of the limit, or nothing where its share is less than one request a second, and pauses for 1.6 s
    again when Redis is back: the sum never exceeds the limit as long as ``share`` times the number of processes is at
    most 1 and Redis is away for all of them.

    One limiter may serve several clients, also of event loops that run one after the other.

    Args:
        url: ``redis://USER:PASSWORD@HOST:PORT/DATABASE``, ``rediss://…`` or ``unix://…``, as redis-py reads it.
        app_key: the App Key whose budget it is.
        limit: requests/s that the service allows to all processes together; the same in each of them.
        share: the part of the limit that this process may use while Redis is away: 1 / the number of processes. Where
            it comes to less than one request a second, nothing leaves then.

    Attributes:
        key: where Redis keeps the budget; three more keys begin with it.

    Raises:
        ConfigError: an argument cannot be used; the message names it.
    """

    def __init__(self, url: str, *, app_key: str, limit: float = 100.0, share: float = DEFAULT_SHARE) -> None:
        super().__init__()
        self._limit = positive("rate", limit)
        self._connection = RedisConnection(url)
        self.key = f"rongcloud-groups:{{{app_key}}}:budget"
        self._slots = RedisSlots(self._connection, self.key, self._limit)
        self._share = fallback_limit(self._limit, validated_share(share))
        self._local = LocalLimiter(self._share or self._limit)
        self._refusals = Lock()
        self._opened = self._closed = self._away = False
        self._quiet_until = self._probe_at = -inf

    @property
    def rate(self) -> float:
        """Requests/s that all processes together may send now, or this one alone while Redis is away."""
        if self._away:
            return self._local.rate if self._share else 0.0
        return self._slots.rate

    async def open(self) -> None:
        """Connect, and check that Redis can keep the budget. `acquire` does so where it was not done before.

        A Redis that cannot be reached is no error: it may come back.

        Raises:
            ConfigError: Redis refuses the user or password, denies a permission, or is none that can keep a budget.
            ClientClosed: the limiter is closed, or another event loop is using it.
        """
        async with self._usable():
            await self._open()

    async def acquire(self) -> None:
        """Wait until one request may leave.

        Raises:
            ConfigError, ClientClosed: see `open`.
        """
        async with self._usable():
            await self._open()
            while True:
                if (quiet := self._quiet_until - monotonic()) > 0:
                    await sleep(quiet)
                if await (self._acquire_fallback() if self._away else self._acquire_slot()):
                    return

    def sent(self) -> None:
        """See `SendObserver`."""
        if self._away:
            self._local.sent()
        else:
            self._slots.sent()

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """Pause all processes, cut the rate once for all of them, and climb back on a cubic curve.

        Raises:
            ClientClosed: see `open`.
        """
        self._usable()
        refused_at = monotonic() - age
        async with self._refusals:
            if not self._away:
                with suppress(RedisError, OSError):  # `acquire` will find out as well
                    return await self._slots.report_refusal(retry_after, monotonic() - refused_at)
            pause = await self._local.throttle(retry_after, monotonic() - refused_at)
            self._slots.pause(pause)
            return pause

    async def aclose(self) -> None:
        """Give back the slots that were not used, and close the connection to Redis.

        Raises:
            ClientClosed: another event loop is using the limiter.
        """
        if self._closed:
            return
        self._usable()
        self._closed = True
        if self._opened and not self._away:
            await self._slots.aclose()
        await self._connection.aclose()

    def __repr__(self) -> str:
        away = ", away" if self._away else ""
        return f"<RedisLimiter at {self._connection.name}, {self._limit:g}, rate={self.rate:.1f}{away}>"

    def _usable(self) -> Lock:
        turn = self._bind()
        if self._closed:
            raise ClientClosed("the RedisLimiter is closed: make another one")
        return turn

    def _start_over(self) -> None:
        self._refusals = Lock()
        self._connection.restart_thread()
        self._slots.abandon_call()

    async def _open(self) -> None:
        if self._opened:
            return
        try:
            await self._slots.connect()
        except (RedisError, OSError) as error:
            if reason := self._connection.misconfiguration(error):
                await self._connection.disconnect()
                raise ConfigError(f"Redis at {self._connection.name} {reason}") from None
            self._enter_fallback(error)
        self._opened = True

    async def _acquire_slot(self) -> bool:
        try:
            await self._slots.acquire()
        except (RedisError, OSError) as error:
            self._enter_fallback(error)
            return False
        return True

    def _enter_fallback(self, error: Exception) -> None:
        self._slots.forget()
        self._quiet_until = monotonic() + QUIET_PERIOD + random() / self._local.rate  # not all in the same moment
        self._probe_at = monotonic() + PROBE_INTERVAL
        if not self._away:
            self._away = True
            logger.warning(
                "Redis at %s cannot hand out the budget (%s): until it can, this process's share is %s",
                self._connection.name,
                self._connection.describe(error),
                f"{self._local.rate:.1f} requests/s" if self._share else "less than one request, and nothing leaves",
            )

    async def _acquire_fallback(self) -> bool:
        """Check now and then whether Redis is back; else wait for this process's share. True where that came."""
        if monotonic() >= self._probe_at:
            self._probe_at = monotonic() + PROBE_INTERVAL
            self._slots.start_call(0)
        if self._slots.has_reply:
            with suppress(RedisError, OSError):
                await self._slots.connect()
                self._away = False
                self._quiet_until = monotonic() + QUIET_PERIOD
                logger.warning("Redis at %s hands out the budget again", self._connection.name)
                return False
        with anyio.move_on_after(PROBE_INTERVAL):
            await (self._local.acquire() if self._share else anyio.sleep_forever())
            return True
        return False


def fallback_limit(limit: float, share: float) -> float:
    """Requests/s that a process may send while Redis is away.

    Of processes that know nothing of each other, each may send its first request in the same second as the others. So
    each may send only as many in a window as its part of the window has whole ones: 0, where that is less than one.
    """
    part = Window.of(limit, max_requests=inf).requests * share
    if part < 1 - ROUNDING:
        return 0.0
    return min(limit, max(1.0, FALLBACK_MARGIN * part))


def validated_share(share: float | str) -> float:
    """The share of a process as a number; a `ConfigError` where it is no part of a whole."""
    with suppress(ValueError, TypeError):
        if not isinstance(share, bool) and 0 < float(share) <= 1:
            return float(share)
    raise ConfigError(
        f"share is {share!r}; give the part of the limit that this process may use while Redis is away, "
        "1 / the number of processes"
    )

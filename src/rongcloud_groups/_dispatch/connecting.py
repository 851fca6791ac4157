"""The wait for a connection, through an outage."""

import logging
from asyncio import get_running_loop, sleep, timeout
from contextlib import suppress
from typing import Final, NoReturn

from rongcloud_groups._dispatch.retry import RetryPolicy
from rongcloud_groups._transport.containment import contained
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups.errors import TransportError
from rongcloud_groups.events import logger

KEEP_CHECK: Final = 0.5
"""Seconds between looks at a connection that is kept ready."""
MIN_UNUSABLE: Final = 2
"""Connections in a row that take no request before a lookup fails: any server, or a failover, may close one."""


class ConnectionWait:
    """Waits for a connection that can take a request; counts setbacks in a row, until `reset`.

    An outage, in which no connection can be opened, is bounded by `RetryPolicy.outage_timeout`. Connections that open
    and then take no request are bounded by `RetryPolicy.max_attempts`.
    """

    def __init__(self, failover: Failover, policy: RetryPolicy) -> None:
        self._failover = failover
        self._policy = policy
        self.reset()

    def reset(self) -> None:
        """A request was sent, or none is waiting."""
        self._since: float | None = None
        self._setbacks = self._unusable = 0
        self._error: TransportError | None = None

    @property
    def in_outage(self) -> bool:
        """Whether a connection failed, and none has taken a request since."""
        return self._setbacks > 0

    async def step(self, *, busy: bool) -> bool:
        """Wait for a connection; False where there is none yet, after backing off.

        Args:
            busy: requests are in flight; they end the wait for a free slot.

        Raises:
            TransportError: it has taken too long, or failed too often.
        """
        now = get_running_loop().time()
        if self._since is None or busy:
            self._since = now
        left = self._since + self._policy.outage_timeout - now
        seconds = max(0.0, min(self._policy.attempt_timeout * (self._policy.origins + 0.5), left))  # each in turn
        try:
            async with timeout(seconds):
                with contained(TransportError, "connecting"):
                    await self._failover.ready()
        except TimeoutError:
            if not busy:
                late = TransportError(f"no connection to {self._failover.host} within {seconds:g} s")
                await self._set_back(self._error or late, outage=True)
            return False
        except TransportError as error:
            await self._set_back(error, outage=self._policy.is_outage(error))
            return False
        return True

    async def keep(self) -> NoReturn:
        """Open another connection whenever the last one closes, until cancelled."""
        while True:
            with suppress(TransportError), contained(TransportError, "connecting"):
                await self._failover.ready()
            await sleep(KEEP_CHECK)

    async def wasted(self) -> None:
        """Back off: the connection closed while its request waited for a token.

        Raises:
            TransportError: it has happened too often.
        """
        error = TransportError("the connection closed before the request could be sent", never_processed=True)
        await self._set_back(error, outage=False)

    async def _set_back(self, error: TransportError, *, outage: bool) -> None:
        clock = get_running_loop().time
        if self._since is None:
            self._since = clock()
        ends_at = self._since + self._policy.outage_timeout
        self._error = error
        self._setbacks += 1
        self._unusable += not outage
        if self._unusable >= max(MIN_UNUSABLE, self._policy.max_attempts):
            self.reset()
            raise error
        if clock() >= ends_at:
            self.reset()
            text = f"no host could be reached for {self._policy.outage_timeout:g} s: {error}"
            raise TransportError(text, never_processed=True) from error
        if self._setbacks == 1:
            level = logging.WARNING if outage else logging.INFO  # a server may close any connection
            logger.log(level, "%s; retrying for up to %g s", error, self._policy.outage_timeout)
        await sleep(max(0.0, min(self._policy.back_off(self._setbacks), ends_at - clock())))

"""Which origin requests go to: the primary, or a backup until the primary responds again."""

import logging
from asyncio import Event, Future, Lock, get_running_loop
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import anyio
from anyio.abc import TaskGroup

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.interface import Connection, Connector
from rongcloud_groups._transport.pool import ConnectionPool
from rongcloud_groups.errors import RongCloudError, ServerError, ServiceError, TransportError
from rongcloud_groups.events import Emitter, HostSwitched

PROBE_AFTER: Final = 60.0
"""Seconds from a switch to a backup, or from the last probe, until one request probes the primary."""

_MISDIRECTED: Final = 421  # a new connection may lead to the right host; RFC 9110, section 15.5.20

_logger = logging.getLogger(__name__)


class Failover:
    """One pool an origin, and requests sent to one of them.

    An origin that fails is left for the next one at once, and the primary is probed every `PROBE_AFTER` seconds.

    Args:
        origins: the primary, then its backups; the other arguments are those of `ConnectionPool`.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        connector: Connector,
        emit: Emitter,
        *,
        requests_per_connection: int | None,
        max_in_flight: int,
    ) -> None:
        self._changed = Event()
        self._pools = [
            ConnectionPool(
                origin=origin,
                connector=connector,
                emit=emit,
                on_change=self._changed.set,
                on_unreachable=self._on_unreachable,
                requests_per_connection=requests_per_connection,
                max_in_flight=max_in_flight,
            )
            for origin in origins
        ]
        self._primary = self._pool = self._pools[0]
        self._pool.active = True
        self._emit = emit
        self._probe: Connection | None = None
        self._probe_at = float("inf")
        self._unreachable: set[ConnectionPool] = set()
        self._failure: TransportError | None = None
        self._waiting = Lock()
        self._tasks: TaskGroup | None = None
        self.switches = 0

    def __repr__(self) -> str:
        return f"<Failover to {self.host}, {self.switches} switches: {self._pools!r}>"

    @property
    def host(self) -> str:
        return self._pool.host

    @property
    def opened(self) -> int:
        return sum(pool.opened for pool in self._pools)

    async def run(self) -> None:
        """Run the pools until cancelled; they close all connections then."""
        try:
            async with anyio.create_task_group() as self._tasks:
                for pool in self._pools:
                    self._tasks.start_soon(pool.run)
        finally:
            self._tasks = None

    def pick(self) -> Connection | None:
        """A connection that can take a request in this very step."""
        if self._probe is not None and self._probe.open_slots:
            return self._probe
        return self._pool.pick()

    def send(self, connection: Connection, request: Request, timeout: float) -> Future[Response]:
        """Send at once on a connection that `pick` has just returned; see `Connection.send`."""
        future = connection.send(request, timeout)
        if connection.pool is not None:
            connection.pool.on_sent(connection)
        if connection is self._probe:
            self._probe = None
        if self._tasks is not None and get_running_loop().time() >= self._probe_at:
            self._schedule_probe()
            self._tasks.start_soon(self._open_probe)
        return future

    async def ready(self) -> None:
        """Wait until `pick` has a connection.

        Raises:
            TransportError: no origin could be reached; the next call tries them all again.
        """
        if self.pick() is not None:
            return
        async with self._waiting:
            self._failure = None
            self._unreachable.clear()
            self._pool.wanted = True
            try:
                while self.pick() is None:
                    if self._failure is not None:
                        raise self._failure
                    self._changed.clear()
                    self._pool.open_where_needed()
                    with anyio.CancelScope(deadline=self._pool.next_deadline):
                        await self._changed.wait()
            finally:
                self._pool.wanted = False

    def failed(self, connection: Connection, error: RongCloudError) -> None:
        """Report a request that failed; fail over to the next origin if the error suggests that the host is down."""
        if connection.pool is None or self._tasks is None:
            return
        if isinstance(error, ServerError) or (isinstance(error, TransportError) and not error.never_processed):
            if connection.pool is self._pool:
                self._switch_to_next(str(error))
            else:
                connection.detach(f"probe failed: {error}")
        elif isinstance(error, ServiceError):
            self.succeeded(connection)
            if error.status == _MISDIRECTED:
                connection.retire("misdirected request")

    def succeeded(self, connection: Connection) -> None:
        """Report a response; if it is the probe's, go back to the primary."""
        if connection.pool is self._primary and self._pool is not self._primary:
            self._switch_to(self._primary, "it responds again")

    def _on_unreachable(self, error: TransportError) -> None:
        self._unreachable.add(self._pool)
        if len(self._unreachable) == len(self._pools):
            self._failure = error
            self._pool.wanted = False
        self._switch_to_next(str(error))

    def _switch_to_next(self, reason: str) -> None:
        if len(self._pools) > 1:
            self._switch_to(self._pools[(self._pools.index(self._pool) + 1) % len(self._pools)], reason)

    def _switch_to(self, pool: ConnectionPool, reason: str) -> None:
        old, self._pool = self._pool, pool
        wanted = old.wanted
        self.switches += 1
        self._schedule_probe()
        old.deactivate(f"switched to {pool.host}")
        _logger.warning("requests go to %s instead of %s from now on: %s", pool.host, old.host, reason)
        if self._emit:
            self._emit(HostSwitched(old.host, pool.host, reason))
        pool.activate(wanted=wanted)  # last: where its connections are closed, it switches again

    def _schedule_probe(self) -> None:
        on_backup = self._pool is not self._primary
        self._probe_at = get_running_loop().time() + PROBE_AFTER if on_backup else float("inf")

    async def _open_probe(self) -> None:
        with suppress(TransportError):
            probe = await self._primary.connect()
            self._probe = None if self._pool is self._primary else probe
            self._changed.set()

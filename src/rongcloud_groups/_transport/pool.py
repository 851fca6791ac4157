"""The connections to one origin: ready, spare, or retiring."""

import logging
from asyncio import Future, get_running_loop
from collections import deque
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.interface import Connection, Connector
from rongcloud_groups.errors import TransportError
from rongcloud_groups.events import ConnectFailed, ConnectionOpened, ConnectionRetired, Emitter

MAX_CONNECTIONS: Final = 8
"""HTTP/2 connections to one origin at most, however few streams each allows."""
PACE_WINDOW: Final = 20
"""Requests over which the present pace is measured."""
SPARE_PAUSE: Final = 1.0
"""Seconds until a spare is tried again after a connection could not be opened."""
MAX_BACK_OFF: Final = 5.0
"""Seconds at most between connections that close before they carry a request."""

_logger = logging.getLogger(__name__)


class PoolObserver(Protocol):
    """Receives the events of a pool; `Failover` is one."""

    def on_change(self) -> None:
        """A connection became ready, or was lost."""

    def on_sent(self, connection: "PooledConnection") -> None:
        """A request was sent on this connection."""

    def on_unreachable(self, pool: "ConnectionPool", error: TransportError) -> None:
        """The pool has no usable connection, for this reason."""


class PooledConnection:
    """One connection, and how many more requests it may take."""

    __slots__ = ("_max_requests", "connection", "detached", "idle_since", "pool", "retired_reason")

    def __init__(self, pool: "ConnectionPool", connection: Connection, max_requests: float, now: float) -> None:
        self.pool = pool
        self.connection = connection
        self.idle_since: float | None = now
        self.retired_reason = ""
        self.detached = False
        self._max_requests = max_requests

    @property
    def host(self) -> str:
        """The host (and port) that it is connected to."""
        return self.pool.host

    @property
    def open_slots(self) -> int:
        """How many requests it may take right now."""
        return self.connection.open_slots if self.usable else 0

    @property
    def usable(self) -> bool:
        """Whether it will ever take another request."""
        unretired = not self.retired_reason and not self.connection.closed_reason
        return unretired and self.connection.sent < self._max_requests

    @property
    def remaining(self) -> float:
        """How many more requests it will take."""
        return self._max_requests - self.connection.sent if self.usable else 0

    def send(self, request: Request, timeout: float) -> Future[Response]:
        """Send at once; see `Connection.send`."""
        future = self.connection.send(request, timeout)
        self.pool.on_sent(self)
        return future

    def retire(self, reason: str) -> None:
        """Take no more requests; those in flight may end."""
        if not self.retired_reason:
            self.retired_reason = reason
            self.connection.retire()


class ConnectionPool:
    """The connections to one origin, opened one step ahead of their need.

    A connection takes fewer than ``requests_per_connection`` requests and is closed after ``idle_timeout`` seconds
    without one, as the service asks; its successor is open before that.

    Args:
        origin: where the connections go.
        connector: opens one connection.
        observer: notified of changes.
        emit: where events go.
        requests_per_connection: requests that a connection must not reach; None for no limit.
        max_in_flight: requests in flight at most.
        idle_timeout: seconds.
    """

    def __init__(
        self,
        origin: Origin,
        connector: Connector,
        observer: PoolObserver,
        emit: Emitter,
        *,
        requests_per_connection: int | None,
        max_in_flight: int,
        idle_timeout: float,
    ) -> None:
        self.host = origin.authority
        self.active = False
        self.wanted = False
        self.opened = 0
        self._origin = origin
        self._connector = connector
        self._observer = observer
        self._emit = emit
        self._max_requests = float("inf") if requests_per_connection is None else requests_per_connection - 1
        self._max_in_flight = max_in_flight
        self._idle_timeout = idle_timeout
        self._connections: list[PooledConnection] = []
        self._connecting = 0
        self._wasted = 0
        self._open_not_before = 0.0
        self._spare_not_before = 0.0
        self._opening_time = 0.0
        self._sent_at: deque[float] = deque(maxlen=PACE_WINDOW)
        self._tasks: TaskGroup | None = None

    def __repr__(self) -> str:
        usable = self._usable()
        ready = sum(bool(pooled.open_slots) for pooled in usable)
        retiring = len(self._connections) - len(usable)
        counts = f"{ready} ready, {len(usable) - ready} full, {retiring} retiring, {self._connecting} opening"
        return f"<ConnectionPool {self.host} {'active' if self.active else 'inactive'}: {counts}>"

    async def run(self) -> None:
        """Open and retire connections until cancelled; then close them all."""
        try:
            async with anyio.create_task_group() as self._tasks:
                await self._retire_idle()
        finally:
            self._tasks = None
            with anyio.CancelScope(shield=True):
                for pooled in list(self._connections):
                    await pooled.connection.aclose()

    def pick(self) -> PooledConnection | None:
        """A connection that can take a request in this very step."""
        for pooled in self._connections:
            if pooled.open_slots:
                return pooled
        return None

    def activate(self, *, wanted: bool) -> None:
        """Requests go here from now on; ``wanted`` says whether a caller is waiting for a connection."""
        self.active = True
        self.wanted = wanted
        self._maintain()

    def deactivate(self, reason: str) -> None:
        """Requests go elsewhere from now on: retire every connection."""
        self.active = self.wanted = False
        for pooled in list(self._connections):
            self._detach(pooled, reason)

    async def open_probe(self) -> PooledConnection:
        """Open a connection of an inactive pool.

        Raises:
            TransportError: it cannot be opened.
        """
        pooled = await self._connect()
        self._connections.append(pooled)
        return pooled

    def open_where_needed(self) -> None:
        """Open the connection that a waiting caller, or the next requests, will need."""
        if self._tasks is None or not self.active:
            return
        usable = self._usable()
        if self.wanted:
            if not any(pooled.open_slots for pooled in usable) and self._may_grow(usable):
                self._start_opening()
        elif usable and self._connecting < MAX_CONNECTIONS and self._spare_is_due(usable):
            self._start_opening()

    @property
    def next_deadline(self) -> float:
        """When a wait for a connection has to be looked at again, by the loop's clock."""
        now = get_running_loop().time()
        return min((at for at in (self._open_not_before, self._spare_not_before) if at > now), default=float("inf"))

    def on_sent(self, pooled: PooledConnection) -> None:
        """A request was sent on this connection."""
        now = get_running_loop().time()
        self._sent_at.append(now)
        self._wasted = 0
        pooled.idle_since = None
        if not pooled.usable:
            pooled.retire(f"used for {pooled.connection.sent} requests")
        self._observer.on_sent(pooled)
        self.open_where_needed()

    def _usable(self) -> list[PooledConnection]:
        return [pooled for pooled in self._connections if pooled.usable]

    def _maintain(self) -> None:
        """After any change: forget closed connections, open a needed one, notify the observer."""
        now = get_running_loop().time()
        for pooled in list(self._connections):
            if pooled.connection.closed:
                self._forget(pooled)
            elif pooled.idle_since is None and not pooled.connection.in_flight:
                pooled.idle_since = now
        self.open_where_needed()
        self._observer.on_change()

    def _forget(self, pooled: PooledConnection) -> None:
        self._connections.remove(pooled)
        if self._tasks is not None:
            self._tasks.start_soon(self._close, pooled)
        connection = pooled.connection
        reason = pooled.retired_reason or connection.closed_reason
        _logger.debug("connection to %s closed after %d requests: %s", self.host, connection.sent, reason)
        if self._emit:
            self._emit(ConnectionRetired(self.host, connection.sent, reason))
        if not connection.sent and not pooled.retired_reason:
            self._on_wasted(reason)

    def _on_wasted(self, reason: str) -> None:
        """A connection carried no request: from the second in a row, back off before the next."""
        self._wasted += 1
        if self.wanted and not self._usable():
            self._observer.on_unreachable(self, TransportError(f"{self.host}: {reason}", never_processed=True))
        if self._wasted > 1:
            delay = min(MAX_BACK_OFF, 0.1 * 2.0 ** min(self._wasted, 10))
            self._open_not_before = get_running_loop().time() + delay

    async def _close(self, pooled: PooledConnection) -> None:
        """Wait until it is closed; the end of `run` waits for that too."""
        with anyio.CancelScope(shield=True):
            await pooled.connection.aclose()

    def _detach(self, pooled: PooledConnection, reason: str) -> None:
        pooled.detached = True
        pooled.retire(reason)

    def _spare_is_due(self, usable: list[PooledConnection]) -> bool:
        """Whether the open connections may be used up before another one is open."""
        now = get_running_loop().time()
        paced = len(self._sent_at) == PACE_WINDOW and now > self._sent_at[0]
        pace = PACE_WINDOW / (now - self._sent_at[0]) if paced else 0.0
        remaining = sum(pooled.remaining for pooled in usable) + self._connecting * self._max_requests
        return remaining <= max(self._max_requests / 2, 2 * self._opening_time * pace) and now >= max(
            self._spare_not_before, self._open_not_before
        )

    def _may_grow(self, usable: list[PooledConnection]) -> bool:
        now = get_running_loop().time()
        if now < self._open_not_before or (usable and now < self._spare_not_before):
            return False
        if not all(pooled.connection.sent for pooled in usable):
            return False  # a new connection without a slot: the server would give the next one none either
        http2 = any(pooled.connection.http_version == "HTTP/2" for pooled in usable)
        limit = MAX_CONNECTIONS if http2 else self._max_in_flight
        return len(usable) + self._connecting < limit and self._connecting <= len(usable) // 2

    def _start_opening(self) -> None:
        assert self._tasks is not None  # noqa: S101  see `open_where_needed`
        self._connecting += 1
        self._tasks.start_soon(self._open)

    async def _open(self) -> None:
        """Open one of the connections counted in ``_connecting``."""
        try:
            pooled = await self._connect()
        except TransportError as error:
            self._spare_not_before = get_running_loop().time() + SPARE_PAUSE
            if not self._usable():
                self._observer.on_unreachable(self, error)
        else:
            self._connections.append(pooled)
            if not self.active:
                self._detach(pooled, "opened too late")
        finally:
            self._connecting -= 1
        self._maintain()

    async def _connect(self) -> PooledConnection:
        started = get_running_loop().time()
        try:
            connection = await self._connector.connect(self._origin, self._maintain)
        except TransportError as error:
            _logger.info("%s", error)
            if self._emit:
                self._emit(ConnectFailed(self.host, error))
            raise
        now = get_running_loop().time()
        self._opening_time = now - started
        self.opened += 1
        _logger.debug("connected to %s in %.3f s (%s)", self.host, now - started, connection.http_version)
        if self._emit:
            self._emit(ConnectionOpened(self.host, connection.http_version, now - started))
        return PooledConnection(self, connection, self._max_requests, now)

    async def _retire_idle(self) -> None:
        while True:
            now = get_running_loop().time()
            idle = [(pooled, pooled.idle_since) for pooled in self._usable() if pooled.idle_since is not None]
            due = [pooled for pooled, since in idle if now - since >= self._idle_timeout]
            if due:
                await self._replace(due)
            rest = [since for pooled, since in idle if pooled not in due]
            await anyio.sleep_until(min(rest, default=now) + self._idle_timeout)

    async def _replace(self, due: list[PooledConnection]) -> None:
        """Close idle connections. If they are the last usable ones and were of use, open another one first."""
        others = any(pooled not in due for pooled in self._usable())
        if self.active and not others and any(pooled.connection.sent for pooled in due):
            self._connecting += 1
            await self._open()
        for pooled in due:
            pooled.retire(f"idle for {self._idle_timeout:g} s")

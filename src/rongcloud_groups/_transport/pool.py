"""The connections to one origin: ready, spare, or retiring."""

import logging
import sys
from asyncio import get_running_loop
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskGroup

from rongcloud_groups._http import Origin
from rongcloud_groups._transport.containment import contained
from rongcloud_groups._transport.interface import Connection, Connector
from rongcloud_groups.errors import TransportError
from rongcloud_groups.events import ConnectFailed, ConnectionOpened, ConnectionRetired, Emitter

MAX_CONNECTIONS: Final = 8
"""HTTP/2 connections to one origin at most, however few streams each allows."""
IDLE_TIMEOUT: Final = 55.0
"""Seconds. The service asks to close a connection that was idle for so long (its base URL page)."""
PACE_WINDOW: Final = 1.0
"""Seconds over which the present pace is measured."""
MIN_PACE_WINDOW: Final = 0.2
"""Seconds to which a burst of requests counts as spread."""
SPARE_PAUSE: Final = 1.0
"""Seconds until a spare is tried again after a connection could not be opened."""
MAX_BACK_OFF: Final = 5.0
"""Seconds at most between connections that close before they carry a request."""

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class ConnectionPool:
    """The connections to one origin, opened one step ahead of their need.

    A connection takes fewer than ``requests_per_connection`` requests and is closed after `IDLE_TIMEOUT` seconds
    without one, as the service asks; its successor is open before that.

    Attributes:
        on_change: called when a connection became ready, or was lost.
        on_unreachable: called with the reason when it is active, has no usable connection and cannot open one.
        requests_per_connection: requests that a connection must not reach; None for no limit.
        max_in_flight: requests in flight at most.
        active: whether requests go to this origin.
        wanted: whether a caller waits for a connection.
        opened: connections opened so far.
    """

    origin: Origin
    connector: Connector
    emit: Emitter
    on_change: Callable[[], None]
    on_unreachable: Callable[[TransportError], None]
    requests_per_connection: int | None
    max_in_flight: int

    def __post_init__(self) -> None:
        self.host = self.origin.authority
        self.active = self.wanted = False
        self.opened = self._connecting = self._wasted = 0
        self._max_requests = (self.requests_per_connection or sys.maxsize) - 1
        self._connections: dict[Connection, float | None] = {}  # and since when each is idle
        self._open_not_before = self._spare_not_before = self._opening_time = 0.0
        self._sent_at: deque[float] = deque()  # within `PACE_WINDOW` seconds
        self._tasks: TaskGroup | None = None

    def __repr__(self) -> str:
        usable = self._usable()
        ready = sum(bool(connection.open_slots) for connection in usable)
        retiring = len(self._connections) - len(usable)
        counts = f"{ready} ready, {len(usable) - ready} full, {retiring} retiring, {self._connecting} opening"
        return f"<ConnectionPool {self.host} {'active' if self.active else 'inactive'}: {counts}>"

    async def run(self) -> None:
        """Open and retire connections until cancelled; then close them all."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self.open_where_needed()  # a caller may wait already
                await self._retire_idle()
        finally:
            self._tasks = None
            for connection in list(self._connections):
                await _close(connection)

    def pick(self) -> Connection | None:
        """A connection that can take a request in this very step."""
        for connection in self._connections:
            if connection.open_slots:
                return connection
        return None

    def activate(self, *, wanted: bool) -> None:
        self.active, self.wanted = True, wanted
        self._maintain()

    def deactivate(self, reason: str) -> None:
        self.active = self.wanted = False
        for connection in list(self._connections):
            connection.detach(reason)

    async def connect(self) -> Connection:
        """Open a connection; raises a `TransportError` where that fails."""
        started = _now()
        try:
            with contained(partial(TransportError, never_processed=True), f"connecting to {self.host}"):
                connection = await self.connector.connect(self.origin, self._maintain)
        except TransportError as error:
            _logger.info("%s", error)
            if self.emit:
                self.emit(ConnectFailed(self.host, error))
            raise
        connection.pool = self
        self._connections[connection] = now = _now()
        self._opening_time = now - started
        self.opened += 1
        _logger.debug("connected to %s in %.3f s (%s)", self.host, self._opening_time, connection.http_version)
        if self.emit:
            self.emit(ConnectionOpened(self.host, connection.http_version, self._opening_time))
        return connection

    def open_where_needed(self) -> None:
        """Open the connection that a waiting caller, or the next requests, will need."""
        if self._tasks is None or not self.active:
            return
        usable, now = self._usable(), _now()
        if now < self._open_not_before or (usable and now < self._spare_not_before):
            return
        if self._may_grow(usable) if self.wanted else self._spare_is_due(usable, now):
            self._connecting += 1
            self._tasks.start_soon(self._open)

    @property
    def next_deadline(self) -> float:
        """When a wait for a connection has to be looked at again, by the loop's clock."""
        now = _now()
        return min((at for at in (self._open_not_before, self._spare_not_before) if at > now), default=float("inf"))

    def on_sent(self, connection: Connection) -> None:
        now = _now()
        self._sent_at.append(now)
        while now - self._sent_at[0] > PACE_WINDOW:
            self._sent_at.popleft()
        self._wasted = 0
        self._connections[connection] = None
        if connection.sent >= self._max_requests:
            connection.retire(f"used for {connection.sent} requests")
        self.open_where_needed()

    def _usable(self) -> list[Connection]:
        return [connection for connection in self._connections if not connection.closed_reason]

    def _maintain(self) -> None:
        """After any change: forget closed connections, open a needed one, report the change."""
        for connection, idle_since in list(self._connections.items()):
            if connection.closed:
                self._forget(connection)
            elif idle_since is None and not connection.in_flight:
                self._connections[connection] = _now()
        self.open_where_needed()
        self.on_change()

    def _forget(self, connection: Connection) -> None:
        del self._connections[connection]
        if self._tasks is not None:
            self._tasks.start_soon(_close, connection)
        reason = connection.closed_reason
        _logger.debug("connection to %s closed after %d requests: %s", self.host, connection.sent, reason)
        if self.emit:
            self.emit(ConnectionRetired(self.host, connection.sent, reason))
        if not connection.sent and connection.pool is self:
            self._on_wasted(reason)

    def _on_wasted(self, reason: str) -> None:
        """A connection carried no request: from the second in a row, back off before the next."""
        self._wasted += 1
        if self.wanted and not self._usable():
            self.on_unreachable(TransportError(f"{self.host}: {reason}", never_processed=True))
        if self._wasted > 1:
            self._open_not_before = _now() + min(MAX_BACK_OFF, 0.1 * 2.0 ** min(self._wasted, 10))

    def _spare_is_due(self, usable: list[Connection], now: float) -> bool:
        """Whether the open connections may be used up before another one is open."""
        if not usable or self._connecting >= MAX_CONNECTIONS:
            return False
        pace = len(self._sent_at) / max(now - self._sent_at[0], MIN_PACE_WINDOW) if self._sent_at else 0.0
        used = sum(connection.sent for connection in usable)
        remaining = (len(usable) + self._connecting) * self._max_requests - used
        return remaining <= max(self._max_requests / 2, 2 * self._opening_time * pace)

    def _may_grow(self, usable: list[Connection]) -> bool:
        if any(connection.open_slots or not connection.sent for connection in usable):
            return False  # a new connection without a slot: the server would give the next one none either
        http2 = any(connection.http_version == "HTTP/2" for connection in usable)
        limit = MAX_CONNECTIONS if http2 else self.max_in_flight
        return len(usable) + self._connecting < limit and self._connecting <= len(usable) // 2

    async def _open(self) -> None:
        """Open one of the connections counted in ``_connecting``."""
        try:
            connection = await self.connect()
        except TransportError as error:
            self._spare_not_before = _now() + SPARE_PAUSE
            if self.active and not self._usable():
                self.on_unreachable(error)
        else:
            if not self.active:
                connection.detach("opened too late")
        finally:
            self._connecting -= 1
        self._maintain()

    async def _retire_idle(self) -> None:
        while True:
            idle = {each: since for each in self._usable() if (since := self._connections[each]) is not None}
            if due := [each for each, since in idle.items() if _now() - since >= IDLE_TIMEOUT]:
                await self._replace(due)
            else:
                await anyio.sleep_until(min(idle.values(), default=_now()) + IDLE_TIMEOUT)

    async def _replace(self, due: list[Connection]) -> None:
        """Close idle connections. If they are the last usable ones and were of use, open another one first."""
        others = any(connection not in due for connection in self._usable())
        if self.active and not others and any(connection.sent for connection in due):
            self._connecting += 1
            await self._open()
        for connection in due:
            if not connection.in_flight:
                connection.detach(f"idle for {IDLE_TIMEOUT:g} s")


async def _close(connection: Connection) -> None:
    with anyio.CancelScope(shield=True):  # the end of `run` waits for it
        await connection.aclose()


def _now() -> float:
    return get_running_loop().time()

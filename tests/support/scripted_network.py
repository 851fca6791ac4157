"""Connections, and hosts, that do as the test says; in virtual time."""

import asyncio
from asyncio import Future
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from support.virtual_time import now, settle

from rongcloud_groups import TransportError
from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups._transport.interface import Connection
from rongcloud_groups.events import Emitter, Event

REQUEST = Request("/", [], b"")
RESPONSE = Response(200, {}, b"")
PRIMARY, BACKUP, LAST = "primary.test", "backup.test", "last.test"


class ScriptedConnection(Connection):
    """A connection whose responses, and whose end, come when the test says so."""

    def __init__(self, network: "Network", host: str, on_change: Callable[[], None]) -> None:
        super().__init__(host, on_change)
        self.http_version = network.http_version
        self.gone = asyncio.Event()
        self.retired_at: float | None = None
        self._slots = network.slots
        self._futures: list[Future[Response]] = []

    @property
    def open_slots(self) -> int:
        return 0 if self.closed_reason else self._slots - self.in_flight

    def send(self, request: Request, timeout: float) -> Future[Response]:
        assert (request, timeout) == (REQUEST, 5.0)
        assert self.open_slots
        self.sent += 1
        self.in_flight += 1
        future: Future[Response] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        return future

    def respond(self) -> None:
        self.in_flight -= 1
        self._futures.pop(0).set_result(RESPONSE)
        if self.retired_at is not None and not self._futures:
            self.close(self.closed_reason)
        else:
            self._on_change()

    def retire(self, reason: str) -> None:
        assert not self.closed_reason
        self.closed_reason = reason
        self.retired_at = now()
        if self._futures:
            self._on_change()
        else:
            self.close(reason)

    def close(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.closed_reason = self.closed_reason or reason
        for future in self._futures:
            future.cancel()
        self._futures.clear()
        self.in_flight = 0
        asyncio.get_running_loop().call_later(0.5, self.gone.set)
        self._on_change()

    async def aclose(self) -> None:
        self.close("closed here")
        await self.gone.wait()


class Network:
    """Hosts that connect, or do not, as the test says."""

    def __init__(self, *, http_version: str = "HTTP/2", slots: int = 100, handshake: float = 0.1) -> None:
        self.http_version = http_version
        self.slots = slots
        self.handshake = handshake
        self.down: set[str] = set()
        self.closing: set[str] = set()
        self.tried: list[tuple[str, float]] = []
        self.connections: list[ScriptedConnection] = []
        self.events: list[Event] = []

    async def connect(self, origin: Origin, on_change: Callable[[], None]) -> ScriptedConnection:
        self.tried.append((origin.host, now()))
        await asyncio.sleep(self.handshake)
        if origin.host in self.down:
            raise TransportError(f"{origin.host} is down", never_processed=True)
        connection = ScriptedConnection(self, origin.host, on_change)
        self.connections.append(connection)
        if origin.host in self.closing:
            connection.close("closed by the server")
        return connection

    @asynccontextmanager
    async def failover(
        self, *hosts: str, requests_per_connection: int | None = 80, max_in_flight: int = 64
    ) -> AsyncIterator[Failover]:
        failover = Failover(
            [Origin.parse(f"https://{host}") for host in hosts or (PRIMARY,)],
            self,
            Emitter([self.events.append]),
            requests_per_connection=requests_per_connection,
            max_in_flight=max_in_flight,
        )
        running = asyncio.create_task(failover.run())
        await settle()
        try:
            yield failover
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()

    def open_to(self, host: str) -> list[ScriptedConnection]:
        return [each for each in self.connections if each.host == host and each.open_slots]

    def hosts_tried(self) -> list[str]:
        return [host for host, _ in self.tried]

    def seen(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


async def send(failover: Failover) -> Connection:
    await failover.ready()
    connection = failover.pick()
    assert connection is not None
    failover.send(connection, REQUEST, 5.0)
    return connection


async def ask(failover: Failover, times: int = 1) -> Connection:
    """Send requests one after the other, each responded to at once."""
    used = []
    for _ in range(times):
        used.append(await send(failover))
        connection = used[-1]
        assert isinstance(connection, ScriptedConnection)
        connection.respond()
    return used[-1]

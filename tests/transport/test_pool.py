import asyncio
from asyncio import Future
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from support.virtual_time import at, now, settle, virtual_time

from rongcloud_groups import TransportError
from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.pool import MAX_CONNECTIONS, Link, Links
from rongcloud_groups.events import ConnectFailed, ConnectionOpened, ConnectionRetired, Emitter, Event, HostSwitched

REQUEST = Request("/", [], b"")
REPLY = Response(200, {}, b"")
PRIMARY, BACKUP, LAST = "primary.test", "backup.test", "last.test"


class ScriptedConnection:
    """A connection whose answers, and whose end, come when the test says so."""

    def __init__(self, network: "Network", host: str, on_change: Callable[[], None]) -> None:
        self.host = host
        self.http_version = network.http_version
        self.sent = 0
        self.closed = False
        self.closed_reason = ""
        self.gone = asyncio.Event()
        self.retired_at: float | None = None
        self._slots = network.slots
        self._on_change = on_change
        self._futures: list[Future[Response]] = []

    @property
    def in_flight(self) -> int:
        return len(self._futures)

    @property
    def open_slots(self) -> int:
        return 0 if self.closed or self.retired_at is not None else self._slots - self.in_flight

    def send(self, request: Request, timeout: float) -> Future[Response]:
        assert (request, timeout) == (REQUEST, 5.0)
        assert self.open_slots
        self.sent += 1
        future: Future[Response] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        return future

    def answer(self) -> None:
        self._futures.pop(0).set_result(REPLY)
        if self.retired_at is not None and not self._futures:
            self.close("retired")
        else:
            self._on_change()

    def retire(self) -> None:
        assert self.retired_at is None
        self.retired_at = now()
        if self._futures:
            self._on_change()
        else:
            self.close("retired")

    def close(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self.closed_reason = self.closed_reason or reason
        for future in self._futures:
            future.cancel()
        self._futures.clear()
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
        self.tried: list[tuple[str, float]] = []
        self.connections: list[ScriptedConnection] = []
        self.events: list[Event] = []

    async def connect(self, url: Origin, on_change: Callable[[], None]) -> ScriptedConnection:
        self.tried.append((url.host, now()))
        await asyncio.sleep(self.handshake)
        if url.host in self.down:
            raise TransportError(f"{url.host} is down", never_processed=True)
        connection = ScriptedConnection(self, url.host, on_change)
        self.connections.append(connection)
        return connection

    @asynccontextmanager
    async def links(
        self, *hosts: str, requests_per_connection: int | None = 80, max_in_flight: int = 64
    ) -> AsyncIterator[Links]:
        links = Links(
            [Origin.parse(f"https://{host}") for host in hosts or (PRIMARY,)],
            self.connect,
            Emitter([self.events.append]),
            requests_per_connection=requests_per_connection,
            max_in_flight=max_in_flight,
        )
        running = asyncio.create_task(links.run())
        await settle()
        try:
            yield links
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()

    def open_to(self, host: str) -> list[ScriptedConnection]:
        return [each for each in self.connections if each.host == host and each.open_slots]

    def hosts_tried(self) -> list[str]:
        return [host for host, _ in self.tried]

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


async def send(links: Links) -> Link:
    await links.ready()
    link = links.pick()
    assert link is not None
    link.send(REQUEST, 5.0)
    return link


async def ask(links: Links, times: int = 1) -> Link:
    """Send requests one after the other, each answered at once."""
    links_used = []
    for _ in range(times):
        links_used.append(await send(links))
        connection = links_used[-1].connection
        assert isinstance(connection, ScriptedConnection)
        connection.answer()
    return links_used[-1]


@virtual_time
async def test_the_first_request_opens_one_connection() -> None:
    network = Network()
    async with network.links() as links:
        assert links.pick() is None
        assert network.tried == []
        await asyncio.gather(ask(links), ask(links), ask(links))
        assert len(network.connections) == links.opened == 1
        (opened,) = network.events
        assert isinstance(opened, ConnectionOpened)
        assert (opened.host, opened.http_version) == (PRIMARY, "HTTP/2")
        assert opened.seconds == pytest.approx(0.1, abs=1e-5)


@virtual_time
async def test_every_connection_is_closed_at_the_end() -> None:
    network = Network(slots=2)
    async with network.links(requests_per_connection=4) as links:
        for _ in range(6):
            await send(links)
        await at(5.0)
        assert len(network.connections) > 2
    assert all(connection.gone.is_set() for connection in network.connections)


@virtual_time
async def test_the_end_waits_for_connections_that_were_let_go_and_are_not_gone_yet() -> None:
    network = Network()
    async with network.links() as links:
        await ask(links, 100)
        network.connections[-1].close("closed by the server")
        assert all(connection.closed for connection in network.connections)
    assert all(connection.gone.is_set() for connection in network.connections)


@virtual_time
async def test_a_connection_that_is_being_opened_at_the_end_is_given_up() -> None:
    network = Network()
    async with network.links() as links:
        waiting = asyncio.create_task(links.ready())
        await settle()
        waiting.cancel()
    assert network.connections == []


@virtual_time
async def test_a_spare_is_opened_at_half_use() -> None:
    network = Network()
    async with network.links() as links:
        await ask(links, 39)
        await at(5.0)
        assert len(network.connections) == 1
        await ask(links)
        await at(6.0)
        assert len(network.connections) == 2
        assert links.pick() is not None
        await ask(links, 20)
        assert [connection.sent for connection in network.connections] == [60, 0]


@virtual_time
async def test_a_connection_is_let_go_before_80_requests_and_no_request_waits_for_the_next() -> None:
    network = Network()
    async with network.links() as links:
        await ask(links)
        for _ in range(800):
            waited_from = now()
            await ask(links)
            assert now() == waited_from
            await asyncio.sleep(0.01)
        sent = [connection.sent for connection in network.connections]
        assert set(sent[:-2]) == {79}
        assert sum(sent) == 801
        assert all(connection.closed for connection in network.connections[:-2])
        retired = network.told(ConnectionRetired)
        assert retired[0] == ConnectionRetired(PRIMARY, 79, "used for 79 requests")
        assert len(retired) == 10


@virtual_time
async def test_at_the_full_rate_no_request_waits_even_where_opening_takes_a_second() -> None:
    network = Network(handshake=1.0)
    async with network.links() as links:
        waits = []
        for _ in range(1500):
            waited_from = now()
            await ask(links)
            waits.append(now() - waited_from)
            await asyncio.sleep(0.01)
        assert max(waits[:500]) == pytest.approx(1.0, abs=0.1)
        assert max(waits[500:]) == 0.0
        assert len(network.connections) <= 1500 / 79 + MAX_CONNECTIONS


@virtual_time
async def test_what_is_in_flight_on_a_used_up_connection_may_end() -> None:
    network = Network()
    async with network.links() as links:
        await ask(links, 78)
        await at(1.0)
        link = await send(links)
        connection = network.connections[0]
        assert link.connection is connection
        assert not connection.closed
        assert connection.retired_at is not None
        assert (await send(links)).connection is network.connections[1]
        connection.answer()
        assert connection.closed


@virtual_time
async def test_without_a_limit_of_requests_a_connection_is_kept() -> None:
    network = Network()
    async with network.links(requests_per_connection=None) as links:
        await ask(links, 500)
        assert len(network.connections) == 1


@virtual_time
async def test_an_idle_connection_is_replaced_before_it_is_let_go() -> None:
    network = Network()
    async with network.links() as links:
        await ask(links)
        await at(55.0)
        assert len(network.connections) == 1
        await at(56.0)
        first, second = network.connections
        assert network.tried[1][1] == pytest.approx(55.1, abs=0.001)
        assert first.retired_at == pytest.approx(55.2, abs=0.001)
        assert first.closed
        assert links.pick() is not None
        assert not second.closed
        assert network.told(ConnectionRetired) == [ConnectionRetired(PRIMARY, 1, "idle for 55 s")]


@virtual_time
async def test_a_connection_that_was_never_used_just_closes() -> None:
    network = Network()
    async with network.links() as links:
        await ask(links)
        await at(200.0)
        assert len(network.connections) == 2
        assert all(connection.closed for connection in network.connections)
        assert links.pick() is None
        await ask(links)
        assert len(network.connections) == 3


@virtual_time
async def test_an_idle_spare_closes_and_its_elder_stays_in_use() -> None:
    network = Network()
    async with network.links() as links:
        await ask(links, 45)
        elder = network.connections[0]
        for second in range(1, 58):
            await at(float(second))
            if second % 10 == 0:
                await ask(links)
        spare = network.connections[1]
        assert spare.closed
        assert spare.sent == 0
        assert not elder.closed
        assert links.pick() is not None


@virtual_time
async def test_a_connection_in_use_is_not_idle() -> None:
    network = Network()
    async with network.links() as links:
        await send(links)
        await at(300.0)
        connection = network.connections[0]
        assert not connection.closed
        connection.answer()
        await at(354.0)
        assert not connection.closed
        await at(356.0)
        assert connection.closed


@virtual_time
async def test_requests_at_intervals_under_the_idle_time_keep_the_connection() -> None:
    network = Network()
    async with network.links() as links:
        for seconds in range(0, 500, 50):
            await at(float(seconds))
            await ask(links)
        assert len(network.connections) == 1


@virtual_time
async def test_an_idle_connection_that_cannot_be_replaced_is_let_go_all_the_same() -> None:
    network = Network()
    async with network.links() as links:
        await ask(links)
        network.down.add(PRIMARY)
        await at(56.0)
        assert network.connections[0].closed
        network.down.clear()
        await ask(links)


@virtual_time
async def test_a_connection_that_the_server_closed_is_replaced_when_it_is_needed() -> None:
    network = Network()
    async with network.links() as links:
        await ask(links)
        network.connections[0].close("closed by the server")
        assert links.pick() is None
        assert network.told(ConnectionRetired) == [ConnectionRetired(PRIMARY, 1, "closed by the server")]
        await at(30.0)
        assert len(network.connections) == 1
        await ask(links)
        assert len(network.connections) == 2


@virtual_time
async def test_a_host_that_cannot_be_reached_is_told_once_for_each_wait() -> None:
    network = Network()
    network.down.add(PRIMARY)
    async with network.links() as links:
        for tries in (1, 2, 3):
            with pytest.raises(TransportError, match=r"primary\.test is down") as caught:
                await links.ready()
            assert caught.value.never_processed
            assert len(network.tried) == len(network.told(ConnectFailed)) == tries
        await at(60.0)
        assert len(network.tried) == 3
        network.down.clear()
        await ask(links)


@virtual_time
async def test_every_host_is_tried_before_a_wait_fails() -> None:
    network = Network()
    network.down |= {PRIMARY, BACKUP, LAST}
    async with network.links(PRIMARY, BACKUP, LAST) as links:
        with pytest.raises(TransportError):
            await links.ready()
        assert network.hosts_tried() == [PRIMARY, BACKUP, LAST]
        with pytest.raises(TransportError):
            await links.ready()
        assert sorted(network.hosts_tried()[3:]) == sorted([PRIMARY, BACKUP, LAST])


@virtual_time
async def test_a_host_that_cannot_be_reached_is_left_for_the_next_at_once() -> None:
    network = Network()
    network.down.add(PRIMARY)
    async with network.links(PRIMARY, BACKUP) as links:
        await ask(links)
        assert now() == pytest.approx(0.2, abs=0.001)
        assert links.host == BACKUP
        assert links.host_switches == 1
        assert network.told(HostSwitched) == [HostSwitched(PRIMARY, BACKUP, "primary.test is down")]
        await ask(links, 30)
        assert network.hosts_tried() == [PRIMARY, BACKUP]


@virtual_time
async def test_a_failed_request_switches_the_host_and_the_others_of_that_host_do_not_switch_back() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        flights = [await send(links) for _ in range(5)]
        for link in flights:
            links.distrust(link, "no answer within 5 s")
        assert links.host == BACKUP
        assert links.host_switches == 1
        assert network.connections[0].retired_at is not None
        assert not network.connections[0].closed
        await ask(links)
        assert network.hosts_tried() == [PRIMARY, BACKUP]


@virtual_time
async def test_a_late_failure_from_before_a_switch_says_nothing_of_the_host_now() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        early, late = await send(links), await send(links)
        links.distrust(early, "HTTP 500")
        links.distrust(await send(links), "HTTP 500")
        assert links.host == PRIMARY
        links.distrust(late, "HTTP 500")
        assert links.host == PRIMARY


@virtual_time
async def test_with_one_host_a_failed_request_switches_nothing() -> None:
    network = Network()
    async with network.links() as links:
        link = await send(links)
        links.distrust(link, "HTTP 500")
        assert links.pick() is link
        assert links.host_switches == 0


@virtual_time
async def test_every_connection_to_a_host_that_is_left_takes_no_more_requests() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        failing = await ask(links, 50)
        await at(1.0)
        assert len(network.open_to(PRIMARY)) == 2
        links.distrust(failing, "HTTP 500")
        assert network.open_to(PRIMARY) == []


@virtual_time
async def test_a_connection_that_comes_up_after_its_host_was_left_is_not_used() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        link = await send(links)
        network.connections[0].close("closed by the server")
        waiting = asyncio.create_task(links.ready())
        await settle()
        links.distrust(link, "HTTP 500")
        await waiting
        picked = links.pick()
        assert picked is not None
        assert links.host_of(picked.host) == BACKUP
        await at(2.0)
        assert network.open_to(PRIMARY) == []


async def switched_to_backup(links: Links) -> None:
    links.distrust(await send(links), "HTTP 500")
    await ask(links)
    assert links.host == BACKUP


@virtual_time
async def test_the_primary_is_probed_after_a_minute_with_one_request_and_used_again_when_it_answers() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        await switched_to_backup(links)
        await at(59.0)
        await ask(links, 3)
        assert network.hosts_tried().count(PRIMARY) == 1
        await at(61.0)
        assert links.host_of((await ask(links)).host) == BACKUP
        await at(62.0)
        assert network.hosts_tried().count(PRIMARY) == 2
        probe = await send(links)
        assert links.host_of(probe.host) == PRIMARY
        for _ in range(3):
            assert links.host_of((await ask(links)).host) == BACKUP
        links.trust(probe)
        assert links.host == PRIMARY
        assert (await ask(links)) is probe
        assert network.open_to(BACKUP) == []
        await at(200.0)
        await ask(links)
        assert links.host_switches == 2


@virtual_time
async def test_a_failed_probe_is_repeated_after_another_minute() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        await switched_to_backup(links)
        for minute in (1, 2, 3):
            await at(minute * 61.0 + 1.0)
            await ask(links)
            await at(minute * 61.0 + 2.0)
            probe = await send(links)
            assert links.host_of(probe.host) == PRIMARY
            links.distrust(probe, "HTTP 500")
            assert links.host == BACKUP
            assert links.host_of((await ask(links)).host) == BACKUP
            assert network.open_to(PRIMARY) == []
        assert network.hosts_tried().count(PRIMARY) == 4
        assert links.host_switches == 1


@virtual_time
async def test_a_probe_that_cannot_connect_is_repeated_after_another_minute() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        await switched_to_backup(links)
        network.down.add(PRIMARY)
        for seconds, tries in ((62.0, 2), (121.0, 2), (124.0, 3)):
            await at(seconds)
            await ask(links)
            await at(seconds + 1.0)
            assert links.host_of((await ask(links)).host) == BACKUP
            assert network.hosts_tried().count(PRIMARY) == tries
        assert links.host_switches == 1


@virtual_time
async def test_a_probe_that_closes_before_it_was_used_is_repeated_after_another_minute() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        await switched_to_backup(links)
        await at(62.0)
        await ask(links)
        await at(63.0)
        network.connections[-1].close("closed by the server")
        await at(124.0)
        await ask(links)
        await at(125.0)
        assert links.host_of((await ask(links)).host) == PRIMARY


@virtual_time
async def test_a_probe_that_neither_answers_nor_fails_is_repeated_after_another_minute() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        await switched_to_backup(links)
        await at(62.0)
        await ask(links)
        await at(63.0)
        assert links.host_of((await send(links)).host) == PRIMARY
        network.connections[-1].close("GOAWAY: the request was never processed")
        await at(124.0)
        await ask(links)
        await at(125.0)
        assert links.host_of((await ask(links)).host) == PRIMARY


@virtual_time
async def test_the_backup_failing_leads_back_to_the_primary() -> None:
    network = Network()
    async with network.links(PRIMARY, BACKUP) as links:
        await switched_to_backup(links)
        links.distrust(await send(links), "HTTP 500")
        assert links.host == PRIMARY
        await ask(links)
        await at(100.0)
        await ask(links)
        assert BACKUP not in network.hosts_tried()[3:]


@virtual_time
async def test_http_1_1_grows_to_as_many_connections_as_requests_may_be_in_flight() -> None:
    network = Network(http_version="HTTP/1.1", slots=1)
    async with network.links(max_in_flight=12) as links:
        for _ in range(12):
            await send(links)
        assert len(network.connections) == 12
        waiting = asyncio.create_task(links.ready())
        await at(20.0)
        assert not waiting.done()
        assert len(network.connections) == 12
        network.connections[3].answer()
        await waiting
        assert (await send(links)).connection is network.connections[3]


@virtual_time
async def test_a_connection_whose_streams_are_full_is_joined_by_another() -> None:
    network = Network(slots=2)
    async with network.links() as links:
        used = [(await send(links)).connection for _ in range(5)]
        assert [network.connections.index(each) for each in used if isinstance(each, ScriptedConnection)] == [
            0,
            0,
            1,
            1,
            2,
        ]


@virtual_time
async def test_http_2_has_so_many_connections_at_the_most() -> None:
    network = Network(slots=1)
    async with network.links() as links:
        for _ in range(MAX_CONNECTIONS):
            await send(links)
        waiting = asyncio.create_task(links.ready())
        await at(20.0)
        assert not waiting.done()
        assert len(network.connections) == MAX_CONNECTIONS
        network.connections[0].answer()
        await waiting


@virtual_time
async def test_a_full_connection_still_serves_where_another_cannot_be_opened() -> None:
    network = Network(slots=1)
    async with network.links() as links:
        await send(links)
        network.down.add(PRIMARY)
        waiting = asyncio.create_task(links.ready())
        await at(3.0)
        assert not waiting.done()
        network.connections[0].answer()
        await waiting
        assert links.pick() is not None


@virtual_time
async def test_a_spare_that_cannot_be_opened_is_not_tried_again_within_a_second() -> None:
    network = Network(handshake=0.001)
    async with network.links() as links:
        await ask(links, 39)
        network.down.add(PRIMARY)
        began = now()
        for _ in range(20):
            await ask(links)
            await asyncio.sleep(0.1)
        assert len(network.tried) <= 1 + 2
        assert now() - began < 2.2
        network.down.clear()
        await asyncio.sleep(1.0)
        await ask(links)
        await asyncio.sleep(0.1)
        assert len(network.connections) == 2


@virtual_time
async def test_a_cancelled_wait_leaves_the_links_usable() -> None:
    network = Network()
    async with network.links() as links:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(links.ready(), 0.05)
        await at(1.0)
        assert len(network.connections) == 1
        await ask(links)
        assert len(network.connections) == 1

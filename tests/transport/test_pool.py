import asyncio
import itertools

import pytest
from support.scripted_network import PRIMARY, Network, ScriptedConnection, ask, send
from support.virtual_time import at, now, settle, virtual_time

from rongcloud_groups import TransportError
from rongcloud_groups._transport.pool import MAX_BACK_OFF, MAX_CONNECTIONS
from rongcloud_groups.events import ConnectionOpened, ConnectionRetired


@virtual_time
async def test_the_first_request_opens_one_connection() -> None:
    network = Network()
    async with network.failover() as failover:
        assert failover.pick() is None
        assert network.tried == []
        await asyncio.gather(ask(failover), ask(failover), ask(failover))
        assert len(network.connections) == failover.opened == 1
        (opened,) = network.events
        assert isinstance(opened, ConnectionOpened)
        assert (opened.host, opened.http_version) == (PRIMARY, "HTTP/2")
        assert opened.seconds == pytest.approx(0.1, abs=1e-5)


@virtual_time
async def test_every_connection_is_closed_at_the_end() -> None:
    network = Network(slots=2)
    async with network.failover(requests_per_connection=4) as failover:
        for _ in range(6):
            await send(failover)
        await at(5.0)
        assert len(network.connections) > 2
    assert all(connection.gone.is_set() for connection in network.connections)


@virtual_time
async def test_the_end_waits_for_connections_that_were_let_go_and_are_not_gone_yet() -> None:
    network = Network()
    async with network.failover() as failover:
        await ask(failover, 100)
        network.connections[-1].close("closed by the server")
        assert all(connection.closed for connection in network.connections)
    assert all(connection.gone.is_set() for connection in network.connections)


@virtual_time
async def test_a_connection_that_is_being_opened_at_the_end_is_given_up() -> None:
    network = Network()
    async with network.failover() as failover:
        waiting = asyncio.create_task(failover.ready())
        await settle()
        waiting.cancel()
    assert network.connections == []


@virtual_time
async def test_a_spare_is_opened_at_half_use() -> None:
    network = Network()
    async with network.failover() as failover:
        await ask(failover, 39)
        await at(5.0)
        assert len(network.connections) == 1
        await ask(failover)
        await at(6.0)
        assert len(network.connections) == 2
        assert failover.pick() is not None
        await ask(failover, 20)
        assert [connection.sent for connection in network.connections] == [60, 0]


@virtual_time
async def test_a_connection_is_let_go_before_80_requests_and_no_request_waits_for_the_next() -> None:
    network = Network()
    async with network.failover() as failover:
        await ask(failover)
        for _ in range(800):
            waited_from = now()
            await ask(failover)
            assert now() == waited_from
            await asyncio.sleep(0.01)
        sent = [connection.sent for connection in network.connections]
        assert set(sent[:-2]) == {79}
        assert sum(sent) == 801
        assert all(connection.closed for connection in network.connections[:-2])
        retired = network.seen(ConnectionRetired)
        assert retired[0] == ConnectionRetired(PRIMARY, 79, "used for 79 requests")
        assert len(retired) == 10


@virtual_time
async def test_at_the_full_rate_no_request_waits_even_where_opening_takes_a_second() -> None:
    network = Network(handshake=1.0)
    async with network.failover() as failover:
        waits = []
        for _ in range(1500):
            waited_from = now()
            await ask(failover)
            waits.append(now() - waited_from)
            await asyncio.sleep(0.01)
        assert max(waits[:500]) == pytest.approx(1.0, abs=0.1)
        assert max(waits[500:]) == 0.0
        assert len(network.connections) <= 1500 / 79 + MAX_CONNECTIONS


@virtual_time
async def test_requests_in_bursts_open_no_more_connections_than_their_pace_needs() -> None:
    network = Network()
    async with network.failover() as failover:
        for burst in range(1, 21):
            for _ in range(32):
                await ask(failover)
                await asyncio.sleep(1e-4)
            assert sum(not connection.closed for connection in network.connections) <= 3
            await at(burst * 0.1)
        assert len(network.connections) <= 20 * 32 / 79 + 3


@virtual_time
async def test_requests_in_flight_on_a_used_up_connection_may_end() -> None:
    network = Network()
    async with network.failover() as failover:
        await ask(failover, 78)
        await at(1.0)
        connection = network.connections[0]
        assert await send(failover) is connection
        assert not connection.closed
        assert connection.retired_at is not None
        assert await send(failover) is network.connections[1]
        connection.respond()
        assert connection.closed


@virtual_time
async def test_without_a_limit_of_requests_a_connection_is_kept() -> None:
    network = Network()
    async with network.failover(requests_per_connection=None) as failover:
        for _ in range(5):
            await ask(failover, 100)
            await asyncio.sleep(1.0)
        assert len(network.connections) == 1


@virtual_time
async def test_an_idle_connection_is_replaced_before_it_is_let_go() -> None:
    network = Network()
    async with network.failover() as failover:
        await ask(failover)
        await at(55.0)
        assert len(network.connections) == 1
        await at(56.0)
        first, second = network.connections
        assert network.tried[1][1] == pytest.approx(55.1, abs=0.001)
        assert first.retired_at == pytest.approx(55.2, abs=0.001)
        assert first.closed
        assert failover.pick() is not None
        assert not second.closed
        assert network.seen(ConnectionRetired) == [ConnectionRetired(PRIMARY, 1, "idle for 55 s")]


@virtual_time
async def test_a_connection_that_was_never_used_just_closes() -> None:
    network = Network()
    async with network.failover() as failover:
        await ask(failover)
        await at(200.0)
        assert len(network.connections) == 2
        assert all(connection.closed for connection in network.connections)
        assert failover.pick() is None
        await ask(failover)
        assert len(network.connections) == 3


@virtual_time
async def test_an_idle_spare_closes_and_its_elder_stays_in_use() -> None:
    network = Network()
    async with network.failover() as failover:
        await ask(failover, 45)
        elder = network.connections[0]
        for second in range(1, 58):
            await at(float(second))
            if second % 10 == 0:
                await ask(failover)
        spare = network.connections[1]
        assert spare.closed
        assert spare.sent == 0
        assert not elder.closed
        assert failover.pick() is not None


@virtual_time
async def test_a_connection_in_use_is_not_idle() -> None:
    network = Network()
    async with network.failover() as failover:
        await send(failover)
        await at(300.0)
        connection = network.connections[0]
        assert not connection.closed
        connection.respond()
        await at(354.0)
        assert not connection.closed
        await at(356.0)
        assert connection.closed


@virtual_time
async def test_requests_at_intervals_under_the_idle_time_keep_the_connection() -> None:
    network = Network()
    async with network.failover() as failover:
        for seconds in range(0, 500, 50):
            await at(float(seconds))
            await ask(failover)
        assert len(network.connections) == 1


@virtual_time
async def test_an_idle_connection_that_cannot_be_replaced_is_closed_nonetheless() -> None:
    network = Network()
    async with network.failover() as failover:
        await ask(failover)
        network.down.add(PRIMARY)
        await at(56.0)
        assert network.connections[0].closed
        network.down.clear()
        await ask(failover)


@virtual_time
async def test_a_connection_that_the_server_closed_is_replaced_when_it_is_needed() -> None:
    network = Network()
    async with network.failover() as failover:
        await ask(failover)
        network.connections[0].close("closed by the server")
        assert failover.pick() is None
        assert network.seen(ConnectionRetired) == [ConnectionRetired(PRIMARY, 1, "closed by the server")]
        await at(30.0)
        assert len(network.connections) == 1
        await ask(failover)
        assert len(network.connections) == 2


@virtual_time
async def test_http_1_1_grows_to_as_many_connections_as_requests_may_be_in_flight() -> None:
    network = Network(http_version="HTTP/1.1", slots=1)
    async with network.failover(max_in_flight=12) as failover:
        for _ in range(12):
            await send(failover)
        assert len(network.connections) == 12
        waiting = asyncio.create_task(failover.ready())
        await at(4.0)
        assert not waiting.done()
        assert len(network.connections) == 12
        network.connections[3].respond()
        await waiting
        assert await send(failover) is network.connections[3]


@virtual_time
async def test_a_connection_whose_streams_are_full_is_joined_by_another() -> None:
    network = Network(slots=2)
    async with network.failover() as failover:
        used = [await send(failover) for _ in range(5)]
        assert [network.connections.index(each) for each in used if isinstance(each, ScriptedConnection)] == [
            0,
            0,
            1,
            1,
            2,
        ]


@virtual_time
async def test_http_2_has_so_many_connections_at_most() -> None:
    network = Network(slots=1)
    async with network.failover() as failover:
        for _ in range(MAX_CONNECTIONS):
            await send(failover)
        waiting = asyncio.create_task(failover.ready())
        await at(4.0)
        assert not waiting.done()
        assert len(network.connections) == MAX_CONNECTIONS
        network.connections[0].respond()
        await waiting


@virtual_time
async def test_a_full_connection_still_serves_where_another_cannot_be_opened() -> None:
    network = Network(slots=1)
    async with network.failover() as failover:
        await send(failover)
        network.down.add(PRIMARY)
        waiting = asyncio.create_task(failover.ready())
        await at(3.0)
        assert not waiting.done()
        network.connections[0].respond()
        await waiting
        assert failover.pick() is not None


@virtual_time
async def test_a_spare_that_cannot_be_opened_is_not_tried_again_within_a_second() -> None:
    network = Network(handshake=0.001)
    async with network.failover() as failover:
        await ask(failover, 39)
        network.down.add(PRIMARY)
        began = now()
        for _ in range(20):
            await ask(failover)
            await asyncio.sleep(0.1)
        assert len(network.tried) <= 1 + 2
        assert now() - began < 2.2
        network.down.clear()
        await asyncio.sleep(1.0)
        await ask(failover)
        await asyncio.sleep(0.1)
        assert len(network.connections) == 2


@virtual_time
async def test_a_cancelled_wait_leaves_the_pool_usable() -> None:
    network = Network()
    async with network.failover() as failover:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(failover.ready(), 0.05)
        await at(1.0)
        assert len(network.connections) == 1
        await ask(failover)
        assert len(network.connections) == 1


@virtual_time
async def test_connections_that_close_unused_are_opened_ever_more_slowly() -> None:
    network = Network(handshake=0.001)
    async with network.failover() as failover:
        for _ in range(12):
            await failover.ready()
            network.connections[-1].close("closed by the server")
        opened_at = [seconds for _, seconds in network.tried]
        pauses = [later - earlier for earlier, later in itertools.pairwise(opened_at)]
        assert pauses[0] < 0.1
        assert pauses == sorted(pauses)
        assert pauses[-1] == pytest.approx(MAX_BACK_OFF, abs=0.01)
        assert sum(seconds < 1.0 for seconds in opened_at) <= 4
        await ask(failover)
        network.connections[-1].close("closed by the server")
        waited_from = now()
        await ask(failover)
        assert now() - waited_from < 0.1


@virtual_time
async def test_a_connection_that_closes_without_having_had_a_slot_ends_the_wait() -> None:
    network = Network(slots=0)
    async with network.failover() as failover:
        waiting = asyncio.create_task(failover.ready())
        await at(4.0)
        assert not waiting.done()
        assert len(network.connections) == 1
        network.connections[0].close("the server let no request in for 5 s")
        with pytest.raises(TransportError, match=r"primary\.test: the server let no request in") as caught:
            await waiting
        assert caught.value.never_processed


@virtual_time
async def test_pool_and_failover_show_their_state() -> None:
    network = Network(slots=1)
    async with network.failover() as failover:
        await send(failover)
        await ask(failover)
        state = "<ConnectionPool primary.test active: 1 ready, 1 full, 0 retiring, 0 opening>"
        assert repr(failover) == f"<Failover to primary.test, 0 switches: [{state}]>"

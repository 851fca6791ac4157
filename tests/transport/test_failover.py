import asyncio
import socket

import pytest
from support.clients import ClientFor
from support.scripted_network import BACKUP, LAST, PRIMARY, Network, ask, send
from support.virtual_time import at, now, settle, virtual_time

from rongcloud_groups import TransportError
from rongcloud_groups._http import Origin
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups.emulator import Emulator, Faults
from rongcloud_groups.events import ConnectFailed, Emitter, Event, HostSwitched


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"https://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_primary_that_refuses_connections_is_left_at_once(client_for: ClientFor) -> None:
    switches: list[Event] = []
    async with (
        Emulator() as backup,
        client_for(backup, base_urls=[closed_port(), backup.url], hooks=[switches.append]) as client,
    ):
        lookup = await client.get_many([f"g{number}" for number in range(500)])
        assert (len(lookup), lookup.failed) == (500, {})
        assert backup.report().batch_requests == 10
        assert client.stats().host_switches == 1
        assert client.stats().host == backup.url.removeprefix("https://")
    (switch,) = [event for event in switches if isinstance(event, HostSwitched)]
    assert "refused" in switch.reason


@pytest.mark.parametrize("fault", ["error-500", "error-504", "html-502", "hang", "drop"])
async def test_a_primary_that_fails_is_left_and_nothing_is_lost(client_for: ClientFor, fault: str) -> None:
    async with (
        Emulator(faults=Faults(share={fault: 1.0})) as primary,
        Emulator() as backup,
        client_for(primary, backup, attempt_timeout=1 if fault == "hang" else 30) as client,
    ):
        lookup = await client.get_many([f"g{number}" for number in range(300)])
        assert (len(lookup), lookup.failed) == (300, {})
        assert client.stats().host_switches == 1
        seen = primary.report().batch_requests
        await client.get("later")
        assert primary.report().batch_requests == seen


@pytest.mark.parametrize("faults", [Faults(handshake=30), Faults(black_hole=True)], ids=["handshake", "black hole"])
async def test_a_primary_that_never_finishes_its_handshake_is_left(client_for: ClientFor, faults: Faults) -> None:
    async with (
        Emulator(faults=faults) as primary,
        Emulator() as backup,
        client_for(primary, backup, attempt_timeout=0.3) as client,
    ):
        lookup = await client.get_many([f"g{number}" for number in range(100)])
        assert (len(lookup), lookup.failed) == (100, {})


@pytest.mark.parametrize("fault", ["429", "html-403"])
async def test_a_refusal_is_no_reason_to_leave(client_for: ClientFor, fault: str) -> None:
    faults = Faults()
    faults.next(fault, times=2)
    async with Emulator(faults=faults) as primary, Emulator() as backup, client_for(primary, backup) as client:
        await client.get_many(["g1"])
        await client.get_many(["g2"])
        assert client.stats().host_switches == 0
        assert backup.report().connections == 0


async def test_hosts_that_all_refuse_fail_every_id_together(client_for: ClientFor) -> None:
    async with (
        Emulator() as emulator,
        client_for(emulator, base_urls=[closed_port(), closed_port()], outage_timeout=0.3) as client,
    ):
        lookup = await client.get_many(["g1", "g2", "g3"])
        assert {str(error) for error in lookup.failed.values()} == {str(lookup.failed["g1"])}
        assert isinstance(lookup.failed["g1"], TransportError)
        assert "refused" in str(lookup.failed["g1"])
        assert emulator.report().batch_requests == 0


async def test_a_certificate_that_is_not_trusted_is_named(client_for: ClientFor) -> None:
    async with (
        Emulator() as emulator,
        Emulator() as other,
        client_for(emulator, verify=other.ssl_context, max_attempts=1) as client,
    ):
        with pytest.raises(TransportError, match="not trusted"):
            await client.get("g1")


@virtual_time
async def test_a_host_that_cannot_be_reached_is_reported_once_for_each_wait() -> None:
    network = Network()
    network.down.add(PRIMARY)
    async with network.failover() as failover:
        for tries in (1, 2, 3):
            with pytest.raises(TransportError, match=r"primary\.test is down") as caught:
                await failover.ready()
            assert caught.value.never_processed
            assert len(network.tried) == len(network.seen(ConnectFailed)) == tries
        await at(60.0)
        assert len(network.tried) == 3
        network.down.clear()
        await ask(failover)


@virtual_time
async def test_a_wait_that_begins_before_the_pools_run_ends_in_a_connection() -> None:
    network = Network()
    failover = Failover(
        [Origin.parse(f"https://{PRIMARY}")], network, Emitter([]), requests_per_connection=80, max_in_flight=64
    )
    running = asyncio.create_task(failover.run())
    await asyncio.sleep(0)
    async with asyncio.timeout(5.0):
        await failover.ready()
    assert network.hosts_tried() == [PRIMARY]
    running.cancel()
    await asyncio.wait([running])


@virtual_time
async def test_every_host_is_tried_before_a_wait_fails() -> None:
    network = Network()
    network.down |= {PRIMARY, BACKUP, LAST}
    async with network.failover(PRIMARY, BACKUP, LAST) as failover:
        with pytest.raises(TransportError):
            await failover.ready()
        assert network.hosts_tried() == [PRIMARY, BACKUP, LAST]
        with pytest.raises(TransportError):
            await failover.ready()
        assert sorted(network.hosts_tried()[3:]) == sorted([PRIMARY, BACKUP, LAST])


@virtual_time
async def test_a_host_that_cannot_be_reached_is_left_for_the_next_at_once() -> None:
    network = Network()
    network.down.add(PRIMARY)
    async with network.failover(PRIMARY, BACKUP) as failover:
        await ask(failover)
        assert now() == pytest.approx(0.2, abs=0.001)
        assert failover.host == BACKUP
        assert failover.switches == 1
        assert network.seen(HostSwitched) == [HostSwitched(PRIMARY, BACKUP, "primary.test is down")]
        await ask(failover, 30)
        assert network.hosts_tried() == [PRIMARY, BACKUP]


@virtual_time
async def test_a_failed_request_switches_the_host_and_others_of_it_do_not_switch_back() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        flights = [await send(failover) for _ in range(5)]
        for connection in flights:
            failover.failed(connection, TransportError("no response within 5 s"))
        assert failover.host == BACKUP
        assert failover.switches == 1
        assert network.connections[0].retired_at is not None
        assert not network.connections[0].closed
        await ask(failover)
        assert network.hosts_tried() == [PRIMARY, BACKUP]


@virtual_time
async def test_a_late_failure_from_before_a_switch_says_nothing_of_the_host_now() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        early, late = await send(failover), await send(failover)
        failover.failed(early, TransportError("HTTP 500"))
        failover.failed(await send(failover), TransportError("HTTP 500"))
        assert failover.host == PRIMARY
        failover.failed(late, TransportError("HTTP 500"))
        assert failover.host == PRIMARY


@virtual_time
async def test_with_one_host_a_failed_request_switches_nothing() -> None:
    network = Network()
    async with network.failover() as failover:
        connection = await send(failover)
        failover.failed(connection, TransportError("HTTP 500"))
        assert failover.pick() is connection
        assert failover.switches == 0


@virtual_time
async def test_every_connection_to_a_host_that_is_left_takes_no_more_requests() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        failing = await ask(failover, 50)
        await at(1.0)
        assert len(network.open_to(PRIMARY)) == 2
        failover.failed(failing, TransportError("HTTP 500"))
        assert network.open_to(PRIMARY) == []


@virtual_time
async def test_a_connection_that_comes_up_after_its_host_was_left_is_not_used() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        connection = await send(failover)
        network.connections[0].close("closed by the server")
        waiting = asyncio.create_task(failover.ready())
        await settle()
        failover.failed(connection, TransportError("HTTP 500"))
        await waiting
        picked = failover.pick()
        assert picked is not None
        assert picked.host == BACKUP
        await at(2.0)
        assert network.open_to(PRIMARY) == []


async def switched_to_backup(failover: Failover) -> None:
    failover.failed(await send(failover), TransportError("HTTP 500"))
    await ask(failover)
    assert failover.host == BACKUP


async def probe_opened(failover: Failover) -> None:
    """The first request after a minute on the backup has opened a connection to the primary."""
    await at(62.0)
    await ask(failover)
    await at(63.0)


@virtual_time
async def test_after_a_minute_one_request_probes_the_primary_and_a_response_restores_it() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        await switched_to_backup(failover)
        await at(59.0)
        await ask(failover, 3)
        assert network.hosts_tried().count(PRIMARY) == 1
        await at(61.0)
        assert (await ask(failover)).host == BACKUP
        await at(62.0)
        assert network.hosts_tried().count(PRIMARY) == 2
        probe = await send(failover)
        assert probe.host == PRIMARY
        for _ in range(3):
            assert (await ask(failover)).host == BACKUP
        failover.succeeded(probe)
        assert failover.host == PRIMARY
        assert (await ask(failover)) is probe
        assert network.open_to(BACKUP) == []
        await at(200.0)
        await ask(failover)
        assert failover.switches == 2


@virtual_time
async def test_a_failed_probe_is_repeated_after_another_minute() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        await switched_to_backup(failover)
        for minute in (1, 2, 3):
            await at(minute * 61.0 + 1.0)
            await ask(failover)
            await at(minute * 61.0 + 2.0)
            probe = await send(failover)
            assert probe.host == PRIMARY
            failover.failed(probe, TransportError("HTTP 500"))
            assert failover.host == BACKUP
            assert (await ask(failover)).host == BACKUP
            assert network.open_to(PRIMARY) == []
        assert network.hosts_tried().count(PRIMARY) == 4
        assert failover.switches == 1


@virtual_time
async def test_a_probe_that_cannot_connect_is_repeated_after_another_minute() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        await switched_to_backup(failover)
        network.down.add(PRIMARY)
        for seconds, tries in ((62.0, 2), (121.0, 2), (124.0, 3)):
            await at(seconds)
            await ask(failover)
            await at(seconds + 1.0)
            assert (await ask(failover)).host == BACKUP
            assert network.hosts_tried().count(PRIMARY) == tries
        assert failover.switches == 1


@virtual_time
async def test_a_probe_that_closes_before_it_was_used_is_repeated_after_another_minute() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        await switched_to_backup(failover)
        await probe_opened(failover)
        network.connections[-1].close("closed by the server")
        await at(124.0)
        await ask(failover)
        await at(125.0)
        assert (await ask(failover)).host == PRIMARY


@virtual_time
async def test_a_probe_that_is_closed_as_it_opens_leaves_a_host_in_use() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        await switched_to_backup(failover)
        network.closing.add(PRIMARY)
        await probe_opened(failover)
        network.down.add(BACKUP)
        for connection in network.open_to(BACKUP):
            connection.close("closed by the server")
        with pytest.raises(TransportError):
            await failover.ready()
        network.down.clear()
        network.closing.clear()
        await ask(failover)


@virtual_time
async def test_a_probe_that_neither_responds_nor_fails_is_repeated_after_another_minute() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        await switched_to_backup(failover)
        await probe_opened(failover)
        assert (await send(failover)).host == PRIMARY
        network.connections[-1].close("GOAWAY: the request was never processed")
        await at(124.0)
        await ask(failover)
        await at(125.0)
        assert (await ask(failover)).host == PRIMARY


@virtual_time
async def test_the_backup_failing_leads_back_to_the_primary() -> None:
    network = Network()
    async with network.failover(PRIMARY, BACKUP) as failover:
        await switched_to_backup(failover)
        failover.failed(await send(failover), TransportError("HTTP 500"))
        assert failover.host == PRIMARY
        await ask(failover)
        await at(100.0)
        await ask(failover)
        assert BACKUP not in network.hosts_tried()[3:]

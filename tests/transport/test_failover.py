import socket

import pytest
from support.clients import ClientFor

from rongcloud_groups import TransportError
from rongcloud_groups.emulator import Emulator, Faults
from rongcloud_groups.events import Event, HostSwitched


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
        client_for(primary, backup, attempt_timeout=0.3) as client,
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


async def test_hosts_that_all_refuse_fail_everybody_together(client_for: ClientFor) -> None:
    async with (
        Emulator() as emulator,
        client_for(emulator, base_urls=[closed_port(), closed_port()], max_attempts=2) as client,
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

"""Faults of the network and of the service, and the outcomes of the IDs."""

import asyncio
import logging
from typing import Any

import pytest
from support.clients import ClientFor

from rongcloud_groups import DecodeError, ParameterError, RateLimited, ServerError, ServiceNotEnabled, TransportError
from rongcloud_groups.emulator import Emulator, Faults, GoAway, StreamsDrop

ASKED = [f"g{number}" for number in range(1000)]


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rongcloud_groups._dispatch.retry.FIRST_BACK_OFF", 0.01)


def as_it_is(emulator: Emulator, asked: list[str] = ASKED) -> tuple[list[str], list[str]]:
    universe = emulator.service.universe
    return [each for each in asked if universe.knows(each)], [each for each in asked if not universe.knows(each)]


@pytest.mark.parametrize(
    "fault",
    [
        "rst",
        "refuse",
        "drop",
        "cut",
        "hang",
        "slow-body",
        "goaway",
        "goaway-lower",
        "goaway-close",
        "truncated",
        "garbage",
        "html",
        "html-502",
        "error-500",
        "error-504",
        "429",
        "duplicate",
        "foreign",
        "broken",
    ],
)
@pytest.mark.parametrize("http2", [True, False], ids=["h2", "h1"])
async def test_a_fault_costs_no_id(client_for: ClientFor, fault: str, *, http2: bool) -> None:
    faults = Faults(at={3: fault, 7: fault, 8: fault}, piece_pause=0.001)
    async with (
        Emulator(limit=None, latency=0.005, faults=faults, http2=http2) as emulator,
        client_for(emulator, rate=1000, attempt_timeout=0.3) as client,
    ):
        lookup = await client.get_many(ASKED[:600])
        assert (list(lookup.found), lookup.missing, lookup.failed) == (*as_it_is(emulator, ASKED[:600]), {})
        assert emulator.report().faults[fault] == 3


async def test_a_mixture_of_faults_costs_no_id(client_for: ClientFor) -> None:
    share = dict.fromkeys(
        ["rst", "refuse", "drop", "goaway-lower", "goaway-close", "error-500", "garbage", "truncated", "hang", "429"],
        0.02,
    )
    asked = [f"g{number}" for number in range(5_000)]
    async with (
        Emulator(limit=None, latency=0.01, latency_tail=0.005, faults=Faults(share=share, seed=7)) as emulator,
        client_for(emulator, rate=1000, attempt_timeout=0.5, max_attempts=12) as client,
    ):
        lookup = await client.get_many(asked)
        assert (list(lookup.found), lookup.missing, lookup.failed) == (*as_it_is(emulator, asked), {})
        assert sum(emulator.report().faults.values()) > 10


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("error-500", ServerError),
        ("html-502", ServerError),
        ("garbage", DecodeError),
        ("html", DecodeError),
        ("rst", TransportError),
        ("cut", TransportError),
        ("hang", TransportError),
    ],
)
async def test_a_fault_that_never_ends_fails_calls_after_their_attempts(
    client_for: ClientFor, fault: str, kind: type[Exception]
) -> None:
    async with (
        Emulator(faults=Faults(share={fault: 1.0})) as emulator,
        client_for(emulator, max_attempts=3, attempt_timeout=0.1 if fault == "hang" else 5.0) as client,
    ):
        lookup = await client.get_many(["g1", "g2"])
        assert {type(error) for error in lookup.failed.values()} == {kind}
        assert list(lookup.failed) == ["g1", "g2"]
        # An undecodable response is repeated once, and then its IDs are asked for one by one.
        assert emulator.report().batch_requests == (2 + 2 * 2 if kind is DecodeError else 3)
        with pytest.raises(kind):
            await client.get("g3")


@pytest.mark.parametrize("fault", ["refuse", "goaway-lower"])
async def test_requests_that_the_server_does_not_begin_cost_no_attempt(client_for: ClientFor, fault: str) -> None:
    faults = Faults()
    faults.next(fault, times=4)
    async with Emulator(faults=faults) as emulator, client_for(emulator, max_attempts=2) as client:
        lookup = await client.get_many(["g1", "g2"])
        assert lookup.failed == {}
        assert emulator.report().batch_requests == 5


async def test_a_server_that_never_begins_anything_is_given_up(client_for: ClientFor) -> None:
    async with (
        Emulator(limit=None, faults=Faults(share={"refuse": 1.0})) as emulator,
        client_for(emulator, rate=2000, max_attempts=2) as client,
    ):
        lookup = await client.get_many(["g1"])
        assert isinstance(lookup.failed["g1"], TransportError)
        assert emulator.report().batch_requests == 22


async def test_ids_of_the_other_forty_nine_lose_nothing_to_one_that_is_refused(client_for: ClientFor) -> None:
    asked = ASKED[:500]
    poison = {"g7", "g8", "g320"}
    async with (
        Emulator(limit=None, faults=Faults(poison=poison)) as emulator,
        client_for(emulator, rate=1000) as client,
    ):
        lookup = await client.get_many(asked)
        known, unknown = as_it_is(emulator, [each for each in asked if each not in poison])
        assert (list(lookup.found), lookup.missing) == (known, unknown)
        assert lookup.failed.keys() == poison
        assert {type(error) for error in lookup.failed.values()} == {ParameterError}
        assert emulator.report().batch_requests <= 10 + 2 * 12 + 2


async def test_goaway_after_every_few_requests_costs_nothing(client_for: ClientFor) -> None:
    async with (
        Emulator(limit=None, latency=0.01, faults=Faults(goaway=GoAway("goaway", 7))) as emulator,
        client_for(emulator, rate=500) as client,
    ):
        lookup = await client.get_many(ASKED)
        assert (list(lookup.found), lookup.missing) == as_it_is(emulator)
        assert emulator.report().ids_asked_again <= 50 * emulator.report().connections


async def test_a_stream_limit_that_falls_under_load_blocks_nothing(client_for: ClientFor) -> None:
    async with (
        Emulator(limit=None, latency=0.05, faults=Faults(streams_drop=StreamsDrop(2, 20))) as emulator,
        client_for(emulator, rate=1000) as client,
    ):
        lookup = await client.get_many(ASKED)
        assert (list(lookup.found), lookup.missing) == as_it_is(emulator)
        assert client.stats().retried == 0


@pytest.mark.parametrize("streams", [1, 3, None])
async def test_whatever_number_of_streams_the_server_allows(client_for: ClientFor, streams: int | None) -> None:
    async with (
        Emulator(limit=None, latency=0.01, faults=Faults(streams=streams)) as emulator,
        client_for(emulator, rate=1000) as client,
    ):
        lookup = await client.get_many(ASKED)
        assert (list(lookup.found), lookup.missing) == as_it_is(emulator)
        assert emulator.report().protocol_errors == 0


async def test_a_connection_closed_while_idle_costs_nothing(client_for: ClientFor) -> None:
    async with Emulator(faults=Faults(idle=0.05)) as emulator, client_for(emulator) as client:
        await client.get("g1")
        await asyncio.wait([connection.lost for connection in emulator.connections])
        emulator.faults.idle = None  # those after it wait for as long as the machine takes
        results = await asyncio.gather(*(client.get(each) for each in ASKED[:200]))
        assert len(results) == 200
        assert client.stats().retried == 0


async def test_a_refusal_is_asked_again_without_counting(client_for: ClientFor) -> None:
    faults = Faults()
    faults.next("429", times=3)
    async with Emulator(faults=faults) as emulator, client_for(emulator, max_attempts=2) as client:
        assert len((await client.get_many(["g1", "g2"])).failed) == 0
        assert client.stats().throttled == 3
        assert client.stats().rate < 100


@pytest.mark.parametrize("options", [{"refuse_with_200": True}, {"retry_after": 0.2}, {"count_refused": True}])
async def test_however_the_service_says_that_it_is_too_much(
    client_for: ClientFor, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    asked = ASKED[:600]
    async with Emulator(limit=8, **options) as emulator, client_for(emulator, rate=40) as client:
        lookup = await client.get_many(asked)
        assert (list(lookup.found), lookup.missing) == as_it_is(emulator, asked)
        assert client.stats().throttled == emulator.report().refused > 0
        assert emulator.report().refused < 20
    assert any("App Key" in record.message for record in caplog.records if record.levelno == logging.WARNING)


async def test_not_enabled_is_seen_among_refusals_of_the_rate(client_for: ClientFor) -> None:
    async with Emulator(latency=0.02, faults=Faults(storm=(2, 10_000))) as emulator, client_for(emulator) as client:
        call = asyncio.create_task(client.get_many(ASKED))
        await emulator.wait_for(5)
        emulator.faults.storm = None
        emulator.service.enabled = False
        with pytest.raises(ServiceNotEnabled):
            await call


async def test_the_error_of_a_refusal_carries_what_support_asks_for(client_for: ClientFor) -> None:
    async with Emulator(faults=Faults(poison={"g1"})) as emulator, client_for(emulator) as client:
        with pytest.raises(ParameterError) as caught:
            await client.get("g1")
        assert caught.value.request_id is not None
        assert caught.value.request_id in str(caught.value)
        assert not isinstance(caught.value, RateLimited)

"""A whole client of servers that are broken or mean harm: every lookup ends, and no ID is lost."""

import asyncio
import logging

import pytest
from support.h2_peer import Peer, Received
from support.hostile_server import (
    FLOODS,
    HARMLESS_FIELDS,
    STREAMS,
    after,
    flood,
    hostile,
    ignore,
    lower_streams_to_none,
    on_first_connection,
    respond,
    stop_reading,
)

from rongcloud_groups import RongCloudError, TransportError
from rongcloud_groups._transport.pool import MAX_CONNECTIONS
from rongcloud_groups.events import ConnectionRetired, Event

IDS = [f"group-{number:058}" for number in range(2_500)]


async def test_a_server_that_never_allows_a_stream_fails_the_lookup_within_its_attempts() -> None:
    async with hostile(respond, {STREAMS: 0}, attempt_timeout=1) as (server, client):
        with pytest.raises(RongCloudError, match="SETTINGS"):
            await client.get("g1")
        assert len(server.peers) <= 3 * 2
        assert not any(peer.requests for peer in server.peers)


async def test_streams_taken_away_after_each_response_cost_no_id() -> None:
    async with hostile(lower_streams_to_none, rate=1000) as (server, client):
        for number in range(3):
            assert (await client.get(f"g{number}")) is not None
        assert all(len(peer.requests) <= 1 for peer in server.peers)


async def test_a_window_that_is_never_widened_costs_no_id() -> None:
    async with hostile(respond, rate=1000, attempt_timeout=1) as (server, client):
        server.replenish = False
        group_ids = [f"group-{number:058}" for number in range(7_500)]
        assert len((await client.get_many(group_ids)).found) == len(group_ids)
        assert len(server.peers) > MAX_CONNECTIONS
        assert sum(len(peer.requests) for peer in server.peers) == len(group_ids) / 50


@pytest.mark.parametrize("behave", [ignore, stop_reading], ids=["answers only PINGs", "stops reading"])
async def test_a_connection_that_is_stuck_is_replaced(behave: object) -> None:
    script = on_first_connection(after(1, behave))  # type: ignore[arg-type]
    async with hostile(script, rate=1000, attempt_timeout=1, max_attempts=10) as (server, client):
        assert (await client.get("before")) is not None
        assert len((await client.get_many(IDS)).found) == len(IDS)
        assert len(server.peers[0].requests) <= 64 + 1


@pytest.mark.parametrize("behave", [ignore, stop_reading], ids=["answers only PINGs", "stops reading"])
async def test_a_service_that_is_stuck_ends_each_id_after_its_attempts(behave: object) -> None:
    async with hostile(behave, max_attempts=2, attempt_timeout=0.3) as (server, client):  # type: ignore[arg-type]
        lookup = await client.get_many(["g1", "g2"])
        assert set(lookup.failed) == {"g1", "g2"}
        assert sum(len(peer.requests) for peer in server.peers) == 2


@pytest.mark.parametrize("fields", HARMLESS_FIELDS, ids=lambda fields: fields[0][0])
async def test_fields_that_gateways_add_cost_neither_id_nor_connection(fields: list[tuple[str, str]]) -> None:
    def with_fields(peer: Peer, request: Received) -> None:
        headers = peer.headers
        peer.headers = lambda stream_id, given, *, end: headers(stream_id, [*given, *fields], end=end)  # type: ignore[method-assign, assignment, misc]
        respond(peer, request)
        peer.headers = headers  # type: ignore[method-assign]

    async with hostile(with_fields, rate=1000) as (server, client):
        assert len((await client.get_many(IDS[:1_000])).found) == 1_000
        assert len(server.peers) == 1


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_costs_one_connection_and_no_id(kind: str) -> None:
    async with hostile(on_first_connection(flood(FLOODS[kind])), rate=1000) as (server, client):
        assert len((await client.get_many(IDS[:100])).found) == 100
        assert len(server.peers) == 2


async def test_a_server_that_only_floods_ends_each_id_after_its_attempts() -> None:
    async with hostile(flood(FLOODS["PING"])) as (server, client):
        with pytest.raises(RongCloudError, match="flood"):
            await client.get("g1")
        assert len(server.peers) <= 3 + 1


async def test_no_signature_or_nonce_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with hostile(respond, rate=1000) as (server, client):
            await client.get_many(IDS[:200])
            requests = [request for peer in server.peers for request in peer.requests]
    # The server, in this same process, logs what it decodes.
    log = "\n".join(message for message in caplog.messages if not message.startswith("Decod"))
    assert requests
    assert "connected to" in log
    for request in requests:
        assert request.headers["signature"] not in log
        assert request.headers["nonce"] not in log


class ClosingLimiter:
    """Grants each of the first tokens when the server has closed all connections and the client knows it."""

    rate = 100.0

    def __init__(self, tokens: float = float("inf")) -> None:
        self.tokens = tokens
        self.peers: list[Peer] = []
        self._retired = asyncio.Event()

    def on_event(self, event: Event) -> None:
        if isinstance(event, ConnectionRetired):
            self._retired.set()

    async def acquire(self) -> None:
        self.tokens -= 1
        if self.tokens < 0:
            return
        self._retired.clear()
        for peer in self.peers:
            peer.transport.close()
        await self._retired.wait()

    async def throttle(self, retry_after: float | None, age: float) -> float:  # noqa: ARG002  the limiter's signature
        return 0.0


async def test_connections_that_close_before_their_token_cost_attempts_and_are_few() -> None:
    limiter = ClosingLimiter()
    async with hostile(respond, limiter=limiter, hooks=[limiter.on_event]) as (server, client):
        limiter.peers = server.peers
        lookup = await client.get_many(["g1", "g2"])
        assert [type(error) for error in lookup.failed.values()] == [TransportError] * 2
        assert len(server.peers) <= 4
        assert not any(peer.requests for peer in server.peers)


async def test_one_connection_that_closes_before_its_token_fails_no_id() -> None:
    limiter = ClosingLimiter(tokens=1)
    async with hostile(respond, limiter=limiter, hooks=[limiter.on_event], max_attempts=1) as (server, client):
        limiter.peers = server.peers
        assert list((await client.get_many(["g1", "g2"])).found) == ["g1", "g2"]


async def test_a_listing_whose_connections_close_fails() -> None:
    def close(peer: Peer, _request: Received) -> None:
        peer.transport.close()

    async with hostile(close) as (_server, client):
        with pytest.raises(TransportError):
            async for _ in client.list_groups():
                pass


async def test_a_misdirected_request_is_retried_on_a_new_connection() -> None:
    def misdirect(peer: Peer, request: Received) -> None:
        peer.respond(request.stream_id, b"", status="421")

    async with hostile(on_first_connection(misdirect)) as (server, client):
        lookup = await client.get_many(["g1", "g2"])
        assert list(lookup.found) == ["g1", "g2"]
        assert len(server.peers) == 2

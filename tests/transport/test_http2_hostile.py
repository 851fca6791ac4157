"""One connection to servers that are broken or mean harm."""

import asyncio
import time

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, Frame, PingFrame, SettingsFrame, WindowUpdateFrame
from support.h2_peer import QUERY, Peer, Received, by_path, opened, serving
from support.hostile_server import FLOODS, HARMLESS_FIELDS, STREAMS, flood, ignore, stop_reading

from rongcloud_groups._http import Response
from rongcloud_groups._transport.http1 import HTTP1Connection
from rongcloud_groups._transport.http2.connection import HTTP2Connection
from rongcloud_groups._transport.http2.session import SHARED_WINDOW, STREAM_WINDOW
from rongcloud_groups._transport.httpx_adapter import HttpxConnection
from rongcloud_groups._transport.interface import Connection
from rongcloud_groups._transport.response import MAX_BODY_SIZE
from rongcloud_groups.errors import TransportError

MB = 1_000_000


# No slots


async def test_a_server_that_allows_no_stream_is_no_connection() -> None:
    async with serving(settings={STREAMS: 0}) as server:
        with pytest.raises(TransportError, match=r"SETTINGS.* timed out after 1 s") as failed:
            await opened(server.url, timeout=1)
        assert failed.value.never_processed


async def test_a_server_that_allows_streams_later_is_waited_for() -> None:
    def greet(peer: Peer) -> None:
        peer.write(SettingsFrame(settings={STREAMS: 3}))

    async with serving(settings={STREAMS: 0}, greet=greet) as server:
        connection = await opened(server.url)
        assert connection.open_slots == 3
        await connection.aclose()


async def test_a_connection_left_without_streams_retires_after_the_last_response() -> None:
    async with serving(by_path) as server, server.client(slot_timeout=0.05) as client:
        future = client.connection.send(QUERY._replace(path="/hang"), 30)
        await server.peer.until_requests(1)
        server.peer.write(SettingsFrame(settings={STREAMS: 0}))
        await client.until(lambda: client.connection.closed_reason != "")
        assert client.connection.closed_reason == "the server let no request in for 0.05 s"
        assert not client.connection.closed
        server.peer.respond(1)
        assert (await future).status == 200
        assert client.connection.closed


async def test_an_idle_connection_without_slots_closes() -> None:
    async with serving() as server, server.client(slot_timeout=0.05) as client:
        server.peer.write(SettingsFrame(settings={STREAMS: 0}))
        await client.until(lambda: client.connection.closed)
        await server.peer.lost.wait()


async def test_streams_that_come_back_in_time_keep_the_connection() -> None:
    async with serving() as server, server.client(slot_timeout=1) as client:
        for _ in range(3):
            server.peer.write(SettingsFrame(settings={STREAMS: 0}))
            await client.until(lambda: client.connection.open_slots == 0)
            server.peer.write(SettingsFrame(settings={STREAMS: 5}))
            await client.until(lambda: client.connection.open_slots == 5)
        await asyncio.sleep(1.2)  # as long as the timer of the first would have run
        assert not client.connection.closed_reason


async def test_a_connections_window_that_is_never_widened_retires_the_connection() -> None:
    async with serving() as server, server.client(slot_timeout=0.05) as client:
        server.replenish = False
        assert (await client.ask(body=b"x" * 60_000)).status == 200
        assert client.connection.open_slots == 0
        await client.until(lambda: client.connection.closed)
        assert "let no request in" in client.connection.closed_reason


async def test_a_server_that_stops_reading_retires_the_connection_though_it_sends_pings() -> None:
    async with serving(stop_reading) as server, server.client(slot_timeout=0.05, ping_after=0.05) as client:
        futures = [client.connection.send(QUERY._replace(body=b"x" * 40_000), 0.3)]
        await server.peer.until_requests(1)
        server.peer.write(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**30}))
        server.peer.write(WindowUpdateFrame(0, window_increment=2**30))
        await client.until(lambda: client.connection._session.send_window > 2**29)
        while client.connection.open_slots:
            futures.append(client.connection.send(QUERY._replace(body=b"x" * 300_000), 0.3))
        for future in futures:
            with pytest.raises(TransportError, match="no response within"):
                await future
        assert client.connection.closed


async def test_a_connection_that_responds_to_nothing_for_a_whole_attempt_retires() -> None:
    async with serving(ignore) as server, server.client() as client:
        first, second = (client.connection.send(QUERY, seconds) for seconds in (0.05, 0.1))
        for future in (first, second):
            with pytest.raises(TransportError, match="no response within"):
                await future
        assert client.connection.closed
        assert "no response within 0.05 s" in client.connection.closed_reason
        assert len(server.peer.requests) == 2


# Fields that HTTP/2 forbids


@pytest.mark.parametrize("fields", HARMLESS_FIELDS, ids=lambda fields: fields[0][0])
async def test_forbidden_but_harmless_fields_are_tolerated(fields: list[tuple[str, str]]) -> None:
    def respond(peer: Peer, request: Received) -> None:
        peer.write(peer.headers(request.stream_id, [(":status", "200"), *fields]))
        peer.write(DataFrame(request.stream_id, b"body", flags=["END_STREAM"]))

    async with serving(respond) as server, server.client() as client:
        for _ in range(3):
            assert (await client.ask()).body == b"body"
        assert len(server.peers) == 1


async def test_names_are_in_lower_case_and_connection_fields_are_left_out() -> None:
    def respond(peer: Peer, request: Received) -> None:
        fields = [(":status", "200"), ("Content-Type", "a/b"), ("Connection", "x"), ("transfer-encoding", "chunked")]
        peer.write(peer.headers(request.stream_id, fields, end=True))

    async with serving(respond) as server, server.client() as client:
        assert await client.ask() == Response(200, {"content-type": "a/b"}, b"")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([(":status", "200"), (":status", "404")], "status '200 and 404'"),
        ([(":status", "200"), ("content-length", "4"), ("content-length", "5")], "content-length '4 and 5'"),
        ([(":status", "200"), ("content-length", "four")], "content-length 'four'"),
        ([(":status", "200"), ("content-length", "-4")], "content-length '-4'"),
        ([(":status", "200"), ("content-length", "9" * 5000)], "content-length '9999"),
        ([(":status", "200"), ("content-length", str(MAX_BODY_SIZE + 1))], "a body of more than 16 MiB"),
    ],
    ids=["two statuses", "two lengths", "no number", "below zero", "far too long", "over the cap"],
)
async def test_fields_that_contradict_each_other_cost_that_request_alone(
    fields: list[tuple[str, str]], reason: str
) -> None:
    def respond(peer: Peer, request: Received) -> None:
        if request.stream_id == 1:
            peer.write(peer.headers(1, fields))
            peer.write(DataFrame(1, b"body", flags=["END_STREAM"]))
        else:
            peer.respond(request.stream_id)

    async with serving(respond) as server, server.client() as client:
        with pytest.raises(TransportError, match=reason):
            await client.ask()
        assert (await client.ask()).status == 200


# Floods


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_frames_ends_the_connection_and_the_request(kind: str) -> None:
    async with serving(flood(FLOODS[kind])) as server, server.client(ping_after=30) as client:
        cancelled = client.connection.send(QUERY._replace(path="/first"), 30)
        future = client.connection.send(QUERY, 30)
        future.cancel()
        with pytest.raises(TransportError):
            await cancelled
        await server.peer.lost.wait()
        assert client.connection.closed
        if kind != "CONTINUATION":  # the server's WINDOW_UPDATE for the second request breaks into the header block
            assert server.peer.goaways == [ErrorCodes.ENHANCE_YOUR_CALM]


async def test_a_flood_before_any_request_ends_the_connection() -> None:
    async with serving() as server, server.client() as client:
        server.peer.write(*[PingFrame(opaque_data=b"12345678") for _ in range(5_000)])
        await client.until(lambda: client.connection.closed)
        assert "flood" in client.connection.closed_reason
        await server.peer.lost.wait()


async def test_one_step_handles_few_frames_and_lets_others_run_before_the_next() -> None:
    async with serving() as server, server.client() as client:
        acknowledged: list[int] = []
        session = client.connection._session
        data_to_send = session.data_to_send

        def count() -> bytes:
            data = data_to_send()
            acknowledged.append(data.count(PingFrame(flags=["ACK"], opaque_data=b"12345678").serialize()))
            return data

        session.data_to_send = count  # type: ignore[method-assign]
        client.connection.data_received(PingFrame(opaque_data=b"12345678").serialize() * 1_000)
        assert len(acknowledged) == 1
        for turn in range(2, 5):
            await asyncio.sleep(0)
            assert len(acknowledged) == turn
        await client.ask()
        assert sum(acknowledged) == 1_000
        assert max(acknowledged) <= 100
        assert len(server.peers) == 1


async def test_frames_waiting_for_their_step_are_no_silence() -> None:
    async with (
        serving(by_path, acknowledges_pings=False) as server,
        server.client(ping_after=0.02, ping_timeout=0.02) as client,
    ):
        future = client.connection.send(QUERY._replace(path="/hang"), 30)
        client.connection.data_received(PingFrame(opaque_data=b"12345678").serialize() * 1_500)
        while client.connection._session.reader.unread:
            time.sleep(0.01)  # noqa: ASYNC251  the steps take longer than a silence may
            await asyncio.sleep(0)
        client.connection.data_received(server.peer.headers(1, end=True).serialize())
        assert (await future).status == 200


@pytest.mark.parametrize("ending", ["eof_received", "connection_lost"])
async def test_whole_responses_that_come_right_before_the_end_are_responses(ending: str) -> None:
    async with serving(by_path) as server, server.client() as client:
        futures = [client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(60)]
        frames: list[Frame] = [PingFrame(opaque_data=b"12345678")] * 500
        frames += [server.peer.headers(stream_id, end=True) for stream_id in range(1, 121, 2)]
        client.connection.data_received(b"".join(frame.serialize() for frame in frames))
        assert not any(future.done() for future in futures)
        if ending == "eof_received":
            client.connection.eof_received()
        else:
            client.connection._transport.abort()
            await client.until(lambda: client.connection.closed)
        assert {(await future).status for future in futures} == {200}


async def test_a_talkative_server_that_responds_is_kept() -> None:
    def respond(peer: Peer, request: Received) -> None:
        for _ in range(10):
            peer.write(PingFrame(opaque_data=b"12345678"), SettingsFrame(settings={STREAMS: 100}))
            peer.write(WindowUpdateFrame(0, window_increment=1))
            peer.write(peer.headers(request.stream_id, [(":status", "103"), ("link", "</style.css>; rel=preload")]))
        peer.write(peer.headers(request.stream_id))
        for _ in range(200):
            peer.write(DataFrame(request.stream_id, b"x" * 64))
        peer.write(DataFrame(request.stream_id, b"", flags=["END_STREAM"]))

    async with serving(respond) as server, server.client() as client:
        for _ in range(100):
            assert len((await client.ask()).body) == 64 * 200
        assert len(server.peers) == 1


# Memory


async def test_responses_together_hold_no_more_than_the_windows_allow() -> None:
    endless = b"x" * (2 << 20)  # all 64 would take far more than the windows

    def respond(peer: Peer, request: Received) -> None:
        peer.respond(request.stream_id, endless, length=None)
        peer._unsent[request.stream_id].pop()  # the end never comes

    async with serving(respond) as server, server.client() as client:
        futures = [client.connection.send(QUERY, 30) for _ in range(64)]
        await server.peer.until_requests(64)
        settled = 0
        while settled < 50:  # turns of the event loop in which nothing more was sent
            before = server.peer.bytes_sent
            await asyncio.sleep(0.001)
            settled = settled + 1 if server.peer.bytes_sent == before else 0
        assert server.peer.bytes_sent <= 64 * STREAM_WINDOW + SHARED_WINDOW
        for future in futures:
            future.cancel()
        await asyncio.wait(futures)
        assert client.connection.in_flight == 0


@pytest.mark.parametrize("announced", [True, False], ids=["with a length", "without a length"])
async def test_many_large_responses_at_once_all_arrive(announced: bool) -> None:  # noqa: FBT001  a parameter
    def respond(peer: Peer, request: Received) -> None:
        peer.respond(request.stream_id, b"x" * MB, length=-1 if announced else None)

    async with serving(respond) as server, server.client() as client:
        responses = await asyncio.gather(*(client.connection.send(QUERY, 30) for _ in range(64)))
        assert {len(response.body) for response in responses} == {MB}
        assert len(server.peers) == 1


async def test_a_response_larger_than_any_batch_costs_that_request_alone() -> None:
    def respond(peer: Peer, request: Received) -> None:
        size = MAX_BODY_SIZE + 1 if request.stream_id == 1 else MAX_BODY_SIZE
        peer.respond(request.stream_id, b"x" * size, length=None)

    async with serving(respond) as server, server.client() as client:
        with pytest.raises(TransportError, match="a body of more than 16 MiB"):
            await client.ask(timeout=30)
        assert len((await client.ask(timeout=30)).body) == MAX_BODY_SIZE
        assert len(server.peers) == 1


async def test_padding_uses_up_no_window() -> None:
    def respond(peer: Peer, request: Received) -> None:
        peer.write(peer.headers(request.stream_id))
        for _ in range(2_000):
            peer.write(DataFrame(request.stream_id, b"x" * 100, flags=["PADDED"], pad_length=255))
        peer.write(DataFrame(request.stream_id, b"", flags=["END_STREAM"]))

    async with serving(respond) as server, server.client() as client:
        for _ in range(3):
            assert len((await client.ask()).body) == 200_000
        assert len(server.peers) == 1


async def test_a_server_that_ignores_the_windows_loses_the_connection() -> None:
    def respond(peer: Peer, request: Received) -> None:
        peer.write(peer.headers(request.stream_id))
        for _ in range(500):
            peer.write(DataFrame(request.stream_id, b"x" * 16_384))

    async with serving(respond) as server, server.client() as client:
        for future in [client.connection.send(QUERY, 30) for _ in range(3)]:
            with pytest.raises(TransportError, match="more DATA than a stream's window takes"):
                await future
        await server.peer.lost.wait()


# Half-made objects


@pytest.mark.parametrize("kind", [HTTP2Connection, HTTP1Connection, HttpxConnection])
def test_a_half_made_connection_has_a_repr(kind: type[Connection]) -> None:
    assert kind.__name__ in repr(kind.__new__(kind))

import asyncio
import random
from itertools import count

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from support.h2_peer import HIGHEST_STREAM_ID, QUERY, Peer, Received, by_path, serving

from rongcloud_groups._http import Request, Response
from rongcloud_groups._transport import response as http_response
from rongcloud_groups.errors import TransportError

STREAMS = SettingsFrame.MAX_CONCURRENT_STREAMS
KB20 = b"x" * 20_000


async def test_a_request_arrives_as_it_was_sent_and_its_response_comes_back() -> None:
    async with serving() as server, server.client() as client:
        response = await client.connection.send(QUERY, 5)
        _, headers, body = server.peer.requests[0]
    assert response == Response(200, {"content-length": "14"}, b"/q groupIds=g1")
    assert body == b"groupIds=g1"
    assert headers == {
        ":method": "POST",
        ":scheme": "https",
        ":authority": f"localhost:{server.port}",
        ":path": "/q",
        "app-key": "key",
        "nonce": "n1",
        "content-length": "11",
    }


async def test_a_request_without_a_body_gets_a_response() -> None:
    async with serving() as server, server.client() as client:
        assert (await client.ask(body=b"")).body == b"/q "


async def test_no_request_depends_on_what_the_server_remembers_of_earlier_ones() -> None:
    async with serving() as server, server.client() as client:
        for number in range(200):
            headers = [("app-key", "k" * 40), ("nonce", f"nonce-{number:04}")]
            await client.connection.send(Request("/q", headers, b"x"), 5)
        first, *others = server.peer.header_sizes.values()
        assert server.peer.requests[-1][1]["nonce"] == "nonce-0199"
        assert not server.peer.decoder.header_table.dynamic_entries
    assert set(others) == {first - 1}  # the first one sets the table's size to 0
    assert first < 130


async def test_slow_responses_hold_up_no_fast_one() -> None:
    async with serving(by_path) as server, server.client() as client:
        slow = [client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(20)]
        assert (await client.ask("/fast", timeout=5)).status == 200
        assert not any(future.done() for future in slow)
        for future in slow:
            future.cancel()


async def test_cancelled_requests_harm_no_other_and_keep_the_connection() -> None:
    chosen = random.Random(7)
    async with serving() as server, server.client() as client:
        for _ in range(100):
            tasks = [asyncio.create_task(client.ask()) for _ in range(30)]
            await asyncio.sleep(0)
            cancelled = chosen.sample(tasks, 8)
            for task in cancelled:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            innocent = [o for o, task in zip(outcomes, tasks, strict=True) if task not in cancelled]
            assert all(isinstance(outcome, Response) for outcome in innocent)
        assert client.connection.in_flight == 0
        assert client.connection.open_slots == 100
        assert len(server.peers) == 1


async def test_hung_requests_that_were_cut_off_give_their_slots_back() -> None:
    async with serving(by_path) as server, server.client() as client:
        tasks = [asyncio.create_task(client.ask("/hang")) for _ in range(130)]
        await server.peer.until_requests(100)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await server.peer.until(lambda: len(server.peer.resets) == 100)
        assert {code for _, code in server.peer.resets} == {ErrorCodes.CANCEL}
        assert client.connection.open_slots == 100
        responses = await asyncio.gather(*(client.ask() for _ in range(130)))
        assert {response.status for response in responses} == {200}


async def test_abandoned_responses_use_up_no_window() -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.respond(request.stream_id, KB20)

    async with serving(answer) as server, server.client() as client:
        for number in range(1_200):
            future = client.connection.send(QUERY, 10)
            if number % 2:
                await server.peer.until_requests(number + 1)
            future.cancel()
            await asyncio.sleep(0)
        assert (await client.ask()).body == KB20
        assert len(server.peers) == 1
        assert len(server.peer.requests) == 1_201


async def test_responses_that_were_read_open_the_window_again() -> None:
    big = b"x" * 1_000_000

    def answer(peer: Peer, request: Received) -> None:
        peer.respond(request.stream_id, big)

    async with serving(answer) as server, server.client() as client:
        for _ in range(20):
            assert len((await client.ask()).body) == len(big)
        assert len(server.peers) == 1


async def test_a_hung_stream_times_out_alone_while_others_get_responses() -> None:
    async with serving(by_path) as server, server.client() as client:
        hung = client.connection.send(QUERY._replace(path="/hang"), 0.05)
        answered = 0
        while not hung.done():
            answered += (await client.ask()).status == 200
        with pytest.raises(TransportError, match=rf"no response within 0.05 s from localhost:{server.port}"):
            await hung
        assert answered
        await server.peer.until(lambda: server.peer.resets == [(1, ErrorCodes.CANCEL)])
        assert (await client.ask()).status == 200


async def test_a_deadline_that_is_due_at_once_is_met_beside_a_later_one() -> None:
    async with serving(by_path) as server, server.client() as client:
        for future in [client.connection.send(QUERY._replace(path="/hang"), timeout) for timeout in (0.0001, 0.05)]:
            with pytest.raises(TransportError, match="no response within"):
                await future


async def test_a_black_hole_is_noticed_by_a_ping_that_is_not_acknowledged() -> None:
    async with (
        serving(by_path, acknowledges_pings=False) as server,
        server.client(ping_after=0.02, ping_timeout=0.02) as client,
    ):
        futures = [client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(3)]
        for future in futures:
            with pytest.raises(TransportError, match="PING"):
                await future
        assert client.connection.closed
        assert server.peer.pings == 1


async def test_a_slow_server_that_acknowledges_pings_is_waited_for() -> None:
    async with serving(by_path) as server, server.client(ping_after=0.01, ping_timeout=0.5) as client:
        future = client.connection.send(QUERY._replace(path="/hang"), 30)
        await server.peer.until(lambda: server.peer.pings >= 2)
        server.peer.respond(1, b"late")
        assert (await future).body == b"late"


async def test_delivery_is_known_once_a_ping_behind_an_abandoned_request_is_acknowledged() -> None:
    async with serving() as server, server.client() as client:
        request = client.connection.send(QUERY, 10.0)
        request.cancel()
        await asyncio.sleep(0)
        assert await client.connection.delivered()
        assert len(server.peer.requests) == 1
        both = client.connection.delivered(), client.connection.delivered(), client.connection.delivered()
        assert all(await asyncio.gather(*both))
        assert server.peer.pings == 3


@pytest.mark.parametrize("by_server", [True, False])
async def test_delivery_is_known_where_the_server_closed_the_connection(by_server: bool) -> None:  # noqa: FBT001
    async with serving(by_path, acknowledges_pings=False) as server, server.client() as client:
        before = client.connection.delivered()
        if by_server:
            server.peer.transport.close()
        else:
            await client.connection.aclose()
        assert await before is by_server
        assert await client.connection.delivered() is by_server


async def test_an_idle_connection_is_not_pinged() -> None:
    async with serving() as server, server.client(ping_after=0.01, ping_timeout=10) as client:
        await client.ask()
        assert await client.connection.delivered()  # behind any PING that was sent while the request was open
        before = server.peer.pings
        await asyncio.sleep(0.1)
        assert server.peer.pings == before
        assert not client.connection.closed


async def test_without_a_stream_limit_of_the_server_ours_holds() -> None:
    async with serving(settings={}) as server, server.client(max_in_flight=64) as client:
        assert client.connection.open_slots == 64
        responses = await asyncio.gather(*(client.ask() for _ in range(200)))
        assert {response.status for response in responses} == {200}
        assert len(server.peers) == 1


async def test_a_limit_lowered_under_load_lets_every_request_get_its_response() -> None:
    held: list[int] = []
    open_at_once = 0

    def answer(peer: Peer, request: Received) -> None:
        nonlocal open_at_once
        held.append(request.stream_id)
        if len(peer.requests) == 60:
            peer.write(SettingsFrame(settings={STREAMS: 2}))
        if len(peer.requests) >= 60:
            open_at_once = max(open_at_once, len(held)) if len(peer.requests) > 60 else 0
            while held:
                peer.respond(held.pop())

    async with serving(answer) as server, server.client(max_in_flight=60) as client:
        responses = await asyncio.gather(*(client.ask() for _ in range(100)))
        assert {response.status for response in responses} == {200}
        assert client.connection.open_slots == 2
    assert open_at_once <= 2


async def test_open_slots_is_never_negative_and_opens_again_when_the_limit_rises() -> None:
    async with serving(by_path) as server, server.client() as client:
        futures = [client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(10)]
        server.peer.write(SettingsFrame(settings={STREAMS: 2}))
        await client.until(lambda: client.connection.open_slots == 0)
        server.peer.write(SettingsFrame(settings={STREAMS: 12}))
        await client.until(lambda: client.connection.open_slots == 2)
        for future in futures:
            future.cancel()


async def test_a_request_without_a_slot_is_refused_as_never_processed() -> None:
    async with serving(by_path) as server, server.client(max_in_flight=1) as client:
        first = client.connection.send(QUERY._replace(path="/hang"), 30)
        with pytest.raises(TransportError, match="no free stream") as refused:
            await client.connection.send(QUERY, 5)
        assert refused.value.never_processed
        first.cancel()


async def test_goaway_lets_begun_streams_finish_and_gives_the_later_back() -> None:
    async with serving(by_path) as server, server.client() as client:
        futures = [client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(6)]
        await server.peer.until_requests(6)
        server.peer.write(GoAwayFrame(last_stream_id=5))
        await client.until(lambda: client.connection.in_flight == 3)
        assert client.connection.open_slots == 0
        assert not client.connection.closed
        for future in futures[3:]:
            with pytest.raises(TransportError, match="GOAWAY") as given_back:
                await future
            assert given_back.value.never_processed
        for stream_id in (5, 1, 3):
            server.peer.respond(stream_id, KB20)
        assert [(await future).body for future in futures[:3]] == [KB20] * 3
        assert client.connection.closed
        assert client.connection.closed_reason == "GOAWAY by the server"


async def test_goaway_in_two_steps_and_in_single_bytes_is_understood() -> None:
    async with serving(by_path) as server, server.client() as client:
        futures = [client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(3)]
        await server.peer.until_requests(3)
        first = GoAwayFrame(last_stream_id=HIGHEST_STREAM_ID, additional_data=b"soon")
        second = GoAwayFrame(last_stream_id=3, error_code=ErrorCodes.ENHANCE_YOUR_CALM)
        for byte in (first.serialize() + second.serialize())[:-1]:
            client.connection.data_received(bytes([byte]))
        assert client.connection.in_flight == 3
        client.connection.data_received(second.serialize()[-1:])
        assert client.connection.in_flight == 2
        with pytest.raises(TransportError, match="GOAWAY"):
            await futures[2]
        server.peer.respond(1)
        server.peer.respond(3)
        assert [(await future).status for future in futures[:2]] == [200, 200]


async def test_the_name_of_a_goaway_error_is_kept_for_the_log() -> None:
    async with serving() as server, server.client() as client:
        server.peer.write(GoAwayFrame(error_code=ErrorCodes.ENHANCE_YOUR_CALM))
        await client.until(lambda: client.connection.closed)
        assert client.connection.closed_reason == "GOAWAY by the server: ENHANCE_YOUR_CALM"


@pytest.mark.parametrize(
    ("code", "never_processed", "text"),
    [(7, True, "REFUSED_STREAM"), (2, False, "INTERNAL_ERROR"), (0, False, "NO_ERROR"), (99, False, "error 99")],
)
async def test_a_stream_reset_ends_that_request_alone(code: int, never_processed: bool, text: str) -> None:  # noqa: FBT001  a parameter
    async with serving(by_path) as server, server.client() as client:
        victim, bystander = (client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(2))
        await server.peer.until_requests(2)
        server.peer.write(RstStreamFrame(1, error_code=code))
        with pytest.raises(TransportError, match=text) as reset:
            await victim
        assert reset.value.never_processed is never_processed
        server.peer.respond(3)
        assert (await bystander).status == 200


async def test_a_response_before_the_whole_request_was_sent_is_a_response() -> None:
    def answer_headers(peer: Peer) -> None:
        peer.respond(1, b"too large", status="413")
        peer.write(RstStreamFrame(1, error_code=ErrorCodes.NO_ERROR))

    async with serving() as server, server.client() as client:
        server.replenish = False
        future = client.connection.send(QUERY._replace(body=b"x" * 60_000), 10)
        # Half a window is left to the connection, but the next body needs more of it.
        second = client.connection
        assert second.open_slots == 0
        await future
    async with serving() as server, server.client() as client:
        server.replenish = False
        future = client.connection.send(QUERY._replace(body=b"x" * 100_000), 10)
        await server.peer.until(lambda: len(server.peer.header_sizes) == 1)
        answer_headers(server.peer)
        assert await future == Response(413, {"content-length": "9"}, b"too large")
        assert client.connection.in_flight == 0
        assert not client.connection.closed


async def test_a_body_larger_than_the_windows_follows_in_pieces() -> None:
    body = bytes(range(256)) * 1_200
    async with serving(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 20_000}) as server, server.client() as client:
        response = await client.ask(body=body)
        assert response.body == b"/q " + body


async def test_a_body_resumes_when_the_server_widens_its_initial_window() -> None:
    async with serving(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}) as server, server.client() as client:
        future = client.connection.send(QUERY, 10)
        await server.peer.until(lambda: 1 in server.peer.header_sizes)
        server.peer.write(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 65_535}))
        assert (await future).body == b"/q groupIds=g1"


async def test_no_slot_is_open_while_the_connections_window_is_small() -> None:
    async with serving(by_path) as server, server.client() as client:
        server.replenish = False
        future = client.connection.send(QUERY._replace(path="/hang", body=b"x" * 60_000), 30)
        assert client.connection.open_slots == 0
        await server.peer.until_requests(1)
        server.peer.write(WindowUpdateFrame(0, window_increment=60_000))
        await client.until(lambda: client.connection.open_slots == 99)
        future.cancel()


SHORT = "a body of 5 bytes where content-length says 9"


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param([DataFrame(1, b"short", flags=["END_STREAM"])], id="in one frame"),
        pytest.param([DataFrame(1, b"short"), DataFrame(1, b"", flags=["END_STREAM"])], id="an empty last frame"),
        pytest.param(
            [DataFrame(1, b"short"), HeadersFrame(1, b"\x00\x01x\x01y", flags=["END_HEADERS", "END_STREAM"])],
            id="trailers",
        ),
    ],
)
async def test_a_body_shorter_than_its_content_length_ends_that_request_alone(ending: list[DataFrame]) -> None:
    async with serving(by_path) as server, server.client() as client:
        victim, bystander = (client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(2))
        await server.peer.until_requests(2)
        head = server.peer.headers(1, [(":status", "200"), ("content-length", "9")])
        server.peer.write(head, *ending)
        with pytest.raises(TransportError, match=SHORT):
            await victim
        server.peer.respond(3)
        assert (await bystander).status == 200
        assert (await client.ask()).status == 200


async def test_a_body_longer_than_its_content_length_is_an_error() -> None:
    async with serving(by_path) as server, server.client() as client:
        future = client.connection.send(QUERY._replace(path="/hang"), 30)
        await server.peer.until_requests(1)
        server.peer.respond(1, b"too long", length=3)
        with pytest.raises(TransportError, match="a body of 8 bytes where content-length says 3"):
            await future


async def test_a_body_without_a_content_length_is_taken_as_it_comes() -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.respond(request.stream_id, b"whole", length=None)

    async with serving(answer) as server, server.client() as client:
        assert await client.ask() == Response(200, {}, b"whole")


async def test_informational_responses_are_skipped_and_trailers_tolerated() -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.write(peer.headers(request.stream_id, [(":status", "103"), ("link", "x")]))
        peer.write(peer.headers(request.stream_id, [(":status", "200"), ("a", "1"), ("a", "2")]))
        peer.write(DataFrame(request.stream_id, b"pad", flags=["PADDED"], pad_length=7))
        peer.write(peer.headers(request.stream_id, [("grpc-status", "0")], end=True))

    async with serving(answer) as server, server.client() as client:
        assert await client.ask() == Response(200, {"a": "2"}, b"pad")


@pytest.mark.parametrize("status", ["2x0", "20", "²⁰⁰", "+20"])
async def test_a_status_that_is_no_number_is_an_error_of_that_request(status: str) -> None:
    def answer(peer: Peer, request: Received) -> None:
        peer.respond(request.stream_id, status="200" if request.stream_id > 1 else status)

    async with serving(answer) as server, server.client() as client:
        with pytest.raises(TransportError, match="is no number"):
            await client.ask()
        assert (await client.ask()).status == 200


async def test_a_response_without_a_status_is_an_error_of_that_request() -> None:
    def answer(peer: Peer, request: Received) -> None:
        if request.stream_id == 1:
            peer.write(peer.headers(request.stream_id, [("server", "x")], end=True))
        else:
            peer.respond(request.stream_id)

    async with serving(answer) as server, server.client() as client:
        with pytest.raises(TransportError, match="status '' is no number"):
            await client.ask()
        assert (await client.ask()).status == 200


async def test_a_body_over_the_cap_ends_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_response, "MAX_BODY_SIZE", 30_000)
    async with serving() as server, server.client() as client:
        with pytest.raises(TransportError, match="a body of more than"):
            await client.ask(body=b"x" * 30_001)
        assert len((await client.ask(body=b"x" * 29_000)).body) == 29_003


async def test_a_header_list_over_the_cap_is_an_error() -> None:
    def answer(peer: Peer, request: Received) -> None:
        block = peer.encoder.encode([(":status", "200"), ("x", "~" * 70_000)], huffman=False)
        peer.write(HeadersFrame(request.stream_id, block[:16_384]))
        for start in range(16_384, len(block), 16_384):
            flags = ["END_HEADERS"] if start + 16_384 >= len(block) else []
            peer.write(ContinuationFrame(request.stream_id, block[start : start + 16_384], flags=flags))

    async with serving(answer) as server, server.client() as client:
        with pytest.raises(TransportError, match="a header block that is too long"):
            await client.ask()


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 400, id="another protocol"),
        pytest.param(b"\xff" * 20_000, id="no frames"),
        pytest.param(b"\x00\x00\x03\x07\x00\x00\x00\x00\x00abc", id="a GOAWAY cut short"),
        pytest.param(b"\x00\x00\x08\x07\x00\x00\x00\x00\x01abcdefgh", id="a GOAWAY on a stream"),
        pytest.param(b"\x00\xff\xff\x07\x00\x00\x00\x00\x00" + b"g" * 65_535, id="a GOAWAY too long"),
        pytest.param(HeadersFrame(1, b"\xff\xff\xff\xff\xff", flags=["END_HEADERS"]).serialize(), id="HPACK"),
        pytest.param(b"\x00\x00\x04\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02", id="a push"),
        pytest.param(DataFrame(7, b"not asked for").serialize(), id="DATA on an idle stream"),
    ],
)
async def test_bytes_that_are_not_http2_end_all_requests_and_nothing_else(garbage: bytes) -> None:
    async with serving(by_path) as server, server.client() as client:
        futures = [client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(2)]
        await server.peer.until_requests(2)
        server.peer.transport.write(garbage)
        for future in futures:
            with pytest.raises(TransportError, match="HTTP/2 broken by the server"):
                await future
        assert client.connection.closed
        await server.peer.lost.wait()
        assert server.peer.goaways


async def test_a_server_that_closes_an_idle_connection_is_noticed_before_the_next_request() -> None:
    async with serving() as server, server.client() as client:
        await client.ask()
        server.peer.transport.close()
        await client.until(lambda: client.connection.closed)
        assert client.connection.open_slots == 0
        assert client.connection.closed_reason == "closed by the server"


async def test_a_lost_connection_ends_the_open_requests() -> None:
    async with serving(by_path) as server, server.client() as client:
        future = client.connection.send(QUERY._replace(path="/hang"), 30)
        await server.peer.until_requests(1)
        server.peer.transport.abort()
        with pytest.raises(TransportError, match=r"connection lost|closed by the server") as lost:
            await future
        assert not lost.value.never_processed


async def test_a_retired_connection_finishes_what_is_open_and_closes() -> None:
    async with serving(by_path) as server, server.client() as client:
        future = client.connection.send(QUERY._replace(path="/hang"), 30)
        client.connection.retire("used up")
        client.connection.retire("used up")
        assert client.connection.open_slots == 0
        assert not client.connection.closed
        await server.peer.until_requests(1)
        server.peer.respond(1)
        assert (await future).status == 200
        assert client.connection.closed
        assert client.connection.closed_reason == "used up"
        await server.peer.lost.wait()
        assert server.peer.goaways == [ErrorCodes.NO_ERROR]


async def test_an_idle_connection_that_is_retired_closes_at_once() -> None:
    async with serving() as server, server.client() as client:
        client.connection.retire("used up")
        assert client.connection.closed
        with pytest.raises(TransportError, match="used up"):
            await client.connection.send(QUERY, 5)
        assert "used up" in repr(client.connection)


async def test_aclose_ends_the_open_requests_and_may_be_repeated() -> None:
    async with serving(by_path) as server, server.client() as client:
        future = client.connection.send(QUERY._replace(path="/hang"), 30)
        await client.connection.aclose()
        await client.connection.aclose()
        with pytest.raises(TransportError, match="closed here"):
            await future
        await server.peer.lost.wait()


async def test_aclose_does_not_wait_for_a_server_that_reads_no_more() -> None:
    async with serving(by_path) as server, server.client(close_timeout=0.05) as client:
        server.peer.transport.pause_reading()
        await asyncio.wait_for(client.connection.aclose(), 60)


async def test_a_server_that_reads_nothing_gets_bounded_requests_and_acknowledgements() -> None:
    async with serving() as server, server.client(close_timeout=0.05) as client:
        connection = client.connection
        server.peer.stop_reading()
        server.peer.write(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**30}))
        server.peer.write(WindowUpdateFrame(0, window_increment=2**30))
        await client.until(lambda: connection._session.send_window > 2**29)
        big = [connection.send(QUERY._replace(body=b"x" * 300_000), 30)]
        while connection.open_slots:
            big.append(connection.send(QUERY._replace(body=b"x" * 300_000), 30))
        assert len(big) < 30
        server.peer.write(*[PingFrame(opaque_data=b"12345678") for _ in range(20_000)])
        for future in big:
            with pytest.raises(TransportError, match="a flood of frames"):
                await future


async def test_slots_open_again_when_the_server_reads_on() -> None:
    async with serving() as server, server.client() as client:
        connection = client.connection
        server.peer.transport.pause_reading()
        server.peer.write(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**24}))
        server.peer.write(WindowUpdateFrame(0, window_increment=2**24))
        await client.until(lambda: connection._session.send_window > 2**23)
        futures = []
        while connection.open_slots:
            futures.append(connection.send(QUERY._replace(body=b"x" * 300_000), 30))
        server.peer.transport.resume_reading()
        await client.until(lambda: connection.open_slots > 0)
        assert {(await future).status for future in futures} == {200}


async def test_a_connection_whose_stream_ids_are_used_up_retires_itself() -> None:
    async with serving() as server, server.client() as client:
        # No test can send two thousand million requests.
        client.connection._session.next_stream_id = HIGHEST_STREAM_ID
        assert (await client.ask()).status == 200
        assert server.peer.requests[0][0] == HIGHEST_STREAM_ID
        assert client.connection.closed_reason == "stream IDs used up"


async def test_a_caller_may_send_from_within_on_change() -> None:
    async with serving() as server, server.client(max_in_flight=2) as client:
        connection = client.connection
        numbers = count()
        futures = []

        def send() -> None:
            while connection.open_slots and next(numbers) < 50:
                futures.append(connection.send(QUERY, 10))

        client.on_change = send  # type: ignore[method-assign]
        connection._on_change = send
        send()
        while len(futures) < 50 or not all(future.done() for future in futures):
            await asyncio.wait(futures)
        assert {future.result().status for future in futures} == {200}
        assert connection.sent == 50


async def test_a_server_that_resets_a_stream_twice_or_windows_too_wide_harms_one_request() -> None:
    async with serving(by_path) as server, server.client() as client:
        victim, bystander = (client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(2))
        await server.peer.until_requests(2)
        wide = WindowUpdateFrame(1, window_increment=HIGHEST_STREAM_ID)
        server.peer.write(wide, RstStreamFrame(1, error_code=2), RstStreamFrame(1, error_code=2))
        with pytest.raises(TransportError, match=r"a window of \d+ bytes"):
            await victim
        await server.peer.until(lambda: server.peer.resets == [(1, ErrorCodes.FLOW_CONTROL_ERROR)])
        server.peer.write(DataFrame(1, b"late"), server.peer.headers(3, end=True))
        assert await bystander == Response(200, {}, b"")
        server.peer.write(DataFrame(1, b"even later", flags=["END_STREAM"]))
        assert (await client.ask()).status == 200

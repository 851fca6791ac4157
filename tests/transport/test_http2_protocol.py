"""The rules of RFC 9113 one by one; docs/http2.md says which test holds which section."""

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from support.h2_peer import QUERY, Peer, Received, by_path, serving
from support.http2_frames import serialize

from rongcloud_groups._transport.http2.frames import ErrorCode, ProtocolError
from rongcloud_groups._transport.http2.session import Session
from rongcloud_groups.errors import TransportError

OK = b"\x88"
"""The header block of a response 200."""


@pytest.mark.parametrize("first", [PingFrame(), SettingsFrame(flags=["ACK"]), WindowUpdateFrame(0, window_increment=1)])
def test_the_first_frame_must_be_settings(first: Frame) -> None:
    session = Session("groups.test")
    session.reader.feed(first.serialize())
    with pytest.raises(ProtocolError) as refused:
        session.step()
    assert refused.value.code == ErrorCode.PROTOCOL_ERROR
    assert session.max_streams == 0


async def test_a_window_that_shrinks_below_what_was_sent_holds_the_rest_back() -> None:
    async with serving(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 30_000}) as server, server.client() as client:
        server.replenish = False
        future = client.connection.send(QUERY._replace(body=b"x" * 50_000), 10)
        server.peer.write(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 10_000}))
        server.peer.write(WindowUpdateFrame(1, window_increment=20_000))  # the window is now 0: 30,000 were sent
        assert await client.connection.delivered()
        assert not server.peer.requests
        server.peer.write(WindowUpdateFrame(1, window_increment=20_000))
        assert len((await future).body) == 50_003


async def test_frames_that_say_nothing_to_a_client_are_ignored() -> None:
    def respond(peer: Peer, request: Received) -> None:
        peer.write(PriorityFrame(request.stream_id, depends_on=0, stream_weight=7))
        peer.transport.write(serialize(0x77, 0xFF, request.stream_id, b"unknown"))
        peer.write(SettingsFrame(settings={0x9999: 1}))
        peer.write(HeadersFrame(request.stream_id, OK, flags=["END_HEADERS", "PRIORITY"]))
        peer.write(DataFrame(request.stream_id, b"body", flags=["END_STREAM"]))

    async with serving(respond) as server, server.client() as client:
        assert (await client.ask()).body == b"body"
        assert (await client.ask()).body == b"body"


SETTING_ERRORS = {
    "windows over 2^31 - 1": (SettingsFrame.INITIAL_WINDOW_SIZE, 2**31, ErrorCodes.FLOW_CONTROL_ERROR),
    "frames under 16 KiB": (SettingsFrame.MAX_FRAME_SIZE, 16_383, ErrorCodes.PROTOCOL_ERROR),
    "frames of 16 MiB": (SettingsFrame.MAX_FRAME_SIZE, 2**24, ErrorCodes.PROTOCOL_ERROR),
    "push": (SettingsFrame.ENABLE_PUSH, 1, ErrorCodes.PROTOCOL_ERROR),
}
BROKEN_FRAMES = {
    "half a setting": (serialize(4, payload=bytes(7)), ErrorCodes.FRAME_SIZE_ERROR),
    "SETTINGS of a stream": (serialize(4, stream_id=1), ErrorCodes.PROTOCOL_ERROR),
    "a PING of 7 bytes": (serialize(6, payload=bytes(7)), ErrorCodes.FRAME_SIZE_ERROR),
    "a PING of a stream": (serialize(6, stream_id=1, payload=bytes(8)), ErrorCodes.PROTOCOL_ERROR),
    "a short PRIORITY": (serialize(2, stream_id=1, payload=bytes(4)), ErrorCodes.FRAME_SIZE_ERROR),
    "a short RST_STREAM": (serialize(3, stream_id=1, payload=bytes(3)), ErrorCodes.FRAME_SIZE_ERROR),
    "a short GOAWAY": (serialize(7, payload=bytes(7)), ErrorCodes.FRAME_SIZE_ERROR),
    "a long WINDOW_UPDATE": (serialize(8, payload=bytes(5)), ErrorCodes.FRAME_SIZE_ERROR),
    "a window wider by 0": (serialize(8, payload=bytes(4)), ErrorCodes.PROTOCOL_ERROR),
    "a window too wide": (serialize(8, payload=b"\x7f\xff\xff\xff"), ErrorCodes.FLOW_CONTROL_ERROR),
    "a long frame": (serialize(0, stream_id=1, payload=bytes(16_385)), ErrorCodes.FRAME_SIZE_ERROR),
    "more padding than frame": (serialize(0, 8, 1, b"\x05abcd"), ErrorCodes.PROTOCOL_ERROR),
    "padding of no frame": (serialize(1, 8 | 4, 1, b""), ErrorCodes.PROTOCOL_ERROR),
    "HEADERS without their priority": (serialize(1, 0x20 | 4, 1, b"abc"), ErrorCodes.FRAME_SIZE_ERROR),
    "HEADERS of an even stream": (serialize(1, 4, 2, OK), ErrorCodes.PROTOCOL_ERROR),
    "HEADERS of the connection": (serialize(1, 4, 0, OK), ErrorCodes.PROTOCOL_ERROR),
    "RST_STREAM of no stream": (serialize(3, 0, 99, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (serialize(9, 4, 1, OK), ErrorCodes.PROTOCOL_ERROR),
    "CONTINUATION of another": (serialize(1, 0, 1, OK) + serialize(9, 4, 3), ErrorCodes.PROTOCOL_ERROR),
    "an unknown frame inside a block": (serialize(1, 0, 1, OK) + serialize(0x77), ErrorCodes.PROTOCOL_ERROR),
}


async def closing_code(data: bytes) -> int:
    """The code of the GOAWAY after these bytes; an open request has ended too."""
    async with serving(by_path) as server, server.client() as client:
        future = client.connection.send(QUERY._replace(path="/hang"), 30)
        await server.peer.until_requests(1)
        server.peer.transport.write(data)
        with pytest.raises(TransportError, match="HTTP/2 broken by the server"):
            await future
        await server.peer.lost.wait()
        (code,) = server.peer.goaways
        return code


@pytest.mark.parametrize("kind", SETTING_ERRORS)
async def test_settings_that_may_not_be_end_the_connection(kind: str) -> None:
    identifier, value, code = SETTING_ERRORS[kind]
    payload = identifier.to_bytes(2, "big") + value.to_bytes(4, "big")
    assert await closing_code(serialize(4, payload=payload)) == code


@pytest.mark.parametrize("kind", BROKEN_FRAMES)
async def test_frames_that_may_not_be_end_the_connection(kind: str) -> None:
    data, code = BROKEN_FRAMES[kind]
    assert await closing_code(data) == code


async def test_a_push_is_refused() -> None:
    assert await closing_code(serialize(5, 4, 1, b"\0\0\0\2" + OK)) == ErrorCodes.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        pytest.param([DataFrame(1, b"body")], "a body before its header", id="DATA first"),
        pytest.param(
            [HeadersFrame(1, OK, flags=["END_HEADERS"])] * 2, "a second response to one request", id="two responses"
        ),
        pytest.param(
            [HeadersFrame(1, b"\x08\x03103", flags=["END_HEADERS", "END_STREAM"])],
            "an informational response, and no other",
            id="informational alone",
        ),
        pytest.param(
            [HeadersFrame(1, OK + b"\x00\x01x\x03a\nb", flags=["END_HEADERS"])], "a field 'x' that no", id="two lines"
        ),
        pytest.param(
            [HeadersFrame(1, OK + b"\x00\x05:path\x01/", flags=["END_HEADERS"])], "a field ':path'", id="a pseudo-field"
        ),
        pytest.param(
            [HeadersFrame(1, b""), ContinuationFrame(1, b"", flags=["END_HEADERS"])], "status ''", id="no field at all"
        ),
        pytest.param([WindowUpdateFrame(1, window_increment=2**31 - 1)], "a window of", id="a window too wide"),
    ],
)
async def test_parts_of_a_response_in_a_wrong_order_cost_that_request_alone(frames: list[Frame], reason: str) -> None:
    async with serving(by_path) as server, server.client() as client:
        victim, bystander = (client.connection.send(QUERY._replace(path="/hang"), 30) for _ in range(2))
        await server.peer.until_requests(2)
        server.peer.write(*frames)
        with pytest.raises(TransportError, match=reason):
            await victim
        server.peer.respond(3)
        assert (await bystander).status == 200
        assert (await client.ask()).status == 200
        expected_resets = [] if "END_STREAM" in frames[-1].flags else [1]
        assert [stream_id for stream_id, _ in server.peer.resets] == expected_resets

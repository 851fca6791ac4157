import asyncio
from collections.abc import Callable
from itertools import pairwise

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from support.h2_peer import QUERY

from rongcloud_groups._http import Response
from rongcloud_groups._transport.http2.connection import HTTP2Connection
from rongcloud_groups._transport.http2.frames import FrameReader, serialize
from rongcloud_groups.errors import TransportError


class RecordingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.writes.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.writes))

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


def response(stream_id: int, body: bytes, *, length: int | None, status: str = "200") -> bytes:
    fields = [(":status", status), ("server", "x")]
    if length is not None:
        fields.append(("content-length", str(length)))
    headers = HeadersFrame(stream_id, Encoder().encode(fields), flags=["END_HEADERS"])
    return headers.serialize() + DataFrame(stream_id, body, flags=["END_STREAM"]).serialize()


stream_ids = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 2**31 - 1])
open_stream_ids = st.sampled_from([1, 3, 5, 7])
flags = st.sets(st.sampled_from(["END_STREAM", "END_HEADERS", "PADDED", "PRIORITY", "ACK"]))
words = st.integers(0, 2**31 - 1)


def frames(build: Callable[..., Frame], **parts: st.SearchStrategy[object]) -> st.SearchStrategy[bytes]:
    def serialized(options: dict[str, object]) -> bytes:
        chosen = options.pop("flags", ())
        frame = build(**options)
        defined = {flag.name for flag in frame.defined_flags}
        for flag in sorted(set(chosen) & defined):  # type: ignore[call-overload]
            frame.flags.add(flag)
        return frame.serialize()

    return st.fixed_dictionaries({**parts, "flags": flags}).map(serialized)


sound = st.one_of(
    st.builds(
        response, open_stream_ids, st.binary(max_size=40), length=st.none() | st.integers(0, 40), status=st.just("200")
    ),
    st.builds(lambda stream_id, body: response(stream_id, body, length=len(body)), open_stream_ids, st.binary()),
    st.builds(
        response, open_stream_ids, st.just(b""), length=st.just(0), status=st.sampled_from(["500", "2x0", "103"])
    ),
    frames(
        SettingsFrame,
        settings=st.dictionaries(st.sampled_from([1, 2, 3, 4, 5, 6]), st.sampled_from([0, 1, 2, 100, 16384, 65536])),
    ),
    frames(DataFrame, stream_id=open_stream_ids, data=st.binary(max_size=50)),
    frames(RstStreamFrame, stream_id=open_stream_ids, error_code=st.sampled_from([0, 2, 7, 8, 99])),
    frames(GoAwayFrame, last_stream_id=words | open_stream_ids, error_code=st.sampled_from([0, 1, 11, 999])),
    frames(WindowUpdateFrame, stream_id=st.just(0) | open_stream_ids, window_increment=st.integers(1, 2**31 - 1)),
    frames(PingFrame, opaque_data=st.binary(min_size=8, max_size=8)),
)
hostile = st.one_of(
    frames(HeadersFrame, stream_id=open_stream_ids, data=st.binary(max_size=30)),
    frames(ContinuationFrame, stream_id=open_stream_ids, data=st.binary(max_size=30)),
    frames(PushPromiseFrame, stream_id=open_stream_ids, promised_stream_id=st.just(2), data=st.binary(max_size=9)),
    st.builds(lambda t, s, b: ExtensionFrame(t, s, body=b).serialize(), st.integers(11, 255), stream_ids, st.binary()),
    st.builds(
        lambda length, kind, flag, stream_id, payload: (
            bytes([0, 0, length, kind, flag]) + stream_id.to_bytes(4, "big") + payload
        ),
        st.integers(0, 30),
        st.integers(0, 12),
        st.integers(0, 255),
        stream_ids,
        st.binary(max_size=30),
    ),
    st.binary(max_size=60),
)


@st.composite
def streams_of_bytes(draw: st.DrawFn) -> list[bytes]:
    parts = draw(st.lists(sound, min_size=1, max_size=8))
    if draw(st.booleans()):
        parts += draw(st.lists(hostile, max_size=3))
        parts = draw(st.permutations(parts))
    data = bytearray(b"".join([SettingsFrame(settings={3: 10}).serialize(), *parts]))
    for position, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=2)):
        data[position] = value
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=6)))
    edges = [0, *cuts, len(data)]
    return [bytes(data[start:end]) for start, end in pairwise(edges)]


actions = st.lists(st.sampled_from(["send", "send", "send", "cancel", "pause", "resume", "retire", "turn"]), max_size=4)


@settings(max_examples=250)
@given(st.lists(st.tuples(actions, streams_of_bytes()), min_size=1, max_size=3), st.sampled_from([None, OSError("x")]))
def test_whatever_comes_every_request_ends_and_nothing_is_raised(
    rounds: list[tuple[list[str], list[bytes]]], last: Exception | None
) -> None:
    asyncio.run(drive(rounds, last))


async def act(action: str, connection: HTTP2Connection, futures: list[asyncio.Future[Response]]) -> None:
    match action:
        case "send":
            futures.append(connection.send(QUERY, 30))
        case "cancel" if futures:
            futures[-1].cancel()
        case "pause":
            connection.pause_writing()
        case "resume":
            connection.resume_writing()
        case "retire":
            connection.retire()
        case _:
            await asyncio.sleep(0)


async def drive(rounds: list[tuple[list[str], list[bytes]]], last: Exception | None) -> None:
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    connection = HTTP2Connection("example.com", max_in_flight=5, on_change=lambda: None)
    transport = RecordingTransport()
    connection.connection_made(transport)
    futures: list[asyncio.Future[Response]] = []

    for wanted, chunks in rounds:
        for chunk in chunks:
            connection.data_received(chunk)
            assert 0 <= connection.open_slots <= 5
            assert 0 <= connection.in_flight <= 5
            for action in wanted:
                await act(action, connection, futures)
    await asyncio.sleep(0)
    connection.connection_lost(last)
    assert connection.closed
    assert connection.closed_reason
    assert connection.in_flight == connection.open_slots == 0
    for outcome in await asyncio.gather(*futures, return_exceptions=True):
        assert isinstance(outcome, Response | TransportError | asyncio.CancelledError)
    assert not unhandled


@settings(max_examples=100)
@given(st.lists(sound, max_size=8), st.data())
def test_the_frames_are_the_same_however_they_were_read(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=8)))
    edges = [0, *cuts, len(whole)]
    reader = FrameReader()
    frames: list[tuple[int, int, int, bytes]] = []
    for start, end in pairwise(edges):
        reader.feed(whole[start:end])
        frames += reader.step()
        while reader.unread:
            frames += reader.step()
    assert b"".join(serialize(*frame) for frame in frames) == whole


async def test_a_request_is_one_write() -> None:
    connection = HTTP2Connection("example.com", max_in_flight=5, on_change=lambda: None)
    transport = RecordingTransport()
    connection.connection_made(transport)
    assert connection.open_slots == 0
    connection.data_received(SettingsFrame(settings={}).serialize())
    transport.writes.clear()
    future = connection.send(QUERY, 30)
    assert len(transport.writes) == 1
    assert transport.writes[0].endswith(QUERY.body)
    connection.connection_lost(None)
    assert isinstance(future.exception(), TransportError)

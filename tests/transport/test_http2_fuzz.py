import asyncio
from itertools import pairwise

from hyperframe.frame import SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from support.h2_peer import QUERY
from support.http2_frames import hostile, serialize, sound

from rongcloud_groups._http import Response
from rongcloud_groups._transport.http2.connection import HTTP2Connection
from rongcloud_groups._transport.http2.frames import FrameReader
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
            connection.retire("used up")
        case _:
            await asyncio.sleep(0)


async def drive(rounds: list[tuple[list[str], list[bytes]]], last: Exception | None) -> None:
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    connection = HTTP2Connection("example.com", lambda: None, max_in_flight=5)
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
    connection = HTTP2Connection("example.com", lambda: None, max_in_flight=5)
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

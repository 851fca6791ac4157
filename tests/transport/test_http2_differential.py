"""Our framing beside h2: in conversation with it as the server, and reading the same bytes as it does."""

import asyncio
import random
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError as H2Error
from h2.settings import SettingCodes, Settings
from hyperframe.frame import SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from support.http2_frames import hostile, sound

from rongcloud_groups._http import Request, Response
from rongcloud_groups._transport.http2.frames import GOAWAY, PING, TWO_WORDS, ErrorCode, ProtocolError
from rongcloud_groups._transport.http2.session import PING_DATA, Session, Stream
from rongcloud_groups.errors import TransportError

# In conversation


@dataclass
class Exchange:
    """One request, and how h2 responds to it."""

    headers: list[tuple[str, str]]
    body_size: int
    response_size: int
    announced: bool
    informational: bool
    trailers: bool
    padding: int | None
    reset: bool

    def request(self, number: int) -> Request:
        return Request(f"/q/{number}", self.headers, random.Random(number).randbytes(self.body_size))

    def response_body(self, number: int) -> bytes:
        return random.Random(-number).randbytes(self.response_size)


exchanges = st.builds(
    Exchange,
    headers=st.lists(
        st.tuples(st.sampled_from(["nonce", "signature", "x"]), st.sampled_from(["", "v", "v" * 200, "v" * 9_000])),
        max_size=4,
    ),
    body_size=st.sampled_from([0, 1, 900, 16_384, 16_385, 70_000, 200_000]),
    response_size=st.sampled_from([0, 1, 20_000, 65_536, 300_000, 1_000_000]),
    announced=st.booleans(),
    informational=st.booleans(),
    trailers=st.booleans(),
    padding=st.sampled_from([None, 0, 255]),
    reset=st.sampled_from([False, False, False, True]),
)
server_settings = st.fixed_dictionaries(
    {},
    optional={
        SettingCodes.INITIAL_WINDOW_SIZE: st.sampled_from([0, 1_000, 65_535]),
        SettingCodes.HEADER_TABLE_SIZE: st.sampled_from([0, 100, 4_096, 65_536]),
        SettingCodes.MAX_FRAME_SIZE: st.sampled_from([16_384, 2**24 - 1]),
        SettingCodes.MAX_CONCURRENT_STREAMS: st.sampled_from([100, 2**31]),
    },
)


later_settings = server_settings.map(lambda chosen: chosen | {SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000})


@dataclass
class Oracle:
    """An h2 server that carries out exchanges."""

    exchanges: list[Exchange]
    h2: H2Connection = field(
        default_factory=lambda: H2Connection(H2Configuration(client_side=False, header_encoding=None))
    )
    requests: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)
    unsent: dict[int, deque[bytes]] = field(default_factory=dict)
    pinged: bool = False

    def receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.handle(event)
        for stream_id in list(self.unsent):
            self.send(stream_id)

    def handle(self, event: Event) -> None:
        match event:
            case RequestReceived():
                if not self.h2.local_settings.initial_window_size:
                    self.h2.increment_flow_control_window(500_000, event.stream_id)
                self.requests[event.stream_id] = [(bytes(name), bytes(value)) for name, value in event.headers]
                self.bodies[event.stream_id] = b""
            case DataReceived():
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                self.respond(event.stream_id)
            case PingAckReceived():
                self.pinged = True
            case _:
                pass

    def respond(self, stream_id: int) -> None:
        number = stream_id // 2
        exchange = self.exchanges[number]
        if exchange.reset:
            self.h2.reset_stream(stream_id, ErrorCode.REFUSED_STREAM)
            return
        if exchange.informational:
            self.h2.send_headers(stream_id, [(":status", "103"), ("link", "x")])
        body = exchange.response_body(number)
        fields = [(":status", "200"), ("number", str(number))]
        if exchange.announced:
            fields.append(("content-length", str(len(body))))
        self.h2.send_headers(stream_id, fields)
        self.unsent[stream_id] = deque(body[start : start + 9_000] for start in range(0, len(body), 9_000))
        self.send(stream_id)

    def send(self, stream_id: int) -> None:
        exchange, unsent = self.exchanges[stream_id // 2], self.unsent[stream_id]
        room = self.h2.local_flow_control_window(stream_id)
        while unsent and len(unsent[0]) <= room:
            padding = exchange.padding if len(unsent[0]) + 256 <= room else None
            self.h2.send_data(stream_id, unsent.popleft(), pad_length=padding)
            room = self.h2.local_flow_control_window(stream_id)
        if not unsent:
            del self.unsent[stream_id]
            if exchange.trailers:
                self.h2.send_headers(stream_id, [("checksum", "0")], end_stream=True)
            else:
                self.h2.end_stream(stream_id)


@dataclass
class Conversation:
    """Moves the bytes between the two, in pieces of any size."""

    oracle: Oracle
    session: Session
    chosen: random.Random

    def run(self) -> None:
        """Ends when both sides are silent."""
        while True:
            to_server, to_client = self.session.data_to_send(), self.oracle.h2.data_to_send()
            if not to_server and not to_client:
                return
            for piece in self.pieces(to_server, [1, 9, 100, 70_000]):
                self.oracle.receive(piece)
            for piece in self.pieces(to_client, [10, 1_000, 70_000]):
                self.session.reader.feed(piece)
                self.session.step()
                while self.session.reader.unread:
                    self.session.step()

    def pieces(self, data: bytes, sizes: list[int]) -> Iterator[bytes]:
        while data:
            size = self.chosen.choice(sizes)
            yield data[:size]
            data = data[size:]


@settings(deadline=None, max_examples=60)
@given(st.lists(exchanges, min_size=1, max_size=5), server_settings, later_settings, st.integers(0, 2**32))
def test_requests_to_h2_and_responses_from_it_arrive_as_they_were_sent(
    planned: list[Exchange], first: dict[SettingCodes, int], second: dict[SettingCodes, int], seed: int
) -> None:
    asyncio.run(converse(planned, first, second, random.Random(seed)))


async def converse(
    planned: list[Exchange], first: dict[SettingCodes, int], second: dict[SettingCodes, int], chosen: random.Random
) -> None:
    conversation = Conversation(Oracle(planned), Session("groups.test"), chosen)
    oracle, session = conversation.oracle, conversation.session
    oracle.h2.local_settings = Settings(client=False, initial_values=first)
    oracle.h2.initiate_connection()
    conversation.run()
    futures: list[Stream] = []
    for number, exchange in enumerate(planned):
        request = exchange.request(number)
        futures.append(Stream(request, 30, lambda _stream: None))
        session.send(request, futures[-1])
        if number == 1:
            later: dict[SettingCodes | int, int] = dict(second.items())
            oracle.h2.update_settings(later)
        conversation.run()
        assert number == 0 or not session.streams
    oracle.h2.ping(b"12345678")
    session.write(PING, payload=PING_DATA)
    conversation.run()
    assert session.acknowledged
    assert oracle.pinged
    assert not session.streams
    for number, (exchange, future) in enumerate(zip(planned, futures, strict=True)):
        check(exchange, number, future, oracle)
    session.write(GOAWAY, payload=TWO_WORDS.pack(0, ErrorCode.NO_ERROR))
    conversation.run()


def check(exchange: Exchange, number: int, future: asyncio.Future[Response], oracle: Oracle) -> None:
    stream_id, request = 2 * number + 1, exchange.request(number)
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "groups.test"), (":path", request.path)]
    fields = [*pseudo, *request.headers, ("content-length", str(len(request.body)))]
    assert oracle.requests[stream_id] == [(name.encode(), value.encode()) for name, value in fields]
    assert oracle.bodies[stream_id] == request.body
    if exchange.reset:
        error = future.exception()
        assert isinstance(error, TransportError)
        assert error.never_processed
    else:
        body = exchange.response_body(number)
        length = {"content-length": str(len(body))} if exchange.announced else {}
        assert future.result() == Response(200, {"number": str(number)} | length, body)


# The same bytes

STRICTER = (
    "where only type 4 may come",
    "more than two table sizes",
    "CONTINUATION of no header block",
    "enables push",
    "a push",
    "a frame of",
    "SETTINGS out of place",
)
"""Breaches that h2 lets pass, or notices later."""
OPEN = (1, 3, 5, 7)
MALFORMED_TEXT = re.compile(
    "status|content-length|a second response|informational|before its header|no response has|window of"
)


@dataclass
class Witness:
    """What h2 as the client made of the bytes."""

    h2: H2Connection = field(default_factory=lambda: H2Connection(H2Configuration(header_encoding=None)))
    statuses: dict[int, bytes] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=lambda: dict.fromkeys(OPEN, b""))
    ended: set[int] = field(default_factory=set)
    reset: set[int] = field(default_factory=set)
    windows: int = 0

    def receive(self, frame: bytes) -> None:
        for event in self.h2.receive_data(frame):
            match event:
                case ResponseReceived():
                    self.statuses[event.stream_id] = dict(event.headers)[b":status"]
                case DataReceived():
                    self.bodies[event.stream_id] += event.data
                case StreamEnded():
                    self.ended.add(event.stream_id)
                case StreamReset():
                    self.reset.add(event.stream_id)
                case WindowUpdated(stream_id=0):
                    self.windows += event.delta


@settings(deadline=None, max_examples=400)
@given(st.lists(sound | hostile, min_size=1, max_size=12), st.booleans())
def test_frames_that_h2_takes_from_a_server_are_taken_alike(parts: list[bytes], settings_first: bool) -> None:  # noqa: FBT001
    asyncio.run(read_both(parts, settings_first=settings_first))


async def read_both(parts: list[bytes], *, settings_first: bool) -> None:
    session, witness = Session("groups.test"), Witness()
    witness.h2.local_settings = Settings(client=True, initial_values={SettingCodes.ENABLE_PUSH: 0})
    witness.h2.initiate_connection()
    futures: dict[int, asyncio.Future[Response]] = {}
    for stream_id in OPEN:
        request = Request("/q", [], b"body")
        stream = futures[stream_id] = Stream(request, 30, lambda _stream: None)
        session.send(request, stream)
        assert stream.stream_id == stream_id
        pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", "/q")]
        witness.h2.send_headers(stream_id, pseudo)
        witness.h2.send_data(stream_id, request.body, end_stream=True)
    greeting = [SettingsFrame(settings={}).serialize()] if settings_first else []
    whole = True
    for part in [*greeting, *parts]:
        session.reader.feed(part)
        refusal = ""
        try:
            session.step()
        except ProtocolError as error:
            refusal = str(error)
        try:
            witness.receive(part)
        except (H2Error, ValueError, IndexError, KeyError):  # h2 raises more than it says
            whole = False
            break
        if refusal:
            assert any(text in refusal for text in STRICTER), refusal
            whole = False
            break
    compare(futures, witness, whole=whole)


def compare(futures: dict[int, asyncio.Future[Response]], witness: Witness, *, whole: bool) -> None:
    for stream_id, future in futures.items():
        if not future.done():
            assert not whole or stream_id not in witness.ended | witness.reset
        elif error := future.exception():
            assert isinstance(error, TransportError)
        elif whole:
            response = future.result()
            assert stream_id in witness.ended
            assert response.body == witness.bodies[stream_id]
            assert str(response.status).encode() == witness.statuses[stream_id]
    if whole:
        failed = [stream_id for stream_id, future in futures.items() if future.done() and future.exception()]
        for stream_id in failed:
            text = str(futures[stream_id].exception())
            assert stream_id in witness.reset or "GOAWAY" in text or MALFORMED_TEXT.search(text), text

"""The frames of HTTP/2 as bytes; RFC 9113, sections 4 and 6.

A server's frames are read in small steps, however many come at once, and a flood of them ends the connection.
"""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
_BLOCKS: Final = frozenset({HEADERS, CONTINUATION})
# Flags.
ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FIELDS: Final = 0x20
# Settings.
ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE_SETTING, MAX_HEADER_LIST_SIZE_SETTING = range(2, 7)
# Layouts of a frame's header and of payloads.
HEADER_LAYOUT: Final = Struct(">BHBBI")
SETTING_LAYOUT: Final = Struct(">HI")
PRIORITY_LAYOUT: Final = Struct(">IB")
WORD: Final = Struct(">I")
TWO_WORDS: Final = Struct(">II")
OPAQUE: Final = Struct(">8s")

MAX_FRAME_SIZE: Final = 16_384
"""Bytes of a payload, in either direction: every endpoint takes as much."""
LAST_STREAM_ID: Final = 2**31 - 1  # and the largest window
_FRAME_COST: Final = 64
"""The cost of a frame beside its length, in bytes: DATA in frames of that size is neutral."""
_STEP_COST: Final = 100 * _FRAME_COST
"""The most that one step may cost: a millisecond of work, or two."""
_BLOCK_FACTOR: Final = 16
"""How much more of a step a byte of a header block takes: it may stand for a whole field."""
_MAX_ALLOWANCE: Final = 2000 * _FRAME_COST
"""The most that frames may cost until a request is sent or data of a response comes."""


ErrorCode = IntEnum(
    "ErrorCode",
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
    "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED",
    start=0,
)
"""RFC 9113, section 7."""


def error_name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"


class ProtocolError(Exception):
    """The server broke the protocol, so that nothing more can be read from the connection."""

    def __init__(self, text: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


def without_padding(payload: bytes) -> bytes:
    """The payload of a frame with the flag PADDED."""
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("more padding than payload")
    return payload[1 : len(payload) - payload[0]]


class FrameReader:
    """Cuts the bytes that were read into frames.

    Every frame is charged to an allowance, which requests and response data restore (`allow`).

    Attributes:
        unread: whether the last step left something for another one.
    """

    def __init__(self) -> None:
        self.unread = False
        self._data = b""
        self._position = 0
        self._allowance = _MAX_ALLOWANCE

    def allow(self, cost: int) -> None:
        self._allowance = min(self._allowance + cost, _MAX_ALLOWANCE)

    def feed(self, data: bytes) -> None:
        self._data = self._data[self._position :] + data
        self._position = 0

    def step(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yields type, flags, stream ID and payload of the next frames."""
        data, end, cost = self._data, len(self._data), 0
        while cost < _STEP_COST and (start := self._position + HEADER_LAYOUT.size) <= end:
            high, low, kind, flags, stream_id = HEADER_LAYOUT.unpack_from(data, self._position)
            size = high << 16 | low
            if size > MAX_FRAME_SIZE:
                raise ProtocolError(f"a frame of {size} bytes", ErrorCode.FRAME_SIZE_ERROR)
            if start + size > end:
                break
            self._position = start + size
            cost += self._charge(kind, size)
            yield kind, flags, stream_id & LAST_STREAM_ID, data[start : start + size]
        self.unread = cost >= _STEP_COST and self._position < end
        if self._position == end:
            self.feed(b"")

    def _charge(self, kind: int, size: int) -> int:
        """The frame's cost for the step."""
        payload = 0 if kind == DATA else size
        self._allowance -= _FRAME_COST + payload
        if self._allowance < 0:
            raise ProtocolError("a flood of frames that bring no response forward", ErrorCode.ENHANCE_YOUR_CALM)
        return _FRAME_COST + (payload * _BLOCK_FACTOR if kind in _BLOCKS else payload)

"""Cuts a server's frames into small steps, and takes GOAWAY frames out before `h2` sees them.

`h2` refuses every frame after a GOAWAY, although the server may still respond to earlier requests, and handles
everything it is given at once, however many frames that is.
"""

from collections.abc import Iterator
from typing import Final

from hyperframe.exceptions import InvalidFrameError
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, PushPromiseFrame

_HEADER_LENGTH: Final = 9
_BLOCKS: Final = frozenset({HeadersFrame.type, ContinuationFrame.type, PushPromiseFrame.type})
_MAX_FRAME_SIZE: Final = 16_384
_FRAME_COST: Final = 64
"""The cost of a frame beside its length, in bytes: DATA in frames of that size is neutral."""
_STEP_COST: Final = 100 * _FRAME_COST
"""The most that one step may cost: some milliseconds of work for `h2`."""
_BLOCK_FACTOR: Final = 4
"""How much more of a step a byte of a header block takes: it may stand for a whole field."""
_MAX_ALLOWANCE: Final = 2000 * _FRAME_COST
"""The most that frames may cost until a request is sent or data of a response comes."""


class FloodError(Exception):
    """The server sends frame after frame that brings no response forward."""


class FrameReader:
    """Follows the frames of one connection through reads of any size.

    Every frame is charged to an allowance, which requests and response data restore (`allow`).

    Attributes:
        unread: whether the last step left whole frames for another one.
    """

    def __init__(self) -> None:
        self.unread = False
        self._held = b""
        self._payload_left = 0
        self._allowance = _MAX_ALLOWANCE

    def allow(self, cost: int) -> None:
        """Restores the allowance by `cost`."""
        self._allowance = min(self._allowance + cost, _MAX_ALLOWANCE)

    def feed(self, data: bytes) -> None:
        """Takes bytes that were read."""
        self._held = self._held + data if self._held else data

    def step(self) -> Iterator[bytes | GoAwayFrame]:
        """Yields the next frames for `h2`, as bytes, and between them each GOAWAY; consume it whole.

        Raises:
            FloodError: when the allowance is used up.
            hyperframe.exceptions.HyperframeError: on a frame that is too long, or a GOAWAY that cannot be parsed.
        """
        data, self._held = self._held, b""
        start, position, end = 0, self._payload_left, len(data)
        cost = 0
        while position + _HEADER_LENGTH <= end and cost < _STEP_COST:
            length = int.from_bytes(data[position : position + 3], "big")
            kind = data[position + 3]
            after = position + _HEADER_LENGTH + length
            if length > _MAX_FRAME_SIZE:
                # h2 would say so too, but only after the whole frame.
                raise InvalidFrameError(f"a frame of {length} bytes")
            if kind == GoAwayFrame.type:
                if after > end:
                    break
                if position > start:
                    yield data[start:position]
                yield _goaway(data[position:after])
                start = after
            cost += self._charge(kind, length)
            position = after
        cut_at = min(position, end)
        if cut_at > start:
            yield data[start:cut_at]
        self._held = data[cut_at:]
        self._payload_left = position - cut_at
        self.unread = cost >= _STEP_COST and position + _HEADER_LENGTH <= end

    def _charge(self, kind: int, length: int) -> int:
        """Charges a frame to the allowance, and returns its cost for the step."""
        payload = 0 if kind == DataFrame.type else length
        self._allowance -= _FRAME_COST + payload
        if self._allowance < 0:
            raise FloodError("a flood of frames that bring no response forward")
        return _FRAME_COST + payload * (_BLOCK_FACTOR if kind in _BLOCKS else 1)


def _goaway(data: bytes) -> GoAwayFrame:
    frame, _ = Frame.parse_frame_header(memoryview(data[:_HEADER_LENGTH]))
    assert isinstance(frame, GoAwayFrame)  # noqa: S101  narrows the type; the caller read the type byte
    frame.parse_body(memoryview(data[_HEADER_LENGTH:]))
    # The first bit is reserved and has to be ignored.
    frame.last_stream_id &= 0x7FFFFFFF
    return frame

"""Cuts what a server sends at the frames that have to be looked at before `h2` sees them.

`h2` refuses every frame after a GOAWAY, although the server may still answer what it has begun, and it
ends the connection over a body that is shorter than its content-length. Both are dealt with one frame earlier.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from hyperframe.exceptions import InvalidFrameError
from hyperframe.frame import DataFrame, Frame, GoAwayFrame

_HEADER_LENGTH: Final = 9
_MAX_FRAME_SIZE: Final = 16_384
_END_STREAM: Final = 0x1
_PADDED: Final = 0x8


class FinalData(NamedTuple):
    """The header of a DATA frame that ends its stream; the frame itself comes with the next run of bytes."""

    stream_id: int
    length: int


class FrameSplitter:
    """Follows the frames of one connection through reads of any size."""

    def __init__(self) -> None:
        self._held = b""
        self._payload_left = 0

    def cut(self, data: bytes) -> Iterator[bytes | GoAwayFrame | FinalData]:
        """Yields what is for `h2`, as bytes, and between it what is not; consume it whole.

        Raises:
            hyperframe.exceptions.HyperframeError: on a frame that is too long, or a GOAWAY that cannot be parsed.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        start, position, end = 0, self._payload_left, len(data)
        while position + _HEADER_LENGTH <= end:
            length = int.from_bytes(data[position : position + 3], "big")
            kind, flags = data[position + 3], data[position + 4]
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
            elif kind == DataFrame.type and flags & (_END_STREAM | _PADDED) == _END_STREAM:
                if position > start:
                    yield data[start:position]
                    start = position
                stream_id = int.from_bytes(data[position + 5 : position + 9], "big") & 0x7FFFFFFF
                yield FinalData(stream_id, length)
            position = after
        cut_at = min(position, end)
        if cut_at > start:
            yield data[start:cut_at]
        self._held = data[cut_at:]
        self._payload_left = position - cut_at


def _goaway(data: bytes) -> GoAwayFrame:
    frame, _ = Frame.parse_frame_header(memoryview(data[:_HEADER_LENGTH]))
    assert isinstance(frame, GoAwayFrame)  # noqa: S101  narrows the type; the caller read the type byte
    frame.parse_body(memoryview(data[_HEADER_LENGTH:]))
    # The first bit is reserved and has to be ignored.
    frame.last_stream_id &= 0x7FFFFFFF
    return frame

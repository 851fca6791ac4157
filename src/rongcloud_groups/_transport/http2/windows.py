"""Bounds the memory of all responses of one connection by how far each stream's window is opened."""

from collections.abc import Callable
from typing import Final

STREAM_WINDOW: Final = 256 * 1024
"""Bytes of a response that every stream may receive at once."""
SHARED_WINDOW: Final = 32 * 1024 * 1024
"""Bytes beyond `STREAM_WINDOW` that the larger responses of a connection share; more than the largest one."""


class StreamWindows:
    """Hands out the shared bytes in the order of asking, so that a response that began to grow can always end.

    Args:
        widen: called with a stream ID and the bytes by which its window may grow.
    """

    def __init__(self, widen: Callable[[int, int], None]) -> None:
        self._widen = widen
        self._left = SHARED_WINDOW
        self._reserved: dict[int, int] = {}
        self._waiting: dict[int, int] = {}

    def reserve(self, stream_id: int, size: int) -> None:
        """Widens the stream's window by `size` as soon as so much is free; the first call for a stream counts."""
        if stream_id not in self._reserved and stream_id not in self._waiting:
            self._waiting[stream_id] = size
            self._hand_out()

    def release(self, stream_id: int) -> None:
        """The stream has ended."""
        if self._waiting.pop(stream_id, None) is None and stream_id not in self._reserved:
            return
        self._left += self._reserved.pop(stream_id, 0)
        self._hand_out()

    def _hand_out(self) -> None:
        for stream_id, size in list(self._waiting.items()):
            if size > self._left:
                return
            del self._waiting[stream_id]
            self._reserved[stream_id] = size
            self._left -= size
            self._widen(stream_id, size)

"""Bounds the memory of all responses of one connection by how far each stream's window is opened."""

from typing import Final

STREAM_WINDOW: Final = 256 * 1024
"""Bytes of a response that every stream may receive at once."""
SHARED_WINDOW: Final = 32 * 1024 * 1024
"""Bytes beyond `STREAM_WINDOW` that the larger responses of a connection share; more than the largest one."""


class StreamWindows:
    """Hands out the shared bytes in the order of asking, so that a response that began to grow can always end."""

    def __init__(self) -> None:
        self._left = SHARED_WINDOW
        self._reserved: dict[int, int] = {}
        self._waiting: dict[int, int] = {}

    def reserve(self, stream_id: int, size: int) -> list[tuple[int, int]]:
        """Asks for `size` bytes for a stream; the first call for it counts.

        Returns:
            IDs of the streams whose windows may grow now, and by how much.
        """
        if stream_id in self._reserved or stream_id in self._waiting:
            return []
        self._waiting[stream_id] = size
        return self._granted()

    def release(self, stream_id: int) -> list[tuple[int, int]]:
        """The stream has ended; returns the same as `reserve`."""
        if self._waiting.pop(stream_id, None) is None and stream_id not in self._reserved:
            return []
        self._left += self._reserved.pop(stream_id, 0)
        return self._granted()

    def _granted(self) -> list[tuple[int, int]]:
        granted = []
        for stream_id, size in list(self._waiting.items()):
            if size > self._left:
                break
            del self._waiting[stream_id]
            self._reserved[stream_id] = size
            self._left -= size
            granted.append((stream_id, size))
        return granted

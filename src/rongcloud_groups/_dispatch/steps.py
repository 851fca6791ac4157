"""Turns of other tasks while a long source is read."""

from asyncio import sleep
from collections.abc import Collection, Generator, Iterable
from itertools import islice
from time import monotonic
from typing import Final

STEP: Final = 0.001
"""Seconds for which a loop over IDs may hold the event loop, at the end of a chunk."""
MAX_STEP: Final = 0.005
"""The same within a chunk, where the source is slow: it costs other tasks this and one more item."""
SLOW: Final = 0.0001
"""Seconds of a slow item. One alone may be the system that gave the processor to another process."""


class Steps:
    """Reads a source in chunks, in steps that do not hold the event loop for long; call `pause` where one is `over`.

    Args:
        source: a collection is in memory, so none of its items is slow.
    """

    __slots__ = ("_began", "_error", "_in_memory", "_items", "_last", "_slow")

    def __init__(self, source: Iterable[object]) -> None:
        self._in_memory = isinstance(source, Collection)
        self._items = iter(source)
        self._error: BaseException | None = None
        self._begin()

    def read(self, most: int) -> list[object]:
        """The next items, one at least and so many at most; none at the end of the source.

        An exception of the source is raised by the read after the one that returns the items before it.
        """
        if self._error is not None:
            raise self._error
        chunk: list[object] = []
        items = islice(self._items, most)
        try:
            if self._in_memory:
                chunk.extend(items)
            else:
                for item in items:
                    chunk.append(item)
                    if self._is_slow():
                        break
        except BaseException as error:
            if not chunk:
                raise
            self._error = error
        return chunk

    @property
    def over(self) -> bool:
        """Whether other tasks should run before the next read."""
        return monotonic() - self._began >= STEP

    async def pause(self) -> None:
        """Let other tasks run, and begin another step."""
        await sleep(0)
        self._begin()

    def close(self) -> None:
        """Run the ``finally`` of a generator."""
        if isinstance(self._items, Generator):
            self._items.close()

    def _begin(self) -> None:
        self._slow = 0
        self._began = self._last = monotonic()

    def _is_slow(self) -> bool:
        now = monotonic()
        self._slow += now - self._last > SLOW
        self._last = now
        return self._slow > 1 and now - self._began >= MAX_STEP

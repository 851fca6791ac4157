"""Turns of other tasks while a long loop runs."""

from asyncio import sleep
from collections.abc import Collection
from time import monotonic
from typing import Final

from rongcloud_groups._protocol.requests import BATCH_LIMIT

STEP: Final = 0.001
"""Seconds for which a loop over IDs may hold the event loop, at the end of a batch."""
MAX_STEP: Final = 0.005
"""The same within a batch, where the source is slow: it costs other tasks this and one more item."""
SLOW: Final = 0.0001
"""Seconds of a slow item. One alone may be the system that gave the processor to another process."""
MAX_ITEMS: Final = 1000
"""The most items in a step, however fast they come."""


class Turn:
    """Bounds how long a loop over a source runs in one step; call `pause` where it is `over`.

    Args:
        source: a collection is in memory, so none of its items is slow.
    """

    __slots__ = ("_began", "_in_memory", "_items", "_last", "_slow")

    def __init__(self, source: object) -> None:
        self._in_memory = isinstance(source, Collection)
        self._items = self._slow = 0
        self._began = self._last = monotonic()

    def over(self) -> bool:
        """Count an item; whether other tasks should run before the next one."""
        self._items += 1
        if self._in_memory and self._items % BATCH_LIMIT:
            return False
        now = monotonic()
        self._slow += now - self._last > SLOW
        self._last = now
        if self._items % BATCH_LIMIT:
            return self._slow > 1 and now - self._began >= MAX_STEP
        return now - self._began >= STEP or self._items >= MAX_ITEMS

    async def pause(self) -> None:
        """Let other tasks run, and begin another turn."""
        await sleep(0)
        self._items = self._slow = 0
        self._began = self._last = monotonic()

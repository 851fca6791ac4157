"""The lookups of a job: out of blocks of IDs, and back into their order."""

from asyncio import Event
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, Final

import anyio

from rongcloud_groups._dispatch.stream import Stream
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups.bulk.input import Block
from rongcloud_groups.bulk.outage import OutageDetector
from rongcloud_groups.client import GroupClient
from rongcloud_groups.lookup import Lookup
from rongcloud_groups.models import GroupProfile

READ_AHEAD_SECONDS: Final = 2.0
"""Seconds that the budget needs for the open IDs, at most."""
MAX_HELD: Final = 16_000
"""IDs between the oldest one without an outcome and the newest one that was asked for, at most."""


class OrderedLookups:
    """Looks up the IDs of blocks, as many at a time as the budget has use for."""

    def __init__(self, client: GroupClient, encode: Callable[[GroupProfile], Any]) -> None:
        self.complete = False
        """Whether all blocks were taken, and have been given back."""
        self.error: Exception | None = None
        """It ended the lookups: an error of the input, or one that is not retryable."""
        self._client = client
        self._encode = encode
        self._outage = OutageDetector()
        self._blocks: deque[Block] = deque()
        self._block_of: dict[str, Block] = {}
        """By ID without an outcome."""
        self._held = 0
        """IDs in the blocks."""
        self._settled_something = Event()
        self._stream: Stream | None = None
        self.stopped = self._taken_all = False
        in_time = int(READ_AHEAD_SECONDS * client.stats().rate)
        # No more than can be in flight, however much the budget lets through: outcomes wait while rows are written.
        self._read_ahead = max(1, min(in_time, client.max_in_flight)) * BATCH_LIMIT

    @property
    def open(self) -> int:
        """IDs without an outcome."""
        return len(self._block_of)

    async def settled(
        self, blocks: AsyncGenerator[Block], *, within: float, any_answered: bool
    ) -> AsyncGenerator[Block | None]:
        """Look up blocks; give them back in their order, as they settle, and None at least each ``within`` seconds.

        An error ends them and is kept, so that all before it can be saved first. ``any_answered`` is whether the
        service had an outcome for an ID in an earlier run.
        """
        if self.stopped:
            return
        try:
            async with self._client.stream(self._feed(blocks)) as self._stream:
                ended = False
                while not ended:
                    with anyio.move_on_after(within):
                        part = await anext(self._stream, None)
                        ended = part is None
                        self._settle(part or Lookup())
                    for block in self._settled_blocks():
                        for each in self._outage.feed(block):
                            yield each
                    yield None
            if self._taken_all and not self._blocks:
                for each in self._outage.finish(any_answered=any_answered):
                    yield each
                self.complete = True
        except Exception as error:  # noqa: BLE001  kept
            self.error = error

    def stop(self) -> None:
        """Take no more blocks, and drop those not requested yet; the others settle."""
        self.stopped = True
        if self._stream is None:
            return
        self._stream.stop()
        while self._blocks and not self._blocks[-1].outcomes and self._stream.withdraw(self._blocks[-1].group_ids):
            for group_id in self._blocks.pop().group_ids:
                del self._block_of[group_id]
            self._taken_all = False

    async def _feed(self, blocks: AsyncGenerator[Block]) -> AsyncIterator[list[str]]:
        async with aclosing(blocks):
            async for block in blocks:
                if self.stopped:  # by the source itself: the blocks before this one may have been dropped
                    return
                self._blocks.append(block)
                self._block_of.update(dict.fromkeys(block.group_ids, block))
                self._held += len(block.group_ids)
                yield block.group_ids
                while self.open >= self._read_ahead or self._held >= MAX_HELD:
                    self._settled_something.clear()
                    await self._settled_something.wait()
        self._taken_all = True

    def _settle(self, part: Lookup) -> None:
        rows = {group_id: self._encode(profile) for group_id, profile in part.found.items()}
        for group_id, outcome in (rows | dict.fromkeys(part.missing) | part.failed).items():
            if (block := self._block_of.pop(group_id, None)) is not None:  # otherwise it was dropped
                block.outcomes[group_id] = outcome
        self._settled_something.set()

    def _settled_blocks(self) -> Iterator[Block]:
        """Take out the first blocks, as far as they are settled."""
        while self._blocks and len(self._blocks[0].outcomes) == len(self._blocks[0].group_ids):
            block = self._blocks.popleft()
            self._held -= len(block.group_ids)
            yield block

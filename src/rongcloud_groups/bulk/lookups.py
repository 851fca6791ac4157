"""The lookups of a job: out of blocks of IDs, and back into their order."""

from asyncio import Event
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

from anyio.streams.memory import MemoryObjectReceiveStream

from rongcloud_groups._dispatch.stream import Stream
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups.bulk.blocks import Block, ReorderBuffer
from rongcloud_groups.client import GroupClient
from rongcloud_groups.lookup import Lookup
from rongcloud_groups.models import GroupProfile

READ_AHEAD_SECONDS: Final = 2.0
"""Seconds that the budget needs for the open IDs, at most."""

MAX_HELD: Final = 16_000
"""IDs between the oldest one without an outcome and the newest one that was asked for, at most."""


class OrderedLookups:
    """Looks up the IDs of blocks, as many at a time as the budget has use for.

    Args:
        client: an open client.
        encode: makes a row of a profile.
    """

    def __init__(self, client: GroupClient, encode: Callable[[GroupProfile], Any]) -> None:
        self._client = client
        self._encode = encode
        self._order = ReorderBuffer()
        self._settled_something = Event()
        self._stream: Stream | None = None
        self._taken_all = False
        in_time = int(READ_AHEAD_SECONDS * client.stats().rate)
        # No more than can be in flight, however much the budget lets through: outcomes wait while rows are written.
        self._read_ahead = max(1, min(in_time, client.max_in_flight)) * BATCH_LIMIT

    @property
    def open(self) -> int:
        """IDs without an outcome."""
        return self._order.open

    @property
    def complete(self) -> bool:
        """Whether all blocks were taken, and have been given back."""
        return self._taken_all and not self._order.held

    async def settled(self, blocks: MemoryObjectReceiveStream[Block]) -> AsyncGenerator[list[Block]]:
        """Look up blocks; give them back in their order, as they settle.

        Raises:
            RongCloudError: an error that is not retryable.
        """
        async with self._client.stream(self._feed(blocks)) as parts:
            self._stream = parts
            async for part in parts:
                self._settle(part)
                yield list(self._order.settled_blocks())
        yield list(self._order.settled_blocks())  # of blocks without any new ID

    def stop(self) -> None:
        """Take no more blocks, and drop those not requested yet; the others settle."""
        if (stream := self._stream) is None:
            return
        stream.stop()
        if self._order.drop_last(lambda block: stream.withdraw(block.group_ids)):
            self._taken_all = False

    async def _feed(self, blocks: MemoryObjectReceiveStream[Block]) -> AsyncIterator[str]:
        async for block in blocks:
            while self._order.open >= self._read_ahead or self._order.held >= MAX_HELD:
                self._settled_something.clear()
                await self._settled_something.wait()
            self._order.add(block)
            for group_id in block.group_ids:
                yield group_id
        self._taken_all = True

    def _settle(self, part: Lookup) -> None:
        for group_id, profile in part.found.items():
            self._order.settle(group_id, self._encode(profile))
        for group_id in part.missing:
            self._order.settle(group_id, None)
        for group_id, error in part.failed.items():
            self._order.settle(group_id, error)
        self._settled_something.set()

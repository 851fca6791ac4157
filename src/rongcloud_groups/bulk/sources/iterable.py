"""IDs of an iterable."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from itertools import islice

import anyio

from rongcloud_groups.bulk.sources.interface import BLOCK, Source


class IterableSource(Source):
    """The IDs of any iterable or asynchronous iterable.

    To resume an unfinished job, give the same IDs in the same order again.

    Args:
        group_ids: the IDs.
        name: the name in messages.

    Raises:
        TypeError: it is one str, whose characters would be taken for IDs, or not iterable.
    """

    kind = "iterable"

    def __init__(self, group_ids: Iterable[str] | AsyncIterable[str], name: str = "the IDs") -> None:
        if isinstance(group_ids, str | bytes) or not isinstance(group_ids, Iterable | AsyncIterable):
            raise TypeError(f"give an iterable of group IDs, such as [{group_ids!r}], not {type(group_ids).__name__}")
        self.name = name
        self._group_ids = group_ids

    async def records(self) -> AsyncGenerator[list[str]]:
        """The IDs: of an asynchronous iterable one by one, as they come."""
        if isinstance(self._group_ids, AsyncIterable):
            async for group_id in self._group_ids:
                yield [group_id]
            return
        group_ids = iter(self._group_ids)
        while some := list(islice(group_ids, BLOCK)):
            yield some
            await anyio.lowlevel.checkpoint()  # signals and time-outs are handled in between

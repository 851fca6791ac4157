"""IDs of an iterable."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from itertools import islice

from rongcloud_groups.bulk.sources.interface import BLOCK


class IterableSource:
    """The IDs of any iterable or asynchronous iterable.

    To go on with an unfinished job, give the same IDs in the same order again.

    Args:
        group_ids: the IDs.
        name: what messages call it.
    """

    kind = "iterable"
    rereadable = False

    def __init__(self, group_ids: Iterable[str] | AsyncIterable[str], name: str = "the IDs") -> None:
        self.name = name
        self._group_ids = group_ids

    async def records(self) -> AsyncGenerator[list[str]]:
        """The IDs: of an asynchronous iterable one by one, as they come."""
        if isinstance(self._group_ids, AsyncIterable):
            async for group_id in self._group_ids:
                yield [group_id]
        else:
            group_ids = iter(self._group_ids)
            while some := list(islice(group_ids, BLOCK)):
                yield some

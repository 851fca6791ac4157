"""A stream whose source is read in the thread that consumes it."""

from asyncio import Event
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from typing import Final, Self

from anyio import CancelScope

from rongcloud_groups.blocking.portal import Running, entered, wait
from rongcloud_groups.lookup import Lookup

IDS_AT_A_TIME: Final = 500
"""IDs that a stream takes from its source at a time, in the thread that consumes the stream."""


class BlockingStream:
    """An iterator of `Lookup` parts; `BlockingGroupClient.stream` makes it."""

    def __init__(self, running: Running, group_ids: Iterable[str], *, bulk: bool) -> None:
        self._running = running
        self._group_ids = iter(group_ids)
        self._feed = _Feed()
        # A str is refused by the client's own stream, in its own words.
        source = group_ids if isinstance(group_ids, str) else self._feed
        self._parts = running.portal.call(lambda: running.client.stream(source, bulk=bulk))
        self._stack = ExitStack()
        self._source_error: Exception | None = None
        self._opened = self._ended = False

    def __enter__(self) -> Self:
        if not self._opened:
            self._opened = True
            self._stack.enter_context(entered(self._running, self._parts))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the IDs that have no outcome yet."""
        self._ended = True
        self._stack.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Lookup:
        """The next IDs that have their outcome, at most 50.

        Raises:
            RongCloudError: an error that is not retryable, or the client was closed.
        """
        if self._ended:
            raise StopIteration
        try:
            self.__enter__()
            while (part := wait(self._running, self._next_part)) is None and not self._feed.ended:
                self._feed_some()
        except BaseException:
            self.close()
            raise
        if part is not None:
            return part
        self.close()
        if self._source_error is not None:
            raise self._source_error
        raise StopIteration

    def _feed_some(self) -> None:
        some: list[str] = []
        try:
            some.extend(islice(self._group_ids, IDS_AT_A_TIME))  # keeps the IDs before one that fails
        except Exception as error:  # noqa: BLE001  raised once the IDs before it have their outcomes
            self._source_error = error
            self._group_ids = iter(())
        self._running.portal.call(self._feed.put, some)

    async def _next_part(self) -> Lookup | None:
        """The next part, or None where the stream waits for IDs or has ended."""
        with CancelScope() as self._feed.reader:
            if self._feed.hungry:
                self._feed.reader.cancel()
            return await anext(self._parts, None)
        return None


class _Feed:
    """The asynchronous source of a stream, filled by the thread that consumes the stream.

    Where it has no more IDs, it is hungry, and ends the wait for the next part, which is `reader`.
    """

    def __init__(self) -> None:
        self._ids: deque[str] = deque()
        self._filled = Event()
        self.reader: CancelScope | None = None
        self.hungry = self.ended = False

    def put(self, group_ids: list[str]) -> None:  # an empty list is the end
        self._ids.extend(group_ids)
        self.ended = not group_ids
        self.hungry = False
        self._filled.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._ids:
            if self.ended:
                raise StopAsyncIteration
            self._filled.clear()
            self.hungry = True
            if self.reader is not None:
                self.reader.cancel()
            await self._filled.wait()
        return self._ids.popleft()

"""A stream whose source is read in the thread that consumes it."""

from asyncio import Event
from collections.abc import AsyncIterator, Generator, Iterable
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
        # A str is refused by the client's own stream, in its own words.
        source = group_ids if isinstance(group_ids, str) else self._source()
        self._stream = running.portal.call(lambda: running.client.stream(source, bulk=bulk))
        self._parts = self._consume()
        self._taken: list[str] = []  # from the source
        self._hungry = self._source_ended = False
        self._source_error: Exception | None = None
        self._fed = Event()
        self._reader: CancelScope | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the IDs that have no outcome yet."""
        self._parts.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Lookup:
        """The next IDs that have their outcome, at most 50.

        Raises:
            RongCloudError: an error that is not retryable, or the client was closed.
        """
        return next(self._parts)

    def _consume(self) -> Generator[Lookup, None, None]:
        with entered(self._running, self._stream):
            while True:
                if (part := wait(self._running, self._next_part)) is not None:
                    yield part
                elif not self._source_ended:
                    self._feed_some()
                elif self._source_error is not None:
                    raise self._source_error
                else:
                    return

    def _feed_some(self) -> None:
        taken: list[str] = []
        try:
            taken.extend(islice(self._group_ids, IDS_AT_A_TIME))  # keeps the IDs before one that fails
        except Exception as error:  # noqa: BLE001  raised once the IDs before it have their outcomes
            self._source_error = error
            self._group_ids = iter(())
        self._running.portal.call(self._feed, taken)

    def _feed(self, taken: list[str]) -> None:
        self._taken = taken
        self._source_ended = not taken
        self._hungry = False
        self._fed.set()

    async def _source(self) -> AsyncIterator[list[str]]:
        """The IDs that the thread has taken from its source; where they are used up, its wait for a part ends."""
        while not self._source_ended:
            self._fed.clear()
            self._hungry = True
            if self._reader is not None:
                self._reader.cancel()
            await self._fed.wait()
            yield self._taken

    async def _next_part(self) -> Lookup | None:
        """The next part, or None where the stream waits for IDs or has ended."""
        with CancelScope() as self._reader:
            if self._hungry:
                self._reader.cancel()
            return await anext(self._stream, None)
        return None

"""A stream whose source is read in the thread that consumes it."""

from asyncio import Event
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from itertools import islice
from typing import Final, Self

from anyio import CancelScope

from rongcloud_groups._dispatch.stream import Stream
from rongcloud_groups.blocking.running import Running
from rongcloud_groups.lookup import Lookup

IDS_AT_A_TIME: Final = 500
"""IDs that a stream takes from its source at a time, in the thread that consumes the stream."""


class BlockingStream(Iterator[Lookup]):
    """An iterator of `Lookup` parts; `BlockingGroupClient.stream` makes it."""

    def __init__(self, running: Running, group_ids: Iterable[str], *, bulk: bool) -> None:
        source = _Source(group_ids)
        # A str is refused by the client's own stream, in its own words.
        batches = group_ids if isinstance(group_ids, str) else source.read()
        client = running.client
        stream = running.call(lambda: client.stream(batches, bulk=bulk))
        self._parts = _parts(running, stream, source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the IDs that have no outcome yet."""
        self._parts.close()

    def __next__(self) -> Lookup:
        """The next IDs that have their outcome, at most 50.

        Raises:
            RongCloudError: an error that is not retryable, or the client was closed.
        """
        return next(self._parts)


def _parts(running: Running, stream: Stream, source: "_Source") -> Generator[Lookup, None, None]:
    with running.entered(stream):
        while True:
            if (part := running.wait(lambda: source.next_part(stream))) is not None:
                yield part
            elif not source.ended:
                running.call(source.feed, source.take())
            elif source.error is not None:
                raise source.error
            else:
                return


class _Source:
    """The IDs of a stream: taken in the thread that consumes it, and read in the event loop."""

    def __init__(self, group_ids: Iterable[str]) -> None:
        self.ended = False
        self.error: Exception | None = None
        self._group_ids = iter(group_ids)
        self._taken: list[str] = []
        self._hungry = False
        self._fed = Event()
        self._reader: CancelScope | None = None

    def take(self) -> list[str]:
        taken: list[str] = []
        try:
            taken.extend(islice(self._group_ids, IDS_AT_A_TIME))  # keeps the IDs before one that fails
        except Exception as error:  # noqa: BLE001  raised once the IDs before it have their outcomes
            self.error = error
            self._group_ids = iter(())
        return taken

    def feed(self, taken: list[str]) -> None:
        self._taken = taken
        self.ended = not taken
        self._hungry = False
        self._fed.set()

    async def read(self) -> AsyncIterator[list[str]]:
        """The IDs that the thread has taken; where they are used up, its wait for a part ends."""
        while not self.ended:
            self._fed.clear()
            self._hungry = True
            if self._reader is not None:
                self._reader.cancel()
            await self._fed.wait()
            yield self._taken

    async def next_part(self, stream: Stream) -> Lookup | None:
        """The next part, or None where the stream waits for IDs or has ended."""
        with CancelScope() as self._reader:
            if self._hungry:
                self._reader.cancel()
            return await anext(stream, None)
        return None

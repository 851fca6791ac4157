"""Look up IDs as they come, in flat memory."""

from asyncio import Event, Task, wait
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Iterable
from copy import copy
from itertools import islice
from typing import Self

from rongcloud_groups._dispatch.lifetime import Lifetime
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._dispatch.steps import Steps
from rongcloud_groups._dispatch.waiters import checked, reject_single_str
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups._transport.containment import is_cancellation
from rongcloud_groups.errors import ClientClosed, RongCloudError
from rongcloud_groups.lookup import Lookup, Outcome, lookup_of


class Stream:
    """An asynchronous iterator of `Lookup` parts; `GroupClient.stream` makes it.

    Use it once, in ``async with``. It takes IDs from their source only as fast as its parts are consumed.
    """

    def __init__(
        self,
        group_ids: Iterable[object] | AsyncIterable[object],
        pending: PendingQueue,
        lifetime: Lifetime,
        *,
        window: int,
        bulk: bool,
    ) -> None:
        self._group_ids = reject_single_str(group_ids) if isinstance(group_ids, Iterable) else group_ids
        self._pending = pending
        self._lifetime = lifetime
        self._window = window
        self.bulk = bulk
        # A collection is in memory anyway, so each of its IDs can be remembered; a source without end cannot.
        self._seen: set[str] | None = set() if isinstance(group_ids, Collection) else None
        self._open: set[str] = set()
        self._parts: deque[Lookup] = deque()
        self._unconsumed = 0
        self._changed = Event()
        self._room = Event()
        self._reading: Task[None] | None = None
        self._left = False
        self._stopped = False
        self._source_error: BaseException | None = None
        self._aborted: RongCloudError | None = None

    async def __aenter__(self) -> Self:
        if self._reading is not None:
            raise ClientClosed("a stream is used once: make another one with client.stream()")
        self._reading = self._lifetime.start(self._read())
        self._reading.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(self, exc_type: object, exc_value: BaseException | None, traceback: object) -> None:
        assert self._reading is not None  # noqa: S101  it was entered
        self._left = True
        ended_before = self._reading.done()
        self._reading.cancel()
        try:
            await wait([self._reading])
        finally:
            self._pending.leave(self, list(self._open))
        if self._source_error is not None and exc_value is None and not ended_before:
            raise self._source_error  # by a generator that was closed here

    def __aiter__(self) -> Self:
        self._check_entered()
        return self

    async def __anext__(self) -> Lookup:
        """The next IDs that have their outcome, at most 50.

        Raises:
            RongCloudError: an error that is not retryable, or the client was closed.
            ClientClosed: the stream is not open.
        """
        reading = self._check_entered()
        while True:
            if self._parts:
                part = self._parts.popleft()
                self._unconsumed -= len(part)
                self._room.set()
                return part
            if self._aborted is not None:
                raise copy(self._aborted)
            if reading.done() and not self._open:
                if self._source_error is not None:
                    raise self._source_error
                if reading.cancelled() and not self._stopped:
                    raise ClientClosed("the client was closed")
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def stop(self) -> None:
        """Take no more IDs from the source."""
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()

    def withdraw(self, group_ids: Collection[str]) -> bool:
        """Give up IDs, if a request was sent for none of them; whether that was so."""
        waiting = [group_id for group_id in group_ids if group_id in self._open]
        if not all(map(self._pending.is_queued, waiting)):
            return False
        self._pending.leave(self, waiting)
        self._open.difference_update(waiting)
        self._changed.set()
        return True

    def settle(self, outcomes: dict[str, Outcome], request_id: str | None = None) -> None:
        self._open.difference_update(outcomes)
        self._unconsumed += len(outcomes)
        items = iter(outcomes.items())
        while part := dict(islice(items, BATCH_LIMIT)):
            self._parts.append(lookup_of(part, [] if request_id is None else [request_id]))
        self._changed.set()

    def abort(self, error: RongCloudError) -> None:
        self._aborted = error
        self._open.clear()
        self.stop()
        self._changed.set()

    def _check_entered(self) -> Task[None]:
        if self._reading is None or self._left:
            state = "has ended" if self._left else "is not open"
            use = "async with client.stream(ids) as parts: async for part in parts: …"
            raise ClientClosed(f"the stream {state}: write '{use}'")
        return self._reading

    async def _read(self) -> None:
        """Admit the IDs of the source. An exception of the source is raised where the parts are consumed."""
        source = self._group_ids
        try:
            await (self._read_async(aiter(source)) if isinstance(source, AsyncIterable) else self._read_sync(source))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if is_cancellation(error):
                raise
            self._source_error = error

    async def _read_async(self, source: AsyncIterator[object]) -> None:
        try:
            async for item in source:
                await self._wait_for_room()
                self._admit(item if isinstance(item, list) else [item])
                if self._left:
                    return
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()

    async def _read_sync(self, source: Iterable[object]) -> None:
        steps = Steps(source)
        try:
            while chunk := steps.read(await self._wait_for_room()):
                self._admit(chunk)
                if steps.over:
                    await steps.pause()
        finally:
            steps.close()

    async def _wait_for_room(self) -> int:
        """How many more IDs may be open or not consumed: one at least, a batch at most."""
        while (room := self._window - len(self._open) - self._unconsumed) <= 0:
            self._room.clear()
            await self._room.wait()
        return min(room, BATCH_LIMIT)

    def _admit(self, group_ids: list[object]) -> None:
        """Look up the IDs that are valid and new."""
        known = self._open if self._seen is None else self._seen
        new = checked(group_ids, None)
        if not known.isdisjoint(new):
            new = {group_id: new[group_id] for group_id in new if group_id not in known}
        if self._seen is not None:
            self._seen.update(new)
        invalid: dict[str, Outcome] = {group_id: error for group_id, error in new.items() if error is not None}
        if invalid:
            self.settle(invalid)
        valid = [group_id for group_id, error in new.items() if error is None] if invalid else new
        self._open.update(valid)
        self._pending.add_all(valid, self)

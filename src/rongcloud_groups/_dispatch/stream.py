"""Look up IDs as they come, in flat memory."""

from asyncio import Event
from collections import deque
from collections.abc import AsyncIterable, Callable, Collection, Coroutine, Iterable
from copy import copy
from types import TracebackType
from typing import Any, Self

import anyio

from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._dispatch.waiters import failed_key
from rongcloud_groups._protocol.api import BATCH_LIMIT, validated_group_id
from rongcloud_groups.errors import InvalidGroupId, RongCloudError
from rongcloud_groups.lookup import Lookup, Outcome


class Stream:
    """An asynchronous iterator of `Lookup` parts; `GroupClient.stream` makes it.

    Use it in ``async with``. It takes IDs from their source only as fast as its parts are consumed.
    """

    def __init__(
        self,
        group_ids: Iterable[object] | AsyncIterable[object],
        *,
        pending: PendingQueue,
        wake: Callable[[], None],
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        window: int,
        bulk: bool,
    ) -> None:
        self._group_ids = group_ids
        self._pending = pending
        self._wake = wake
        self._start = start
        self._window = window
        self._bulk = bulk
        # A collection is in memory anyway, so each of its IDs can be remembered; a source without end cannot.
        self._seen: set[str] | None = set() if isinstance(group_ids, Collection) else None
        self._open: set[str] = set()
        self._part = Lookup()
        self._parts: deque[Lookup] = deque()
        self._unconsumed = 0
        self._changed = Event()
        self._room = Event()
        self._feeding = anyio.CancelScope()
        self._fed = Event()
        self._feed_error: Exception | None = None
        self._aborted: RongCloudError | None = None

    async def __aenter__(self) -> Self:
        self._start(self._feed)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._feeding.cancel()
        try:
            await self._fed.wait()
        finally:
            self._pending.leave(self, list(self._open))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Lookup:
        """The next IDs that have their outcome, at most 50.

        Raises:
            RongCloudError: no retry can mend what happened, or the client was closed.
        """
        while True:
            if self._parts:
                part = self._parts.popleft()
                self._unconsumed -= len(part)
                self._room.set()
                return part
            if self._aborted is not None:
                raise copy(self._aborted)
            if self._fed.is_set() and not self._open:
                if self._feed_error is not None:
                    raise self._feed_error
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def settle(self, group_id: str, outcome: Outcome) -> None:
        """One of the IDs has its outcome."""
        self._open.discard(group_id)
        self._record(group_id, outcome)

    def flush(self) -> None:
        """All that settles in this step has settled."""
        if len(self._part):
            self._parts.append(self._part)
            self._part = Lookup()
        self._changed.set()

    def abort(self, error: RongCloudError) -> None:
        """There will be no outcome for the open IDs."""
        self._aborted = error
        self._feeding.cancel()
        self._changed.set()

    async def _feed(self) -> None:
        try:
            with self._feeding:
                if isinstance(self._group_ids, AsyncIterable):
                    async for group_id in self._group_ids:
                        await self._admit(group_id)
                else:
                    for group_id in self._group_ids:
                        await self._admit(group_id)
        except Exception as error:  # noqa: BLE001  whatever the source raises is the consumer's to see
            self._feed_error = error
        finally:
            self._fed.set()
            self.flush()

    async def _admit(self, group_id: object) -> None:
        while len(self._open) + self._unconsumed >= self._window:
            self._room.clear()
            await self._room.wait()
        try:
            valid = validated_group_id(group_id)
        except InvalidGroupId as error:
            if self._is_new(failed_key(group_id)):
                self._record(failed_key(group_id), error)
                self.flush()
            return
        if valid not in self._open and self._is_new(valid):
            self._open.add(valid)
            self._pending.add(valid, self, bulk=self._bulk)
            self._wake()

    def _is_new(self, key: str) -> bool:
        if self._seen is None:
            return True
        known = len(self._seen)
        self._seen.add(key)
        return len(self._seen) > known

    def _record(self, group_id: str, outcome: Outcome) -> None:
        self._part.record(group_id, outcome)
        self._unconsumed += 1
        if len(self._part) == BATCH_LIMIT:
            self.flush()

"""Look up one ID or many, over the cache, the queue and a deadline."""

from asyncio import get_running_loop
from collections.abc import Awaitable, Collection, Generator, Iterable
from math import inf
from types import coroutine
from typing import TypeVar

from msgspec import UNSET, Struct

from rongcloud_groups._dispatch.dispatcher import Dispatcher
from rongcloud_groups._dispatch.lanes import Waiter
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._dispatch.steps import Steps
from rongcloud_groups._dispatch.waiters import GetManyWaiter, GetWaiter, WakeUps, reject_single_str
from rongcloud_groups._protocol.requests import BATCH_LIMIT, validated_group_id
from rongcloud_groups._validation import number
from rongcloud_groups.cache import Cache
from rongcloud_groups.errors import DeadlineExceeded, RongCloudError
from rongcloud_groups.events import CallEnded, Emitter, logger
from rongcloud_groups.lookup import Lookup, Outcome
from rongcloud_groups.models import GroupProfile

T = TypeVar("T", bound=Lookup | GroupProfile | None)


class Lookups:
    """The calls that wait for outcomes; ``deadline`` is that of the calls that give none."""

    def __init__(
        self, pending: PendingQueue, cache: Cache | None, dispatcher: Dispatcher, emit: Emitter, deadline: float | None
    ) -> None:
        self._pending = pending
        self._cache = cache
        self._dispatcher = dispatcher
        self._emit = emit
        self._observes = bool(emit)
        self._wake_ups = WakeUps()
        self._deadline = inf if deadline is None else deadline

    def get(self, group_id: str, deadline: float | None, *, fresh: bool) -> Awaitable[GroupProfile | None]:
        seconds = self._deadline if deadline is None else number("deadline", deadline)
        request_ids: list[str] | None = [] if self._observes else None
        call = self._get(group_id, seconds, request_ids, fresh=fresh)
        return call if request_ids is None else self._observed("get", call, request_ids)

    def get_many(
        self, group_ids: Iterable[object], deadline: float | None, *, bulk: bool, fresh: bool
    ) -> Awaitable[Lookup]:
        waiter = GetManyWaiter(get_running_loop().create_future(), bulk)
        seconds = self._deadline if deadline is None else number("deadline", deadline)
        call = self._get_many(group_ids, seconds, waiter, fresh=fresh)
        return self._observed("get_many", call, waiter.request_ids) if self._observes else call

    async def _observed(self, name: str, call: Awaitable[T], request_ids: list[str]) -> T:
        """The result of a call; the hooks are notified of its end, however it ends."""
        clock = get_running_loop().time
        began = clock()
        try:
            result = await call
        except BaseException as error:
            self._emit(CallEnded(name, 0, 0, 0, clock() - began, error, request_ids))
            raise
        self._emit(CallEnded(name, *_counts(result), clock() - began, None, request_ids))
        return result

    @coroutine
    def _get(
        self, group_id: str, deadline: float, request_ids: list[str] | None, *, fresh: bool
    ) -> Generator[GetWaiter, None, GroupProfile | None]:
        group_id = validated_group_id(group_id)
        if deadline <= 0:
            raise self._exceeded(group_id, deadline)
        waiter = GetWaiter(self._wake_ups, request_ids)
        cached = None if self._cache is None else CachedWaiter(waiter, self._cache)
        timer = None
        if deadline != inf:
            timer = get_running_loop().call_later(deadline, self._expire, waiter, group_id, deadline)
        try:
            if cached is None:
                self._pending.add(group_id, waiter)
            else:
                self._add([group_id], cached, fresh=fresh)
            if waiter.outcome is UNSET:
                yield waiter
            return waiter.result()
        except BaseException:
            self._leave(cached or waiter, [group_id])
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self, waiter: GetWaiter, group_id: str, deadline: float) -> None:
        waiter.abort(self._exceeded(group_id, deadline))

    async def _get_many(
        self, group_ids: Iterable[object], deadline: float, waiter: GetManyWaiter, *, fresh: bool
    ) -> Lookup:
        queued = waiter if self._cache is None or waiter.bulk else CachedWaiter(waiter, self._cache)

        def expire() -> None:
            open_ids = waiter.open_ids()
            waiter.expire(lambda group_id: self._exceeded(group_id, deadline))
            self._leave(queued, open_ids)

        timer = None
        if deadline <= 0:
            expire()
        elif deadline != inf:
            timer = get_running_loop().call_later(deadline, expire)
        try:
            # In steps, to the last ID even after the deadline: each of them has an outcome.
            steps = Steps(reject_single_str(group_ids))
            while chunk := steps.read(BATCH_LIMIT):
                self._add(waiter.admit(chunk), queued, fresh=fresh)
                if steps.over:
                    await steps.pause()
                    if waiter.future.done():  # aborted
                        break
            waiter.admitted()
            await waiter.future
            return waiter.lookup()
        except BaseException:
            if waiter.future.done() and not waiter.future.cancelled():
                waiter.future.exception()  # a caller that was cancelled in the same step does not retrieve it
            self._leave(queued, waiter.open_ids())
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _add(self, group_ids: Collection[str], waiter: Waiter, *, fresh: bool) -> None:
        if isinstance(waiter, CachedWaiter):
            group_ids = waiter.not_held(group_ids, self._pending, fresh=fresh)
        self._pending.add_all(group_ids, waiter)

    def _leave(self, waiter: Waiter, group_ids: Iterable[str]) -> None:
        if isinstance(waiter, CachedWaiter):
            waiter.discard(group_ids)
        self._pending.leave(waiter, group_ids)

    def _exceeded(self, group_id: str, deadline: float) -> DeadlineExceeded:
        return DeadlineExceeded(self._dispatcher.phase_of(group_id), deadline)


def _counts(result: Lookup | GroupProfile | None) -> tuple[int, int, int]:
    if isinstance(result, Lookup):
        return len(result.found), len(result.missing), len(result.failed)
    return (0, 1, 0) if result is None else (1, 0, 0)


class CachedWaiter(Struct, eq=False):
    """Waits in the place of a caller's waiter, and stores the outcomes of the requests that it caused.

    One that joined a request stores nothing: it may have arrived after an invalidation.
    """

    _waiter: Waiter
    _cache: Cache
    bulk: bool = False

    def not_held(self, group_ids: Collection[str], pending: PendingQueue, *, fresh: bool) -> Collection[str]:
        """The IDs to wait for; those that the cache holds are settled, unless they are to be ``fresh``."""
        held = {} if fresh else self._cache.lookup(group_ids)
        group_ids = [group_id for group_id in group_ids if group_id not in held]
        for group_id in filter(pending.starts_request, group_ids):
            self._cache.begin(group_id, self)
        if held:
            self._waiter.settle(held)
        return group_ids

    def discard(self, group_ids: Iterable[str]) -> None:
        """Store no outcome of these IDs."""
        for group_id in group_ids:
            self._cache.discard(group_id, self)

    def settle(self, outcomes: dict[str, Outcome], request_id: str | None = None) -> None:
        for group_id, outcome in outcomes.items():
            try:
                self._cache.store(group_id, self, outcome)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # noqa: BLE001  a cache that fails, such as by its ``timer``, costs no outcome
                logger.exception("the cache failed")
        self._waiter.settle(outcomes, request_id)

    def abort(self, error: RongCloudError) -> None:
        self._waiter.abort(error)

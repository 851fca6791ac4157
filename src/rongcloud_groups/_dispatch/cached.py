"""A cache in front of the queue of IDs."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from rongcloud_groups._dispatch.lanes import Waiter
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups.cache import Cache
from rongcloud_groups.errors import RongCloudError
from rongcloud_groups.events import logger
from rongcloud_groups.lookup import Outcome


class CacheFront:
    """The queue of open IDs with a cache in front of it.

    It is itself a waiter for each ID that it opened. Only the caller that caused a request stores its outcome; a caller
    that joined it may have arrived after an invalidation.
    """

    bulk = False

    def __init__(self, cache: Cache, pending: PendingQueue, app_key: str) -> None:
        self._cache = cache
        self._pending = pending
        self._openers: dict[str, Waiter] = {}
        cache.attach(pending, app_key)

    def add_all(self, group_ids: Collection[str], waiter: Waiter, *, fresh: bool) -> None:
        """Settle the IDs that the cache holds, unless they are to be ``fresh``; let ``waiter`` wait for the others."""
        held: dict[str, Outcome] = {}
        for group_id in group_ids:
            if not fresh and (cached := self._cache.lookup(group_id)) is not None:
                held[group_id] = cached.profile
            else:
                self._add(group_id, waiter)
        if held:
            waiter.settle(held)

    def _add(self, group_id: str, waiter: Waiter) -> None:
        opens = self._pending.begins(group_id)
        self._pending.add(group_id, waiter)
        if opens:
            self._pending.leave(self, [group_id])  # the request in flight, if any, is stale
            self._openers[group_id] = waiter
            self._pending.add(group_id, self)
            self._cache.begin(group_id, waiter)

    def leave(self, waiter: Waiter, group_ids: Iterable[str]) -> None:
        for group_id in group_ids:
            if self._openers.get(group_id) is waiter:
                del self._openers[group_id]
                with _logged():
                    self._cache.discard(group_id, waiter)
                self._pending.leave(self, [group_id])
            self._pending.leave(waiter, [group_id])

    def settle(self, outcomes: dict[str, Outcome], request_id: str | None = None) -> None:  # noqa: ARG002  not kept
        for group_id, outcome in outcomes.items():
            opener = self._openers.pop(group_id)
            with _logged():
                self._cache.store(group_id, opener, outcome)

    def abort(self, error: RongCloudError) -> None:
        self.settle(dict.fromkeys(self._openers, error))


@contextmanager
def _logged() -> Iterator[None]:
    """A cache that fails, such as by its ``timer``, costs no caller its outcome."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001  logged
        logger.exception("the cache failed")

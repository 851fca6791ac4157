"""A cache before the queue of IDs."""

from collections.abc import Iterable

from rongcloud_groups._dispatch.pending import PendingQueue, Waiter
from rongcloud_groups.cache import Cache
from rongcloud_groups.errors import RongCloudError
from rongcloud_groups.lookup import Outcome


class CacheFront:
    """The book of open IDs with a cache before it. It waits itself for each ID that was opened here.

    Who joins an ID that is open already keeps nothing: the cache may have been told that the group changed since that
    was asked for.

    Args:
        cache: what is looked into first.
        pending: the book.
    """

    def __init__(self, cache: Cache, pending: PendingQueue) -> None:
        self._cache = cache
        self._pending = pending
        self._openers: dict[str, Waiter] = {}
        cache.watch(pending)

    def add(self, group_id: str, waiter: Waiter, *, fresh: bool) -> None:
        """Settle an ID that the cache holds, unless it is to be ``fresh``; let ``waiter`` wait for any other."""
        if not fresh and (remembered := self._cache.lookup(group_id)) is not None:
            waiter.settle(group_id, remembered.profile)
            return
        opens = self._pending.begins(group_id)
        self._pending.add(group_id, waiter, bulk=False)
        if opens:
            self._pending.leave(self, [group_id])  # what is in flight, if anything, is outdated
            self._openers[group_id] = waiter
            self._cache.asked(group_id, waiter)
            self._pending.add(group_id, self, bulk=False)

    def leave(self, waiter: Waiter, group_ids: Iterable[str]) -> None:
        """``waiter`` no longer waits for these IDs."""
        for group_id in group_ids:
            if self._openers.get(group_id) is waiter:
                del self._openers[group_id]
                self._cache.given_up(group_id, waiter)
                self._pending.leave(self, [group_id])
            self._pending.leave(waiter, [group_id])

    def settle(self, group_id: str, outcome: Outcome) -> None:
        """An ID that was opened here has its outcome."""
        self._cache.answered(group_id, self._openers.pop(group_id), outcome)

    def flush(self) -> None:
        """Nothing is held back."""

    def abort(self, error: RongCloudError) -> None:  # noqa: ARG002  none is kept
        """There will be no outcome."""
        for group_id, opener in self._openers.items():
            self._cache.given_up(group_id, opener)
        self._openers.clear()

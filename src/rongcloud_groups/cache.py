"""Outcomes kept for a while, so that lookups of a group that is often needed share one request."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from random import random
from typing import Protocol
from weakref import WeakSet

import msgspec

from rongcloud_groups._validation import at_least, extra_needed, positive
from rongcloud_groups.errors import ConfigError, RongCloudError
from rongcloud_groups.lookup import Outcome
from rongcloud_groups.models import GroupProfile


class CacheInfo(msgspec.Struct, frozen=True):
    """The counts of a cache.

    Attributes:
        hits: IDs that the cache held.
        misses: IDs that the cache did not hold, or no longer.
        size: outcomes held now.
        max_size: the most outcomes that it may hold.
    """

    hits: int
    misses: int
    size: int
    max_size: int


class _Queue(Protocol):
    def mark_stale(self, group_ids: Iterable[str] | None = None) -> None: ...


class Cache:
    """Outcomes of one App Key, kept in memory for a while: ``GroupClient(…, cache=Cache(ttl=60))``.

    `GroupClient.get` and `GroupClient.get_many` return the groups that it holds without a request, and add those that
    they found or that are missing; a failure is never kept. Streams and ``get_many(…, bulk=True)`` bypass it: they
    want current profiles, and would push out the ones that are needed often. Callers share the profiles, so do not
    change their dicts. Clients of the same App Key may share a cache. Needs the extra ``cache``.

    Args:
        ttl: seconds for which a profile is kept.
        jitter: the largest part of that time, 0 to 1, by which it is shortened at random, so that groups that were
            looked up together do not expire together.
        max_size: the most outcomes that it may hold; the least recently used one is dropped first.
        missing_ttl: seconds for which a missing group is kept, shortened in the same way; 0 for not at all. By default
            10, or ``ttl`` where that is less.
        timer: the clock, in seconds.

    Raises:
        ConfigError: an argument cannot be used, or the extra is not installed.
    """

    def __init__(
        self,
        *,
        ttl: float = 60.0,
        jitter: float = 0.1,
        max_size: int = 10_000,
        missing_ttl: float | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = positive("ttl", ttl)
        self._jitter = jitter and positive("jitter", jitter)
        if self._jitter > 1:
            raise ConfigError(f"jitter is {jitter!r}; give a part of the time, 0 to 1")
        if missing_ttl is None:
            missing_ttl = min(10.0, self._ttl)  # the group may be created at any moment
        self._missing_ttl = missing_ttl and positive("missing_ttl", missing_ttl)
        try:
            from cachetools import TLRUCache
        except ImportError:
            raise ConfigError(extra_needed("a cache", "cache")) from None
        self._held = TLRUCache(at_least(1, "max_size", max_size), self._expiry, timer)
        self._openers: dict[str, object] = {}
        self._queues: WeakSet[_Queue] = WeakSet()
        self._hits = self._misses = 0
        self._app_key: str | None = None

    def invalidate(self, *group_ids: str) -> None:
        """Forget these IDs: the next lookup asks the service.

        The outcome of a request in flight is not kept. The callers that wait for it already receive it; a caller that
        arrives later waits for a new request, sent after that one has ended.
        """
        for group_id in group_ids:
            self._openers.pop(group_id, None)
            with suppress(KeyError):
                del self._held[group_id]
        for queue in self._queues:
            queue.mark_stale(group_ids)

    def clear(self) -> None:
        """Forget all IDs; see `invalidate`."""
        self._openers.clear()
        self._held.clear()
        for queue in self._queues:
            queue.mark_stale()

    def attach(self, queue: _Queue, app_key: str) -> None:
        """Notify this queue, while it exists, of each invalidation."""
        if self._app_key not in {None, app_key}:
            raise ConfigError(f"cache has the groups of App Key {self._app_key!r}; make another one for {app_key!r}")
        self._app_key = app_key
        self._queues.add(queue)

    def info(self) -> CacheInfo:
        """The counts so far."""
        return CacheInfo(self._hits, self._misses, len(self._held), int(self._held.maxsize))

    def lookup(self, group_ids: Iterable[str]) -> dict[str, Outcome]:
        """The outcomes that it holds of these IDs."""
        outcomes: dict[str, Outcome] = {}
        for group_id in group_ids:
            try:
                outcomes[group_id] = self._held[group_id]
            except KeyError:
                self._misses += 1
        self._hits += len(outcomes)
        return outcomes

    def begin(self, group_id: str, opener: object) -> None:
        """``opener`` has caused a request for an ID."""
        self._openers[group_id] = opener

    def store(self, group_id: str, opener: object, outcome: Outcome) -> None:
        """The ID has its outcome; keep it unless the ID was invalidated, or caused another request, since."""
        if self._openers.get(group_id) is opener:
            del self._openers[group_id]
            if not isinstance(outcome, RongCloudError):
                self._held[group_id] = outcome

    def discard(self, group_id: str, opener: object) -> None:
        """``opener`` will not see the outcome."""
        if self._openers.get(group_id) is opener:
            del self._openers[group_id]

    def _expiry(self, _: str, profile: GroupProfile | None, now: float) -> float:
        seconds = self._missing_ttl if profile is None else self._ttl
        return now + seconds * (1 - self._jitter * random())

    def __repr__(self) -> str:
        return f"Cache(ttl={self._ttl:g}, missing_ttl={self._missing_ttl:g}, size={len(self._held)})"

"""Answers kept for a while, so that the same group is not asked for again and again."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from random import random
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

import msgspec

from rongcloud_groups._validation import at_least, positive
from rongcloud_groups.errors import ConfigError, RongCloudError
from rongcloud_groups.lookup import Outcome
from rongcloud_groups.models import GroupProfile

if TYPE_CHECKING:
    from cachetools import TLRUCache


MISSING_TTL = 10.0
"""Seconds for which a missing group is kept, where nothing else is said: it may be created any moment."""


class CachedAnswer(msgspec.Struct, frozen=True):
    """An answer that a cache holds; ``profile`` is None where the service has no such group."""

    profile: GroupProfile | None


class CacheInfo(msgspec.Struct, frozen=True):
    """What a cache did and holds.

    Attributes:
        hits: IDs answered from the cache.
        misses: IDs that the cache did not hold, or no longer.
        size: answers held now.
        max_size: answers held at the most.
    """

    hits: int
    misses: int
    size: int
    max_size: int


class _Book(Protocol):
    def mark_stale(self, group_ids: Iterable[str] | None = None) -> None: ...


class Cache:
    """Answers of one App Key, kept in memory for a while: ``GroupClient(…, cache=Cache(ttl=60))``.

    `GroupClient.get` and `GroupClient.get_many` take from it what it holds, at no request and no wait, and put into
    it what was found or is missing; a failure is never kept. Streams and ``get_many(…, bulk=True)`` pass it by: they
    want what the service has now, and would push out what is asked for often. A profile is handed out as it is held,
    so do not change its dicts. Needs the extra ``cache``.

    Args:
        ttl: seconds for which a profile is kept.
        jitter: the part of that time, 0 to 1, by which it is shortened at random at the most, so that what was asked
            for together does not expire together.
        max_size: answers held at the most; the least recently used goes first.
        missing_ttl: seconds for which it is kept that a group is missing, shortened likewise; 0 for not at all. By
            default 10, or ``ttl`` where that is less.
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
            missing_ttl = min(MISSING_TTL, self._ttl)
        self._missing_ttl = missing_ttl and positive("missing_ttl", missing_ttl)
        self._held = _store(at_least(1, "max_size", max_size), self._expiry, timer)
        self._asked: dict[str, object] = {}
        self._books: WeakSet[_Book] = WeakSet()
        self._hits = self._misses = 0

    def invalidate(self, *group_ids: str) -> None:
        """Forget these IDs: the next lookup asks the service.

        An answer that is on its way is not kept. It goes to those who wait for it already; who comes later waits
        for a request that leaves once it is there.
        """
        for group_id in group_ids:
            self._asked.pop(group_id, None)
            with suppress(KeyError):
                del self._held[group_id]
        for book in self._books:
            book.mark_stale(group_ids)

    def clear(self) -> None:
        """Forget all IDs; see `invalidate`."""
        self._asked.clear()
        self._held.clear()
        for book in self._books:
            book.mark_stale()

    def watch(self, pending: _Book) -> None:
        """Tell this book, as long as there is one, what is invalidated."""
        self._books.add(pending)

    def info(self) -> CacheInfo:
        """What it did and holds."""
        self._held.expire()
        return CacheInfo(self._hits, self._misses, len(self._held), int(self._held.maxsize))

    def lookup(self, group_id: str) -> CachedAnswer | None:
        """The answer it holds for an ID, or None."""
        try:
            remembered = self._held[group_id]
        except KeyError:
            self._misses += 1
            return None
        self._hits += 1
        return remembered

    def asked(self, group_id: str, asker: object) -> None:
        """An ID is asked for, by ``asker``."""
        self._asked[group_id] = asker

    def answered(self, group_id: str, asker: object, outcome: Outcome) -> None:
        """What ``asker`` asked for has its outcome; keep it unless the ID was invalidated or asked for since."""
        if self._asked.get(group_id) is asker:
            del self._asked[group_id]
            if not isinstance(outcome, RongCloudError):
                self._held[group_id] = CachedAnswer(outcome)

    def given_up(self, group_id: str, asker: object) -> None:
        """``asker`` will not see the outcome."""
        if self._asked.get(group_id) is asker:
            del self._asked[group_id]

    def _expiry(self, _: str, remembered: CachedAnswer, now: float) -> float:
        seconds = self._missing_ttl if remembered.profile is None else self._ttl
        return now + seconds * (1 - self._jitter * random())

    def __repr__(self) -> str:
        return f"Cache(ttl={self._ttl:g}, missing_ttl={self._missing_ttl:g}, size={len(self._held)})"


def _store(
    max_size: int, expiry: Callable[[str, CachedAnswer, float], float], timer: Callable[[], float]
) -> "TLRUCache[str, CachedAnswer, float]":
    try:
        from cachetools import TLRUCache
    except ImportError:
        raise ConfigError("a cache needs the extra: pip install 'rongcloud-groups[cache]'") from None
    return TLRUCache(max_size, expiry, timer)

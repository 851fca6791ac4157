"""Notices open clients of one App Key in this process that do not share a rate limiter."""

import os
from collections.abc import Sequence
from threading import Lock
from typing import Final
from weakref import WeakSet

from rongcloud_groups._http import Origin
from rongcloud_groups.events import logger
from rongcloud_groups.limiters.interface import Limiter
from rongcloud_groups.limiters.local import LocalLimiter

_LOCK: Final = Lock()
_LIMITERS: Final[dict[tuple[int, str, str], WeakSet[LocalLimiter]]] = {}
_WARNED: Final[set[tuple[int, str, str]]] = set()


def register(app_key: str, origins: Sequence[Origin], limiter: Limiter) -> None:
    """A client is open; warn once where another one has a limiter of its own for the same App Key."""
    if not isinstance(limiter, LocalLimiter):
        return
    key = _key(app_key, origins)
    with _LOCK:
        limiters = _LIMITERS.setdefault(key, WeakSet())
        limiters.add(limiter)
        warn = len(limiters) > 1 and key not in _WARNED
        if warn:
            _WARNED.add(key)
    if warn:
        logger.warning(
            "several clients of App Key %s are open in this process, each with its own rate limit: together they "
            "can exceed it. Share one client (rongcloud_groups.blocking.shared() in code that does not await), or "
            "give each of them the same limiter=, such as one LocalLimiter() or 'file:PATH'",
            app_key,
        )


def unregister(app_key: str, origins: Sequence[Origin], limiter: Limiter) -> None:
    """A client is closed."""
    if isinstance(limiter, LocalLimiter):
        with _LOCK:
            _LIMITERS.get(_key(app_key, origins), WeakSet()).discard(limiter)


def _key(app_key: str, origins: Sequence[Origin]) -> tuple[int, str, str]:
    return os.getpid(), app_key, str(origins[0])

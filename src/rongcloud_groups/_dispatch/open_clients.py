"""The rate limit of one App Key's clients in this process.

A client that is opened after another one was closed resumes where that one ended. The log warns of clients that are
open at the same time and do not share a limiter.
"""

import os
from asyncio import get_running_loop
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from time import monotonic
from typing import Final
from weakref import WeakSet

from rongcloud_groups._http import Origin
from rongcloud_groups.events import logger
from rongcloud_groups.limiters.interface import Limiter
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.limiters.schedule import Pacing

_LOCK: Final = Lock()
_LIMITERS: Final[dict[tuple[int, str, str], WeakSet[LocalLimiter]]] = {}
_CLOSED: Final[dict[tuple[int, str, str], tuple[Pacing, float]]] = {}
_WARNED: Final[set[tuple[int, str, str]]] = set()


@contextmanager
def registered(app_key: str, origins: Sequence[Origin], limiter: Limiter) -> Iterator[None]:
    """A client is open; warn once if another one has a separate limiter for the same App Key."""
    if not isinstance(limiter, LocalLimiter):
        yield
        return
    key = os.getpid(), app_key, str(origins[0])
    with _LOCK:
        limiters = _LIMITERS.setdefault(key, WeakSet())
        if (history := _CLOSED.pop(key, None)) is not None and _is_real_time():
            limiter.resume(history)
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
    try:
        yield
    finally:
        with _LOCK:
            _LIMITERS[key].discard(limiter)
            if _is_real_time():
                _CLOSED[key] = limiter.history


def _is_real_time() -> bool:
    """Whether the event loop uses the process's clock, so that times of one loop mean something in another."""
    return abs(get_running_loop().time() - monotonic()) < 1.0

"""The task in which the parts of an open client run, and the open clients of this process.

A client that is opened after another one was closed resumes the rate limit where that one ended. The log warns of
clients of one App Key that are open at the same time and do not share a limiter.
"""

import os
from asyncio import AbstractEventLoop, CancelledError, Event, Future, Task, TaskGroup, get_running_loop, wait
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import Any, Final, TypeVar
from weakref import WeakSet

from rongcloud_groups._dispatch.dispatcher import Dispatcher
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._http import Origin
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups.errors import ClientClosed
from rongcloud_groups.events import logger
from rongcloud_groups.limiters.interface import Limiter, SharedLimiter
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.limiters.schedule import Pacing

_LOCK: Final = Lock()
_LIMITERS: Final[dict[tuple[int, str, str], WeakSet[LocalLimiter]]] = {}
_CLOSED: Final[dict[tuple[int, str, str], tuple[Pacing, float]]] = {}
_WARNED: Final[set[tuple[int, str, str]]] = set()


T = TypeVar("T")


@dataclass(eq=False, repr=False, slots=True)
class Lifetime:
    """Opens a client, runs its parts until it is closed, and says whether it can be used.

    The parts run in their own task, since a client may be opened in one task and closed in another.

    Args:
        closers: close what the client owns, the last one first.
        registration: entered while the client is open.
    """

    _failover: Failover
    _dispatcher: Dispatcher
    _pending: PendingQueue
    _limiter: Limiter
    _closers: Sequence[Callable[[], Awaitable[None]]]
    _registration: AbstractContextManager[None]
    _host: Task[None] | None = field(default=None, init=False)
    _pid: int = field(default=0, init=False)
    _tasks: TaskGroup | None = field(default=None, init=False)
    _running: set[Task[Any]] = field(default_factory=set, init=False)
    _closing: Event = field(default_factory=Event, init=False)
    _loop: AbstractEventLoop | None = field(default=None, init=False)  # in which the client can be used, while it can
    _problem: str = field(default="the client is closed", init=False)

    @property
    def is_open(self) -> bool:
        return self._tasks is not None

    async def open(self) -> None:
        if self._host is not None:
            raise ClientClosed("a client is opened once; make another one")
        loop = get_running_loop()
        opened = loop.create_future()
        self._pid = os.getpid()
        self._host = loop.create_task(self._run(opened), name="rongcloud_groups client")
        try:
            await opened
        except BaseException:
            if opened.cancelled() or opened.exception() is None:  # else it failed, and is closing already
                self._host.cancel()
            await wait([self._host])
            _ = self._host.cancelled() or self._host.exception()  # it is the one that is raised here
            raise

    async def close(self) -> None:
        if self._host is None:
            return
        self._check_loop(self._host)
        self._end()
        await wait([self._host])
        if not self._host.cancelled() and (error := self._host.exception()):
            raise error

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Run a task until it ends or the client closes. One that is started later is cancelled at once."""
        if self._tasks is None or self._closing.is_set():
            task = get_running_loop().create_task(coroutine)
            task.cancel()
            return task
        task = self._tasks.create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def check_open(self) -> None:
        """Check that the client can be used here.

        Raises:
            ClientClosed: it is not open, or open in another event loop or process; the message says which.
        """
        try:
            if get_running_loop() is self._loop and os.getpid() == self._pid:
                return
        except RuntimeError:
            pass
        if self._host is None:
            raise ClientClosed("the client is not open: use it inside 'async with GroupClient(…) as client'")
        self._check_loop(self._host)
        if self._closing.is_set():
            raise ClientClosed(self._problem)
        if self._tasks is None:
            raise ClientClosed("the client is still opening: wait until 'async with' or open() has opened it")

    async def _run(self, opened: Future[None]) -> None:
        async with AsyncExitStack() as stack:
            for close in self._closers:
                stack.push_async_callback(close)
            try:
                if isinstance(self._limiter, SharedLimiter):
                    await self._limiter.open()
                with self._registration:
                    await self._run_parts(opened)
            except BaseException as error:
                if not opened.done():
                    opened.set_exception(error)  # which `open` raises
                    return
                if not isinstance(error, CancelledError):
                    logger.exception("the client stopped")
                    cause = error
                    while isinstance(cause, BaseExceptionGroup):
                        cause = cause.exceptions[0]
                    self._problem = f"the client stopped: {type(cause).__name__}: {cause}"
                raise
            finally:
                self._tasks = None
                self._end()
                self._pending.abort(ClientClosed(self._problem))

    async def _run_parts(self, opened: Future[None]) -> None:
        async with TaskGroup() as self._tasks:
            for part in (self._failover, self._dispatcher):
                self.start(part.run()).add_done_callback(lambda _: self._end())
            if not opened.done():
                self._loop = get_running_loop()
                opened.set_result(None)
            await self._closing.wait()
            self._dispatcher.close()
            for task in list(self._running):
                task.cancel()

    def _end(self) -> None:
        self._loop = None
        self._closing.set()

    def _check_loop(self, host: Task[None]) -> None:
        if self._pid != os.getpid():
            raise ClientClosed("the client was opened before this process was forked: open one client in each process")
        try:
            loop = get_running_loop()
        except RuntimeError:
            raise ClientClosed("no event loop runs in this thread: use the client in the one that opened it") from None
        if loop is not host.get_loop():
            raise ClientClosed("the client was opened in another event loop: open one client in each")


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

"""A client in an event loop of its own thread, and how other threads wait for it."""

import asyncio
import os
from asyncio import AbstractEventLoop, run_coroutine_threadsafe
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from contextvars import Context
from inspect import CORO_CREATED, getcoroutinestate
from threading import Thread, current_thread
from typing import Any, TypeVar
from weakref import finalize

from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import ClientClosed

R = TypeVar("R")
_Opened = tuple[AbstractEventLoop, asyncio.Event]


class Running:
    """An open client, and the event loop of its thread, which ends when nothing outside it refers to this any more."""

    def __init__(self, client: GroupClient) -> None:
        self.client = client
        self._pid = os.getpid()
        self._calls: set[Future[Any]] = set()
        self._ended: Future[None] = Future()
        opened: Future[_Opened] = Future()
        arguments = (_run, client, opened, self._ended, self._calls)
        self._thread = Thread(target=Context().run, args=arguments, name="rongcloud_groups client", daemon=True)
        self._thread.start()
        try:
            self._loop, stop = opened.result()
        finally:
            opened.cancel()  # an interrupted wait: the client closes as soon as it is open
        self.close = finalize(self, _close, self._pid, self._loop, stop, self._thread, self._ended)

    @property
    def is_here(self) -> bool:
        """Whether its thread is in this process, which a fork does not copy."""
        return self._pid == os.getpid()

    def call(self, function: Callable[..., R], *args: object) -> R:
        """The result of a function in the event loop."""

        async def call() -> R:
            return function(*args)

        return self.wait(call)

    def wait(self, call: Callable[[], Awaitable[R]]) -> R:
        """The result of a call in the event loop; an exception in this thread, such as Ctrl-C, cancels the call."""
        if not self.is_here:
            raise ClientClosed("this was begun in the process that forked this one: begin it again here")
        if current_thread() is self._thread:
            raise RuntimeError(
                "a blocking client is not called in its own event loop, as by a hook: it would wait for itself"
            )
        coroutine = _awaited(call)
        try:
            future = run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise ClientClosed("the client is closed") from None
        self._calls.add(future)
        try:
            if self._ended.done():
                raise ClientClosed("the client is closed")
            return future.result()
        except CancelledError:
            raise ClientClosed("the client is closed") from None
        finally:
            future.cancel()
            self._calls.discard(future)
            if self._ended.done() and getcoroutinestate(coroutine) == CORO_CREATED:
                coroutine.close()  # the loop ended before it began

    @contextmanager
    def entered(self, context: AbstractAsyncContextManager[R]) -> Iterator[R]:
        """Enter an asynchronous context in the event loop, and leave it there, unless the loop has ended before."""
        value = self.wait(context.__aenter__)
        try:
            yield value
        finally:
            if self.close.alive and self.is_here and not self._ended.done():
                self.wait(lambda: context.__aexit__(None, None, None))  # an error would keep this frame alive


async def _awaited(call: Callable[[], Awaitable[R]]) -> R:
    return await call()


def _run(client: GroupClient, opened: Future[_Opened], ended: Future[None], calls: set[Future[Any]]) -> None:
    async def serve() -> None:
        async with client:
            stop = asyncio.Event()
            opened.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()

    try:
        asyncio.run(serve())  # cancels calls and iterations that are under way at its end
    except BaseException as error:  # noqa: BLE001  raised in the thread that waits
        (ended if opened.done() else opened).set_exception(error)
    else:
        ended.set_result(None)
    for call in list(calls):
        with suppress(InvalidStateError):  # it has its result, or was given up
            call.set_exception(ClientClosed("the client is closed"))


def _close(pid: int, loop: AbstractEventLoop, stop: asyncio.Event, thread: Thread, ended: Future[None]) -> None:
    if pid == os.getpid():
        with suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(stop.set)
        thread.join()
        ended.result()

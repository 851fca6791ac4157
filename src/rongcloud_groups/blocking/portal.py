"""A client in an event loop of its own thread, and how other threads wait for it."""

import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from contextvars import Context
from threading import Thread
from typing import Any, TypeVar
from weakref import finalize

import anyio
from anyio.from_thread import BlockingPortal

from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import ClientClosed

R = TypeVar("R")


class Running:
    """An open client, and the event loop of its thread, which ends when nothing outside it refers to this any more."""

    def __init__(self, client: GroupClient) -> None:
        self.client = client
        self._pid = os.getpid()
        opened: Future[BlockingPortal] = Future()
        self._ended: Future[None] = Future()
        self._calls: set[Future[Any]] = set()
        arguments = (_run, client, opened, self._ended, self._calls)
        thread = Thread(target=Context().run, args=arguments, name="rongcloud_groups client", daemon=True)
        thread.start()
        try:
            self.portal = opened.result()
        finally:
            opened.cancel()  # an interrupted wait: the client closes as soon as it is open
        self.close = finalize(self, _close, self._pid, self.portal, thread, self._ended)

    @property
    def is_here(self) -> bool:
        """Whether its thread is in this process, which a fork does not copy."""
        return self._pid == os.getpid()

    def wait(self, call: Callable[[], Awaitable[R]]) -> R:
        """The result of a call in the event loop; an exception in this thread, such as Ctrl-C, cancels the call."""
        if not self.is_here:
            raise ClientClosed("this was begun in the process that forked this one: begin it again here")
        try:
            future = self.portal.start_task_soon(call)
        except RuntimeError:
            if self.close.alive and not self._ended.done():
                raise
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

    @contextmanager
    def entered(self, context: AbstractAsyncContextManager[R]) -> Iterator[R]:
        """Enter an asynchronous context in the event loop, and leave it there, unless the loop has ended before."""
        value = self.wait(context.__aenter__)
        try:
            yield value
        finally:
            if self.close.alive and self.is_here and not self._ended.done():
                self.wait(lambda: context.__aexit__(None, None, None))  # an error would keep this frame alive


def _run(client: GroupClient, opened: Future[BlockingPortal], ended: Future[None], calls: set[Future[Any]]) -> None:
    async def serve() -> None:
        async with client, BlockingPortal() as portal:
            opened.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        anyio.run(serve)
    except BaseException as error:  # noqa: BLE001  raised in the thread that waits
        (ended if opened.done() else opened).set_exception(error)
    else:
        ended.set_result(None)
    for call in list(calls):
        if not call.done():  # an error that stops the loop leaves calls unfinished
            call.set_exception(ClientClosed("the client is closed"))


def _close(pid: int, portal: BlockingPortal, thread: Thread, ended: Future[None]) -> None:
    if pid == os.getpid():
        with suppress(RuntimeError):  # the loop has ended by itself
            portal.call(portal.stop, True)  # noqa: FBT003  cancel calls and iterations that are under way
        thread.join()
        ended.result()

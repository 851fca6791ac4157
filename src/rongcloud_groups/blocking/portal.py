"""A client in an event loop of its own thread, and how other threads wait for it."""

import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from typing import NamedTuple, TypeVar
from weakref import finalize

from anyio.from_thread import BlockingPortal

from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import ClientClosed

R = TypeVar("R")


class Running(NamedTuple):
    """An open client, and the event loop of its thread."""

    client: GroupClient
    portal: BlockingPortal
    close: "finalize[[int, ExitStack], object]"
    pid: int


def wait(running: Running, call: Callable[[], Awaitable[R]]) -> R:
    """The result of a call in the event loop; an exception in this thread, such as Ctrl-C, cancels the call."""
    if running.pid != os.getpid():
        raise ClientClosed("this was begun in the process that forked this one: begin it again here")
    try:
        future = running.portal.start_task_soon(call)
    except RuntimeError:
        if running.close.alive:
            raise
        raise ClientClosed("the client is closed") from None
    try:
        return future.result()
    except CancelledError:
        raise ClientClosed("the client is closed") from None
    finally:
        future.cancel()


@contextmanager
def entered(running: Running, context: AbstractAsyncContextManager[R]) -> Iterator[R]:
    """Enter an asynchronous context in the event loop, and leave it there, unless the loop has ended before."""
    with ExitStack() as stack:
        value = stack.enter_context(running.portal.wrap_async_context_manager(context))
        try:
            yield value
        finally:
            if not running.close.alive or running.pid != os.getpid():
                stack.pop_all()


def close_portal(pid: int, stack: ExitStack) -> None:
    if pid == os.getpid():
        stack.close()

"""The client for code that does not await: scripts, notebooks, Django, Celery, Airflow, Ray.

`BlockingGroupClient` runs a `GroupClient` in an event loop of its own thread. Any number of threads may share one:
their lookups share batches and the budget.
"""

import os
from asyncio import Event
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from functools import partial, update_wrapper
from itertools import islice
from threading import Lock
from types import TracebackType
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, Self, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet, finalize

from anyio import CancelScope
from anyio.from_thread import BlockingPortal, start_blocking_portal

from rongcloud_groups.client import GroupClient
from rongcloud_groups.config import Secret, options_from_environment
from rongcloud_groups.errors import ClientClosed
from rongcloud_groups.events import Stats
from rongcloud_groups.lookup import Lookup
from rongcloud_groups.models import ListedGroup

IDS_AT_A_TIME: Final = 500
"""IDs that a stream takes from its source at a time, in the thread that consumes the stream."""

P = ParamSpec("P")
R = TypeVar("R")


class _Running(NamedTuple):
    """An open client, and the event loop of its thread."""

    client: GroupClient
    portal: BlockingPortal
    close: "finalize[[int, ExitStack], BlockingGroupClient]"
    pid: int


def _delegate(
    method: Callable[Concatenate[GroupClient, P], Awaitable[R]],
) -> Callable[Concatenate["BlockingGroupClient", P], R]:
    """The method of `GroupClient`, called in its event loop and waited for."""

    def call(self: "BlockingGroupClient", /, *args: P.args, **kwargs: P.kwargs) -> R:
        running = self._run()
        return _wait(running, lambda: method(running.client, *args, **kwargs))

    update_wrapper(call, method)
    return call


class BlockingGroupClient:
    """`GroupClient` for code that does not await; the same options, methods and errors.

    It opens at first use, or in ``with``, and closes with `close`, at the end of ``with``, or when the process ends.
    A process that was forked opens a client of its own. Pickled, it is its options without the App Secret, which the
    process that unpickles it takes from its environment (see `GroupClient.from_env`).

    Args:
        app_key: the App Key.
        app_secret: its secret.
        **options: those of `GroupClient`.

    Raises:
        ConfigError: an argument cannot be used; the message names it.
    """

    def __init__(self, app_key: str, app_secret: str | Secret, **options: Any) -> None:
        self._make: Callable[[], GroupClient] = partial(GroupClient, app_key, app_secret, **options)
        self._unopened: GroupClient | None = self._make()  # an option that cannot be used is refused here
        self._pickled = {"app_key": app_key, **options}
        self._running: _Running | None = None
        self._closed = False
        self._lock = Lock()
        _CLIENTS.add(self)

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """A client from the environment; see `GroupClient.from_env`.

        Args:
            **options: those of `GroupClient`; they take precedence over the environment.

        Raises:
            ConfigError: a variable is missing or cannot be used; the message names it.
        """
        client = cls(**{**options_from_environment(), **options})
        client._pickled = {name: value for name, value in options.items() if name != "app_secret"}
        return client

    get = _delegate(GroupClient.get)
    get_many = _delegate(GroupClient.get_many)

    def stream(self, group_ids: Iterable[str], *, bulk: bool = True) -> "BlockingStream":
        """Look up groups as their IDs come, in flat memory: ``for part in client.stream(ids)``.

        Each part is a `Lookup` of at most 50 of the IDs, as they settle. The source is read in the thread that consumes
        the stream, only as fast as parts are consumed. Use it in ``with`` where the loop may end early.

        Args:
            group_ids: the IDs.
            bulk: let other lookups go first; a tenth of the budget is kept for bulk.

        Raises:
            ClientClosed: the client was closed.
        """
        return BlockingStream(self._run(), group_ids, bulk=bulk)

    def list_groups(self) -> Iterator[ListedGroup]:
        """The groups of the app, oldest first; see `GroupClient.list_groups`.

        Raises:
            ClientClosed: the client was closed.
            RongCloudError: a page could not be had.
        """
        running = self._run()
        pages = running.portal.call(running.client.list_groups).pages()
        while (page := _wait(running, lambda: anext(pages, None))) is not None:
            yield from page.groups

    def stats(self) -> Stats:
        """Counts of the client so far, and its present state."""
        running = self._run()
        return running.portal.call(running.client.stats)

    def close(self) -> None:
        """Close the client: open lookups of other threads end in `ClientClosed`."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
        if running is not None:
            running.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __enter__(self) -> Self:
        self._run()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        for name, value in self._pickled.items():
            if isinstance(value, str) and "@" in value and urlsplit(value).password:
                raise TypeError(f"{name} holds a password, which is not pickled; set it in the environment instead")
        return _from_env, (type(self), self._pickled)

    def __repr__(self) -> str:
        if self.closed:
            return "<BlockingGroupClient, closed>"
        return f"<BlockingGroupClient, {'not open' if self._running is None else repr(self._running.client)}>"

    def _run(self) -> _Running:
        """The running client, opened now if it is not."""
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed")
            if self._running is None:
                self._running = self._opened()
            return self._running

    def _opened(self) -> _Running:
        client, self._unopened = self._unopened or self._make(), None
        stack = ExitStack()
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        try:
            stack.enter_context(portal.wrap_async_context_manager(client))
        except BaseException:
            stack.close()
            raise
        return _Running(client, portal, finalize(self, _close, os.getpid(), stack), os.getpid())

    def reset_after_fork(self) -> None:
        """Forget the parent's thread and connections, which a fork does not copy. Called in the child by itself."""
        self._running = self._unopened = None
        self._lock = Lock()


class BlockingStream:
    """An iterator of `Lookup` parts; `BlockingGroupClient.stream` makes it."""

    def __init__(self, running: _Running, group_ids: Iterable[str], *, bulk: bool) -> None:
        self._running = running
        self._group_ids = iter(group_ids)
        self._feed = _Feed()
        # A str is refused by the client's own stream, in its own words.
        source = group_ids if isinstance(group_ids, str) else self._feed
        self._parts = running.portal.call(lambda: running.client.stream(source, bulk=bulk))
        self._stack = ExitStack()
        self._source_error: Exception | None = None
        self._opened = self._ended = False

    def __enter__(self) -> Self:
        if not self._opened:
            self._opened = True
            self._stack.enter_context(self._running.portal.wrap_async_context_manager(self._parts))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the IDs that have no outcome yet."""
        self._ended = True
        if self._running.close.alive and self._running.pid == os.getpid():
            self._stack.close()
        else:
            self._stack.pop_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Lookup:
        """The next IDs that have their outcome, at most 50.

        Raises:
            RongCloudError: an error that is not retryable, or the client was closed.
        """
        if self._ended:
            raise StopIteration
        try:
            self.__enter__()
            while (part := _wait(self._running, self._next_part)) is None and not self._feed.ended:
                self._feed_some()
        except BaseException:
            self.close()
            raise
        if part is not None:
            return part
        self.close()
        if self._source_error is not None:
            raise self._source_error
        raise StopIteration

    def _feed_some(self) -> None:
        some: list[str] = []
        try:
            some.extend(islice(self._group_ids, IDS_AT_A_TIME))  # keeps the IDs before one that fails
        except Exception as error:  # noqa: BLE001  raised once the IDs before it have their outcomes
            self._source_error = error
            self._group_ids = iter(())
        self._running.portal.call(self._feed.put, some)

    async def _next_part(self) -> Lookup | None:
        """The next part, or None where the stream waits for IDs or has ended."""
        with CancelScope() as scope, self._feed.hungry_calls(scope.cancel):
            return await anext(self._parts, None)
        return None


class _Feed:
    """The asynchronous source of a stream, filled by the thread that consumes the stream."""

    def __init__(self) -> None:
        self._ids: deque[str] = deque()
        self._filled = Event()
        self._hungry = False
        self._call: Callable[[], object] | None = None
        self.ended = False

    def put(self, group_ids: list[str]) -> None:
        """Add IDs; none of them is the end."""
        self._ids.extend(group_ids)
        self.ended = not group_ids
        self._hungry = False
        self._filled.set()

    @contextmanager
    def hungry_calls(self, call: Callable[[], object]) -> Iterator[None]:
        """Call once the stream waits for IDs."""
        self._call = call
        if self._hungry:
            call()
        try:
            yield
        finally:
            self._call = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._ids:
            if self.ended:
                raise StopAsyncIteration
            self._filled.clear()
            self._hungry = True
            if self._call is not None:
                self._call()
            await self._filled.wait()
        return self._ids.popleft()


_CLIENTS: WeakSet[BlockingGroupClient] = WeakSet()
_SHARED: dict[tuple[tuple[str, Any], ...], BlockingGroupClient] = {}
_SHARED_LOCK = Lock()


def shared(**options: Any) -> BlockingGroupClient:
    """The one client of this process with these options, made from the environment at the first call.

    Engines copy the functions and globals of a script to each worker, and often to each call; this client stays where
    it is, so that a process has one client and one budget.

    Args:
        **options: those of `GroupClient`; hashable, or lists of hashable values.

    Raises:
        ConfigError: see `GroupClient.from_env`.
        TypeError: an option is not hashable.
    """
    key = tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in options.items()))
    with _SHARED_LOCK:
        if key not in _SHARED or _SHARED[key].closed:
            _SHARED[key] = BlockingGroupClient.from_env(**options)
        return _SHARED[key]


def _wait(running: _Running, call: Callable[[], Awaitable[R]]) -> R:
    """The result of a call in the event loop; an exception in this thread, such as Ctrl-C, cancels the call."""

    async def awaited() -> R:
        return await call()

    if running.pid != os.getpid():
        raise ClientClosed("this was begun in the process that forked this one: begin it again here")
    try:
        future = running.portal.start_task_soon(awaited)
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


def _close(pid: int, stack: ExitStack) -> None:
    if pid == os.getpid():
        stack.close()


def _from_env(kind: type[BlockingGroupClient], options: dict[str, Any]) -> BlockingGroupClient:
    return kind.from_env(**options)


def _after_fork() -> None:
    global _SHARED_LOCK  # noqa: PLW0603  another thread of the parent may have held it
    _SHARED_LOCK = Lock()
    for client in _CLIENTS:
        client.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

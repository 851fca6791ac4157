"""`BlockingGroupClient`, and the shared one of a process."""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import datetime
from functools import partial, update_wrapper
from threading import Lock
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack
from urllib.parse import urlsplit

from rongcloud_groups._dispatch.listing import ProfilePage
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups.blocking.running import Running
from rongcloud_groups.blocking.stream import BlockingStream
from rongcloud_groups.client import GroupClient
from rongcloud_groups.config import AllOptions, Options, options_from_environment, with_machine_budget
from rongcloud_groups.errors import ClientClosed
from rongcloud_groups.events import Stats
from rongcloud_groups.models import ListedGroup

P = ParamSpec("P")
R = TypeVar("R")


def _delegate(
    method: Callable[Concatenate[GroupClient, P], Awaitable[R]],
) -> Callable[Concatenate["BlockingGroupClient", P], R]:
    """The method of `GroupClient`, called in its event loop and waited for."""

    def call(self: "BlockingGroupClient", /, *args: P.args, **kwargs: P.kwargs) -> R:
        running = self._run()
        client = running.client
        return running.wait(lambda: method(client, *args, **kwargs))

    update_wrapper(call, method)
    return call


class BlockingGroupClient:
    """`GroupClient` for code that does not await; the same options, methods and errors.

    It opens at first use, or in ``with``, and closes with `close`, at the end of ``with``, or when the process ends.
    A forked process opens its own client.

    Engines run such code in several processes. So without ``limiter`` a client shares its budget with the other
    blocking clients and commands of this user and App Key on this machine; ``limiter="local"`` leaves it the whole
    budget. Pickled, it is its options without the App Secret, which the process that unpickles it takes from its
    environment (see `GroupClient.from_env`).

    Args:
        app_key: the App Key.
        app_secret: its secret.
        **options: as for `GroupClient`.

    Raises:
        ConfigError: an argument cannot be used; the message names it.
    """

    def __init__(self, app_key: str, app_secret: str | Secret, **options: Unpack[Options]) -> None:
        self._make: Callable[[], GroupClient] = partial(
            GroupClient, **with_machine_budget({"app_key": app_key, "app_secret": Secret.of(app_secret), **options})
        )
        self._make()  # an option that cannot be used is refused here
        self._pickled: dict[str, Any] = {"app_key": app_key, **options}
        self._running: Running | None = None
        self._closed = False

    @classmethod
    def from_env(cls, **options: Unpack[AllOptions]) -> Self:
        """A client from the environment; see `GroupClient.from_env`.

        Args:
            **options: as for `GroupClient`; they take precedence over the environment.

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
        pages = running.call(running.client.list_groups).pages()
        while (page := running.wait(lambda: anext(pages, None))) is not None:
            yield from page.groups

    def list_profiles(self, *, after: str | None = None, since: datetime | None = None) -> Iterator[ProfilePage]:
        """The profiles of all groups, oldest first, in pages; see `GroupClient.list_profiles`.

        Args:
            after: `ProfilePage.next_page_token` of the last page that is done; None to begin at the first.
            since: leave out groups that were created before; groups without a creation time stay.

        Raises:
            ClientClosed: the client was closed.
            RongCloudError: a page could not be had, or an error that is not retryable.
        """
        running = self._run()
        listed = running.call(partial(running.client.list_profiles, after=after, since=since))
        with running.entered(listed) as pages:
            while (page := running.wait(lambda: anext(pages, None))) is not None:
                yield page

    def stats(self) -> Stats:
        """Counts of the client so far, and its present state."""
        running = self._run()
        return running.call(running.client.stats)

    def close(self) -> None:
        """Close the client: open lookups of other threads end in `ClientClosed`."""
        with _LOCK:
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        for name, value in self._pickled.items():
            if isinstance(value, str) and "@" in value and urlsplit(value).password:
                raise TypeError(f"{name} holds a password, which is not pickled; set it in the environment instead")
        return partial(type(self).from_env, **self._pickled), ()

    def __repr__(self) -> str:
        running = self._running
        state = "closed" if self._closed else "not open" if running is None else repr(running.client)
        return f"<BlockingGroupClient, {state}>"

    def _run(self) -> Running:
        if (running := self._running) is not None and running.is_here:
            return running
        with _LOCK:
            if self._closed:
                raise ClientClosed("the client is closed")
            if self._running is None or not self._running.is_here:
                self._running = Running(self._make())
            return self._running


_LOCK = Lock()
"""Held while a client opens, is closed, or is looked for in `_SHARED`."""
_SHARED: dict[tuple[tuple[str, Any], ...], BlockingGroupClient] = {}


def shared(**options: Unpack[AllOptions]) -> BlockingGroupClient:
    """The one client of this process with these options, made from the environment at the first call.

    Engines copy the functions and globals of a script to each worker, and often to each call; this client stays where
    it is, so that a process has one client and one budget.

    Args:
        **options: as for `GroupClient`; hashable, or lists of hashable values.

    Raises:
        ConfigError: see `GroupClient.from_env`.
        TypeError: an option is not hashable.
    """
    key = tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in options.items()))
    with _LOCK:
        if key not in _SHARED or _SHARED[key].closed:
            _SHARED[key] = BlockingGroupClient.from_env(**options)
        return _SHARED[key]


def _after_fork() -> None:
    global _LOCK  # noqa: PLW0603  another thread of the parent may have held it
    _LOCK = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

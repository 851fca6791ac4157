"""The profiles of all groups, in the listing's order, page by page."""

from asyncio import Event, Future, get_running_loop
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import anyio

from rongcloud_groups._dispatch.listing import Listing
from rongcloud_groups.errors import ClientClosed, RongCloudError
from rongcloud_groups.lookup import Lookup

PAGES_AHEAD: Final = 3
"""Pages that are looked up at a time. Each has 20 batches, so the budget is in use while the next page is fetched."""


class ProfilePage(NamedTuple):
    """The groups of one page of the listing.

    Attributes:
        lookup: their outcomes, in the listing's order.
        next_page_token: resumes after this page, as ``after=``; None on the last page.
        unreadable: entries of the listing without a group ID that can be looked up.
    """

    lookup: Lookup
    next_page_token: str | None
    unreadable: int


class ProfilePages:
    """An asynchronous iterator of `ProfilePage`; `GroupClient.list_profiles` makes it. Use it in ``async with``."""

    def __init__(
        self,
        listing: Listing,
        look_up: Callable[[list[str]], Awaitable[Lookup]],
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        *,
        after: str | None,
        since: datetime | None,
    ) -> None:
        self._pages = listing.pages(after)
        self._look_up = look_up
        self._start = start
        self._since = since
        self._open: deque[Future[ProfilePage]] = deque()
        self._fetching = anyio.CancelScope()
        self._changed = Event()
        self._room = Event()
        self._ended = Event()
        self._error: RongCloudError | None = None

    async def __aenter__(self) -> Self:
        self._start(self._fetch)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._fetching.cancel()
        await self._ended.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProfilePage:
        """The next page, once each of its groups has its outcome.

        Raises:
            RongCloudError: a page could not be had, or an error that is not retryable.
        """
        while not self._open:
            if self._ended.is_set():
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        page = await self._open[0]
        self._open.popleft()
        self._room.set()
        return page

    async def _fetch(self) -> None:
        self._error = ClientClosed("the client was closed")
        try:
            with self._fetching:
                async with anyio.create_task_group() as lookups:
                    self._error = await self._look_up_pages(lookups.start_soon)
        finally:
            self._ended.set()
            self._changed.set()
            for page in self._open:
                page.cancel()

    async def _look_up_pages(self, start_soon: Callable[..., object]) -> RongCloudError | None:
        try:
            async for page in self._pages:
                while len(self._open) >= PAGES_AHEAD:
                    self._room.clear()
                    await self._room.wait()
                wanted = [group.group_id for group in page.groups if self._is_wanted(group.create_time)]
                outcome: Future[ProfilePage] = get_running_loop().create_future()
                self._open.append(outcome)
                self._changed.set()
                start_soon(self._look_up_page, wanted, page.next_page_token, page.unreadable, outcome)
        except RongCloudError as error:
            return error
        return None

    async def _look_up_page(
        self, group_ids: list[str], token: str | None, unreadable: int, outcome: Future[ProfilePage]
    ) -> None:
        try:
            lookup = await self._look_up(group_ids)
        except RongCloudError as error:
            if not outcome.done():
                outcome.set_exception(error)
                outcome.exception()  # retrieved: the consumer may have left
        else:
            if not outcome.done():
                outcome.set_result(ProfilePage(lookup, token, unreadable))

    def _is_wanted(self, created: datetime | None) -> bool:
        return self._since is None or created is None or created >= self._since

"""The profiles of all groups, in the listing's order, page by page."""

from asyncio import Event, Future, Task, get_running_loop, wait
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Final, NamedTuple, Self

import anyio

from rongcloud_groups._dispatch.listing import Listing
from rongcloud_groups._dispatch.stream import Start
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
        start: Start,
        *,
        after: str | None,
        since: datetime | None,
    ) -> None:
        self._pages = listing.pages(after)
        self._look_up = look_up
        self._start = start
        self._since = since
        self._open: deque[Future[ProfilePage]] = deque()
        self._fetching: Task[None] | None = None
        self._left = False
        self._changed = Event()
        self._room = Event()
        self._error: RongCloudError | None = None

    async def __aenter__(self) -> Self:
        if self._fetching is not None:
            raise ClientClosed("the pages are used once: call client.list_profiles() again")
        self._fetching = self._start(self._fetch())
        self._fetching.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left = True
        if self._fetching is not None:
            self._fetching.cancel()
            await wait([self._fetching])

    def __aiter__(self) -> Self:
        self._check_entered()
        return self

    async def __anext__(self) -> ProfilePage:
        """The next page, once each of its groups has its outcome.

        Raises:
            RongCloudError: a page could not be had, or an error that is not retryable.
        """
        fetching = self._check_entered()
        while not self._open:
            if fetching.done():
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        page = await self._open[0]
        self._open.popleft()
        self._room.set()
        return page

    def _check_entered(self) -> Task[None]:
        if self._fetching is None or self._left:
            state = "have ended" if self._left else "are not open"
            raise ClientClosed(f"the pages {state}: write 'async with client.list_profiles() as pages: …'")
        return self._fetching

    async def _fetch(self) -> None:
        self._error = ClientClosed("the client was closed")
        try:
            async with anyio.create_task_group() as lookups:
                self._error = await self._look_up_pages(lookups.start_soon)
        finally:
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

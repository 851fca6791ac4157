"""The profiles of all groups, in the listing's order, page by page."""

from asyncio import Event, Task, TaskGroup, wait
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Final, NamedTuple, Self

from rongcloud_groups._dispatch.listing import Listing
from rongcloud_groups._dispatch.stream import Start
from rongcloud_groups._protocol.responses import ListingPage
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
        self._open: deque[Task[ProfilePage | RongCloudError]] = deque()
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
        lookup = self._open[0]
        await wait([lookup])
        if lookup.cancelled():
            raise ClientClosed("the client was closed")
        if isinstance(page := lookup.result(), RongCloudError):
            raise page
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
        async with TaskGroup() as lookups:
            self._error = await self._look_up_pages(lookups)

    async def _look_up_pages(self, lookups: TaskGroup) -> RongCloudError | None:
        try:
            async for page in self._pages:
                while len(self._open) >= PAGES_AHEAD:
                    self._room.clear()
                    await self._room.wait()
                self._open.append(lookups.create_task(self._look_up_page(page)))
                self._changed.set()
        except RongCloudError as error:
            return error
        return None

    async def _look_up_page(self, page: ListingPage) -> ProfilePage | RongCloudError:
        wanted = [group.group_id for group in page.groups if self._is_wanted(group.create_time)]
        try:
            return ProfilePage(await self._look_up(wanted), page.next_page_token, page.unreadable)
        except RongCloudError as error:
            return error

    def _is_wanted(self, created: datetime | None) -> bool:
        return self._since is None or created is None or created >= self._since

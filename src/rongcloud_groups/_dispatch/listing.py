"""The listing of an app's groups, a sequential cursor with its own budget; and the groups' profiles, page by page."""

from asyncio import Lock, Task, get_running_loop, sleep, wait
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Final, NamedTuple, Self, TypeVar

from rongcloud_groups._dispatch.connecting import ConnectionWait
from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._dispatch.lifetime import Lifetime
from rongcloud_groups._dispatch.retry import Attempts, RetryPolicy
from rongcloud_groups._protocol.api import ListingPage, ServiceApi
from rongcloud_groups._protocol.error_codes import RETRIED
from rongcloud_groups._transport.containment import contained
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups._transport.interface import Connection
from rongcloud_groups.errors import ClientClosed, DecodeError, RongCloudError, ServiceError, TransportError
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.lookup import Lookup
from rongcloud_groups.models import ListedGroup

LISTING_RATE: Final = 100.0
"""Requests/s of the listing call, apart from the batch call's, as the service documents it."""
PAGES_AHEAD: Final = 4
"""Pages that are fetched or looked up at a time. Each has 20 batches, so the budget is in use while one is fetched."""

T = TypeVar("T")


class Listing:
    """The groups of an app, oldest first: ``async for group in client.list_groups()``.

    It can be iterated any number of times; each time starts over. Pages are asked for beside the batches: on the same
    connections, with the same retries and failover.
    """

    def __init__(self, failover: Failover, api: ServiceApi, policy: RetryPolicy, lifetime: Lifetime) -> None:
        self._failover = failover
        self._api = api
        self._policy = policy
        self._lifetime = lifetime
        self._gate = SendGate(LocalLimiter(LISTING_RATE), attempt_timeout=policy.attempt_timeout)

    async def __aiter__(self) -> AsyncIterator[ListedGroup]:
        """Each group in turn; a page is asked for when the one before is used up.

        Raises:
            RongCloudError: a page could not be fetched.
        """
        async for page in self.pages():
            for group in page.groups:
                yield group

    async def pages(self, after: str | None = None) -> AsyncGenerator[ListingPage]:
        """Page by page, at most 1,000 groups each.

        Args:
            after: `ListingPage.next_page_token` of the last page that is known already; None to begin at the first.

        Raises:
            RongCloudError: a page could not be fetched.
        """
        token, seen = after, {after}
        while True:
            page = await self._page(token)
            yield page
            if page.next_page_token is None:
                return
            token = page.next_page_token
            if token in seen:
                raise DecodeError(f"the listing repeats a page token: {token!r}")
            seen.add(token)

    async def _page(self, token: str | None) -> ListingPage:
        """The page with this token, or the first."""
        task = self._lifetime.start(self._page_or_error(token))
        try:
            return await _result_of(task)
        finally:
            task.cancel()

    async def _page_or_error(self, token: str | None) -> ListingPage | RongCloudError:
        try:
            with contained(RongCloudError, "the listing"):
                return await self._until_answered(token)
        except RongCloudError as error:
            return error

    async def _until_answered(self, token: str | None) -> ListingPage:
        attempts = Attempts()
        clock = get_running_loop().time
        while True:
            connection = await self._connection_with_token()
            sent_at = clock()
            try:
                return await self._attempt(connection, token)
            except RongCloudError as error:
                action = self._policy.action(error)
                if action == "pause" and isinstance(error, ServiceError):
                    await self._refused(attempts, error, clock() - sent_at)
                    continue
                self._policy.count(attempts, error)
                if action not in RETRIED or self._policy.exhausted(attempts):
                    raise
                await sleep(self._policy.back_off(attempts.lost))

    async def _connection_with_token(self) -> Connection:
        connecting = ConnectionWait(self._failover, self._policy)
        while True:
            while not await connecting.step(busy=False):
                pass
            await self._gate.wait()
            if connection := self._failover.pick():
                return connection
            await connecting.wasted()

    async def _attempt(self, connection: Connection, token: str | None) -> ListingPage:
        request = self._api.listing_request(token)
        try:
            with contained(TransportError, f"the request to {connection.host}"):
                sending = self._failover.send(connection, request, self._policy.attempt_timeout)
                self._gate.sent()
                response = await sending
            with contained(DecodeError, "reading the response"):
                page = self._api.read_listing(response, request.request_id)
        except RongCloudError as error:
            self._failover.failed(connection, error)
            raise
        self._failover.succeeded(connection)
        return page

    async def _refused(self, attempts: Attempts, error: ServiceError, age: float) -> None:
        clock = get_running_loop().time
        if self._policy.count_refusal(attempts, error, clock()):
            pause = await self._gate.throttle(error.retry_after, age)
            if self._policy.refused_too_long(attempts, clock() + pause):
                raise error


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
        lifetime: Lifetime,
        *,
        after: str | None,
        since: datetime | None,
    ) -> None:
        self._listed = listing.pages(after)
        self._look_up = look_up
        self._lifetime = lifetime
        self._since = since
        self._cursor = Lock()
        self._pages: deque[Task[ProfilePage | RongCloudError | None]] = deque()
        self._left = False

    async def __aenter__(self) -> Self:
        if self._pages:
            raise ClientClosed("the pages are used once: call client.list_profiles() again")
        for _ in range(PAGES_AHEAD):
            self._pages.append(self._lifetime.start(self._next_page()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._left = True
        for page in self._pages:
            page.cancel()
        await wait(self._pages)
        await self._listed.aclose()

    def __aiter__(self) -> Self:
        self._check_entered()
        return self

    async def __anext__(self) -> ProfilePage:
        """The next page, once each of its groups has its outcome.

        Raises:
            RongCloudError: a page could not be fetched, or an error that is not retryable.
        """
        self._check_entered()
        page = await _result_of(self._pages[0])
        if page is None:
            raise StopAsyncIteration
        self._pages.popleft()
        self._pages.append(self._lifetime.start(self._next_page()))
        return page

    def _check_entered(self) -> None:
        if not self._pages or self._left:
            state = "have ended" if self._left else "are not open"
            raise ClientClosed(f"the pages {state}: write 'async with client.list_profiles() as pages: …'")

    async def _next_page(self) -> ProfilePage | RongCloudError | None:
        """Fetch the next page and look its groups up; None where the listing has ended."""
        try:
            async with self._cursor:  # which several of these tasks wait for, in the order in which they were started
                page = await anext(self._listed, None)
            if page is None:
                return None
            wanted = [group.group_id for group in page.groups if self._is_wanted(group.create_time)]
            return ProfilePage(await self._look_up(wanted), page.next_page_token, page.unreadable)
        except RongCloudError as error:
            return error

    def _is_wanted(self, created: datetime | None) -> bool:
        return self._since is None or created is None or created >= self._since


async def _result_of(task: Task[T | RongCloudError]) -> T:
    """The result of a task that ends with the client; raises the error that it returned."""
    await wait([task])
    if task.cancelled():
        raise ClientClosed("the client was closed")
    if isinstance(result := task.result(), RongCloudError):
        raise result
    return result

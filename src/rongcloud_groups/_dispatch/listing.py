"""The listing of an app's groups: a sequential cursor with its own budget."""

from asyncio import get_running_loop, wait
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import anyio

from rongcloud_groups._dispatch.connecting import ConnectionWait
from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._dispatch.retry import Attempts, RetryPolicy
from rongcloud_groups._dispatch.stream import Start
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.error_codes import RETRIED
from rongcloud_groups._protocol.responses import ListingPage
from rongcloud_groups._transport.containment import contained
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups._transport.interface import Connection
from rongcloud_groups.errors import ClientClosed, DecodeError, RongCloudError, ServiceError, TransportError
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.models import ListedGroup

LISTING_RATE: Final = 100.0
"""Requests/s of the listing call, apart from the batch call's, as the service documents it."""


class ListingRequests:
    """Asks for pages beside the batches: on the same connections, with the same retries and failover."""

    def __init__(
        self, failover: Failover, api: ServiceApi, policy: RetryPolicy, start: Start, *, attempt_timeout: float
    ) -> None:
        self._failover = failover
        self._api = api
        self._policy = policy
        self._start = start
        self._attempt_timeout = attempt_timeout
        self._gate = SendGate(LocalLimiter(LISTING_RATE), attempt_timeout=attempt_timeout)

    async def page(self, token: str | None) -> ListingPage:
        """The page with this token, or the first."""
        outcome: list[ListingPage | RongCloudError] = []
        task = self._start(self._record(outcome, token))
        try:
            await wait([task])
        finally:
            task.cancel()
        match outcome:
            case [ListingPage() as page]:
                return page
            case [RongCloudError() as error]:
                raise error
            case _:
                raise ClientClosed("the client was closed")

    async def _record(self, outcome: list[ListingPage | RongCloudError], token: str | None) -> None:
        try:
            with contained(RongCloudError, "the listing"):
                outcome.append(await self._until_answered(token))
        except RongCloudError as error:
            outcome.append(error)

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
                await anyio.sleep(self._policy.back_off(attempts.lost))

    async def _refused(self, attempts: Attempts, error: ServiceError, age: float) -> None:
        clock = get_running_loop().time
        if self._policy.count_refusal(attempts, error, clock()):
            pause = await self._gate.throttle(error.retry_after, age)
            if self._policy.refused_too_long(attempts, clock() + pause):
                raise error

    async def _connection_with_token(self) -> Connection:
        wait = ConnectionWait(self._failover, self._policy, self._attempt_timeout)
        while True:
            while not await wait.step(busy=False):
                pass
            await self._gate.wait()
            if connection := self._failover.pick():
                return connection
            self._gate.unused()
            await wait.wasted()

    async def _attempt(self, connection: Connection, token: str | None) -> ListingPage:
        request = self._api.listing_request(token)
        try:
            with contained(TransportError, f"the request to {connection.host}"):
                sending = self._failover.send(connection, request, self._attempt_timeout)
                self._gate.sent()
                response = await sending
            with contained(DecodeError, "reading the response"):
                page = self._api.read_listing(response, request.request_id)
        except RongCloudError as error:
            self._failover.failed(connection, error)
            raise
        self._failover.succeeded(connection)
        return page


class Listing:
    """The groups of an app, oldest first: ``async for group in client.list_groups()``.

    It can be iterated any number of times; each time starts over.
    """

    def __init__(self, page: Callable[[str | None], Awaitable[ListingPage]]) -> None:
        self._page = page

    async def __aiter__(self) -> AsyncIterator[ListedGroup]:
        """Each group in turn; a page is asked for when the one before is used up.

        Raises:
            RongCloudError: a page could not be had.
        """
        async for page in self.pages():
            for group in page.groups:
                yield group

    async def pages(self, after: str | None = None) -> AsyncIterator[ListingPage]:
        """Page by page, at most 1,000 groups each.

        Args:
            after: `ListingPage.next_page_token` of the last page that is known already; None to begin at the first.

        Raises:
            RongCloudError: a page could not be had.
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

"""The parts of a client, wired together. Apart from the client, so that ``import rongcloud_groups`` stays quick."""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import datetime

from rongcloud_groups._dispatch.cached import CacheFront
from rongcloud_groups._dispatch.dispatcher import Dispatcher
from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._dispatch.listing import Listing, ListingRequests
from rongcloud_groups._dispatch.lookups import Lookups
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._dispatch.profile_pages import ProfilePages
from rongcloud_groups._dispatch.retry import RetryPolicy
from rongcloud_groups._dispatch.stream import Start, Stream
from rongcloud_groups._dispatch.waiters import reject_single_str
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups._transport.interface import Connector
from rongcloud_groups.config import ClientOptions
from rongcloud_groups.events import Emitter, Stats
from rongcloud_groups.limiters.credit_guard import CreditGuard
from rongcloud_groups.lookup import Lookup


class Assembly:
    """The parts of one client.

    Args:
        options: the client's.
        emit: reports events.
        start: runs a task until it ends or the client closes.
    """

    def __init__(self, options: ClientOptions, emit: Emitter, start: Start) -> None:
        self._options = options
        self._start = start
        self.limiter, self._own_limiter = options.make_limiter()
        gate = SendGate(self.limiter, CreditGuard(options.rate) if options.guard else None)
        policy = RetryPolicy(options.max_attempts, options.outage_timeout, len(options.origins))
        self.pending = PendingQueue(BATCH_LIMIT)
        self.failover = self._make_failover(emit)
        self.dispatcher = Dispatcher(
            self.pending,
            self.failover,
            gate,
            options.api,
            policy,
            emit,
            max_in_flight=options.max_in_flight,
            attempt_timeout=options.attempt_timeout,
        )
        cached = None if options.cache is None else CacheFront(options.cache, self.pending, options.app_key)
        self.lookups = Lookups(self.pending, cached, self.dispatcher)
        self._listing = ListingRequests(
            self.failover, options.api, policy, start, attempt_timeout=options.attempt_timeout
        )

    def _make_failover(self, emit: Emitter) -> Failover:
        options = self._options
        self._transports = None
        connector: Connector
        if options.transport is None:
            from rongcloud_groups._transport.connect import Dialler

            connector = Dialler(
                verify=options.verify,
                http2=options.http2,
                timeout=options.attempt_timeout,
                max_in_flight=options.max_in_flight,
                proxy=options.proxy,
            )
        else:
            from rongcloud_groups._transport.httpx_adapter import HttpxTransports

            self._transports = HttpxTransports(options.transport, options.max_in_flight, options.verify)
            connector = self._transports
        shared = self._transports is not None and self._transports.shared
        return Failover(
            options.origins,
            connector,
            emit,
            requests_per_connection=None if shared else options.requests_per_connection,
            max_in_flight=options.max_in_flight,
        )

    def stream(self, group_ids: Iterable[str] | AsyncIterable[str], *, bulk: bool) -> Stream:
        """See `GroupClient.stream`."""
        return Stream(
            reject_single_str(group_ids) if isinstance(group_ids, Iterable) else group_ids,
            pending=self.pending,
            wake=self.dispatcher.wake,
            start=self._start,
            window=2 * BATCH_LIMIT * self._options.max_in_flight,
            bulk=bulk,
        )

    def listing(self) -> Listing:
        """See `GroupClient.list_groups`."""
        return Listing(self._listing.page)

    def profile_pages(
        self, look_up: Callable[[list[str]], Awaitable[Lookup]], *, after: str | None, since: datetime | None
    ) -> ProfilePages:
        """See `GroupClient.list_profiles`."""
        return ProfilePages(self.listing(), look_up, self._start, after=after, since=since)

    def stats(self) -> Stats:
        """See `GroupClient.stats`."""
        return Stats(
            requests=self.dispatcher.requests,
            found=self.pending.found,
            missing=self.pending.missing,
            failed=self.pending.failed,
            group_ids_sent=self.dispatcher.group_ids_sent,
            retried=self.dispatcher.retried,
            throttled=self.dispatcher.throttled,
            connections=self.failover.opened,
            host_switches=self.failover.switches,
            budget_wait=self.dispatcher.budget_wait,
            waiting=len(self.pending),
            in_flight=self.dispatcher.in_flight,
            rate=self.limiter.rate,
            host=self.failover.host,
        )

    async def aclose(self) -> None:
        """Close the caller's transport, and the limiter where the client made it."""
        if self._transports is not None:
            await self._transports.aclose()
        await self.close_limiter()

    async def close_limiter(self) -> None:
        """Close the limiter where the client made it."""
        if self._own_limiter is not None:
            await self._own_limiter.aclose()

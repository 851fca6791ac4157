"""The parts of a client, wired together. Apart from the client, so that ``import rongcloud_groups`` stays quick."""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from types import NoneType

from rongcloud_groups._dispatch.cached import CacheFront
from rongcloud_groups._dispatch.dispatcher import Dispatcher
from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._dispatch.lifetime import Lifetime, registered
from rongcloud_groups._dispatch.listing import Listing, ListingRequests
from rongcloud_groups._dispatch.lookups import Lookups
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._dispatch.profile_pages import ProfilePages
from rongcloud_groups._dispatch.retry import RetryPolicy
from rongcloud_groups._dispatch.stream import Stream
from rongcloud_groups._http import Origin
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups._validation import instance_of
from rongcloud_groups.cache import Cache
from rongcloud_groups.config import BudgetOptions, LookupOptions, TransportOptions
from rongcloud_groups.events import Emitter
from rongcloud_groups.limiters.credit_guard import CreditGuard
from rongcloud_groups.lookup import Lookup


class Assembly:
    """The parts of one client.

    Raises:
        ConfigError: the limiter, the transport or the cache cannot be used.
    """

    def __init__(
        self,
        api: ServiceApi,
        origins: Sequence[Origin],
        transport: TransportOptions,
        budget: BudgetOptions,
        lookup: LookupOptions,
        cache: Cache | None,
        emit: Emitter,
    ) -> None:
        app_key = api.credentials.app_key
        self._max_in_flight = transport.max_in_flight
        limiter, own_limiter = budget.make_limiter(app_key)
        policy = RetryPolicy(lookup.max_attempts, lookup.outage_timeout, len(origins))
        transports = transport.httpx_transports()
        self.pending = PendingQueue(BATCH_LIMIT)
        self.failover = Failover(
            origins,
            transports or transport.dialler(),
            emit,
            requests_per_connection=None if transports and transports.shared else transport.requests_per_connection,
            max_in_flight=transport.max_in_flight,
        )
        self.dispatcher = Dispatcher(
            self.pending,
            self.failover,
            SendGate(
                limiter, CreditGuard(budget.rate) if budget.guard else None, attempt_timeout=transport.attempt_timeout
            ),
            api,
            policy,
            emit,
            max_in_flight=transport.max_in_flight,
            attempt_timeout=transport.attempt_timeout,
        )
        self.lifetime = Lifetime(
            self.failover,
            self.dispatcher,
            self.pending,
            limiter,
            [each for each in (own_limiter, transports) if each is not None],
            partial(registered, app_key, origins, limiter),
        )
        instance_of((Cache, NoneType), "cache", cache, "a Cache, or None")
        cached = None if cache is None else CacheFront(cache, self.pending, app_key)
        self.lookups = Lookups(self.pending, cached, self.dispatcher, emit, lookup.deadline)
        self._listing = ListingRequests(
            self.failover, api, policy, self.lifetime.start, attempt_timeout=transport.attempt_timeout
        )

    def stream(self, group_ids: Iterable[object] | AsyncIterable[object], *, bulk: bool) -> Stream:
        return Stream(
            group_ids,
            pending=self.pending,
            wake=self.dispatcher.wake,
            start=self.lifetime.start,
            window=2 * BATCH_LIMIT * self._max_in_flight,
            bulk=bulk,
        )

    def listing(self) -> Listing:
        return Listing(self._listing.page)

    def profile_pages(
        self, look_up: Callable[[list[str]], Awaitable[Lookup]], *, after: str | None, since: datetime | None
    ) -> ProfilePages:
        return ProfilePages(self.listing(), look_up, self.lifetime.start, after=after, since=since)

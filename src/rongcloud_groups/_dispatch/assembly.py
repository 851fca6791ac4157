"""The parts of a client, wired together. Apart from the client, so that ``import rongcloud_groups`` stays quick."""

from collections.abc import AsyncIterable, Iterable
from datetime import datetime
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from rongcloud_groups._dispatch.dispatcher import Dispatcher
from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._dispatch.lifetime import Lifetime, registered
from rongcloud_groups._dispatch.listing import Listing, ProfilePages
from rongcloud_groups._dispatch.lookups import Lookups
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._dispatch.retry import RetryPolicy
from rongcloud_groups._dispatch.stream import Stream
from rongcloud_groups._http import Proxy
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.dialects import dialect
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups._protocol.signing import Credentials
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups.config import Options, check_options, checked_origins
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.events import Emitter
from rongcloud_groups.limiters.credit_guard import CreditGuard
from rongcloud_groups.limiters.interface import Limiter, SharedLimiter
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.limiters.url import limiter_from_url

if TYPE_CHECKING:  # imported with the first client that needs them
    from rongcloud_groups._transport.connect import Dialler
    from rongcloud_groups._transport.httpx_adapter import HttpxTransports


class Assembly:
    """The parts of one client.

    Raises:
        ConfigError: an option cannot be used; the message names it.
    """

    def __init__(self, app_key: str, app_secret: Secret, options: Options) -> None:
        check_options(options)
        self.options = options
        self.origins = checked_origins(options)
        self.api = ServiceApi(dialect(options["dialect"]), Credentials(app_key, app_secret))
        emit = Emitter(options["hooks"])
        limiter = _limiter(options, app_key)
        own_limiter = limiter if isinstance(options["limiter"], str) and isinstance(limiter, SharedLimiter) else None
        transports = _transports(options)
        self.connector = transports or _dialler(options)
        attempt_timeout, max_in_flight = options["attempt_timeout"], options["max_in_flight"]
        policy = RetryPolicy(options["max_attempts"], options["outage_timeout"], attempt_timeout, len(self.origins))
        guard = CreditGuard(options["rate"]) if options["guard"] else None
        self.gate = SendGate(limiter, guard, attempt_timeout=attempt_timeout)
        self.pending = PendingQueue(BATCH_LIMIT)
        self.failover = Failover(
            self.origins,
            self.connector,
            emit,
            requests_per_connection=None if transports and transports.shared else options["requests_per_connection"],
            max_in_flight=max_in_flight,
        )
        self.dispatcher = Dispatcher(self.pending, self.failover, self.gate, self.api, policy, emit, max_in_flight)
        self.lifetime = Lifetime(
            self.failover,
            self.dispatcher,
            self.pending,
            limiter,
            [each.aclose for each in (own_limiter, transports) if each is not None],
            registered(app_key, self.origins, limiter),
        )
        if options["cache"] is not None:
            options["cache"].attach(self.pending, app_key)
        self.lookups = Lookups(self.pending, options["cache"], self.dispatcher, emit, options["deadline"])
        self.listing = Listing(self.failover, self.api, policy, self.lifetime)

    def stream(self, group_ids: Iterable[object] | AsyncIterable[object], *, bulk: bool) -> Stream:
        window = 2 * BATCH_LIMIT * self.options["max_in_flight"]
        return Stream(group_ids, self.pending, self.lifetime, window=window, bulk=bulk)

    def profile_pages(self, *, after: str | None, since: datetime | None) -> ProfilePages:
        look_up = partial(self.lookups.get_many, deadline=inf, bulk=True, fresh=False)
        return ProfilePages(self.listing, look_up, self.lifetime, after=after, since=since)


def _transports(options: Options) -> "HttpxTransports | None":
    """The connector over the caller's transport, if there is one."""
    if options["transport"] is None:
        return None
    if options["proxy"] is not None:
        raise ConfigError("proxy= is for the client's own connections: give the transport a proxy of its own")
    from rongcloud_groups._transport.httpx_adapter import HttpxTransports

    return HttpxTransports(options["transport"], options["max_in_flight"], options["verify"])


def _dialler(options: Options) -> "Dialler":
    """The connector of the client's own connections."""
    from rongcloud_groups._transport.connect import Dialler

    return Dialler(
        verify=options["verify"],
        http2=options["http2"],
        timeout=options["attempt_timeout"],
        max_in_flight=options["max_in_flight"],
        proxy=Proxy.of(options["proxy"]),
    )


def _limiter(options: Options, app_key: str) -> Limiter:
    limiter = options["limiter"]
    if limiter is None or limiter == "local":
        return LocalLimiter(options["rate"])
    if isinstance(limiter, str):
        return limiter_from_url(limiter, app_key=app_key, limit=options["rate"])
    has_methods = all(callable(getattr(limiter, name, None)) for name in ("acquire", "throttle"))
    if isinstance(limiter, type) or not has_methods:
        raise ConfigError(f"limiter is {limiter!r}; give a Limiter, file:PATH or redis://HOST:PORT/DATABASE")
    return limiter

"""GroupClient: look up group profiles by ID, any number of them, within the service's rate limit."""

import ssl
from collections.abc import AsyncIterable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Self, Unpack

from rongcloud_groups._http import Proxy
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups.cache import Cache
from rongcloud_groups.config import AllOptions, DialectName, Options, Region, options_from_environment
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.events import Hook, Stats, log_as_the_environment_says
from rongcloud_groups.limiters.interface import Limiter
from rongcloud_groups.lookup import Lookup
from rongcloud_groups.models import GroupProfile

if TYPE_CHECKING:  # imported with the first client: they take as long as everything else here
    from rongcloud_groups._dispatch.listing import Listing, ProfilePages
    from rongcloud_groups._dispatch.stream import Stream
    from rongcloud_groups._transport.httpx_adapter import TransportSource


class GroupClient:
    """An asyncio client for the *Batch Query Group Information* API of RongCloud / Nexconn.

    Open it with ``async with``; one client serves any number of tasks of one event loop. Everything it looks up
    shares one budget of requests, 50 IDs each, and an ID that several tasks ask for at a time is asked once.

    Args:
        app_key: the App Key.
        app_secret: its secret. It is shown nowhere: no ``repr``, log line, exception or pickle holds it.
        region: the data center of the App Key; one of `REGIONS`.
        base_urls: the primary URL and its backups, in place of the region's.
        dialect: ``"rongcloud"`` (v1) or ``"nexconn"`` (v4).
        rate: requests a second that the service allows the App Key; 100 unless it was raised.
        limiter: a `Limiter` to share the budget with other clients, or the URL of one that is shared with other
            processes and closed with the client: ``"file:PATH"``, ``"redis://HOST:PORT/DATABASE?share=0.25"``, where
            ``share`` is the part of the rate for this process while Redis is away: 1 / the number of processes.
            Without one the client has ``rate`` to itself.
        guard: let no second at the server hold more than ``rate`` requests of this client, whatever the path's
            jitter; requests are counted until their responses say when they arrived. At a round trip of R seconds at
            most rate/(1 + R) requests/s are left, and fewer where requests end without a response.
        max_in_flight: the most requests in flight.
        attempt_timeout: seconds that one request may take, and as many for opening a connection.
        deadline: seconds that a lookup may take, where the call gives none; None for no limit.
        max_attempts: requests that may be lost on one ID before it fails.
        outage_timeout: seconds for which a lookup without a deadline waits through an outage, in which no base URL can
            be connected, or while the service refuses each request as too many. Such a wait costs no attempts.
        requests_per_connection: requests that a connection must not reach; the service asks for fewer than 80.
        http2: offer HTTP/2; the server decides.
        verify: the TLS context, with the certificates to trust; by default the system's, where ``SSL_CERT_FILE``
            is honoured.
        proxy: an HTTP proxy to connect through, ``"http://[user:password@]host[:port]"``. ``HTTPS_PROXY`` and the like
            are not used.
        allow_insecure: allow base URLs with ``http://``, which send the App Key and signatures unencrypted. Those of
            this machine are always allowed.
        transport: a transport of httpx or httpx2, or a function that makes one for each connection, to carry the
            requests in place of the client's own connections: a mock, an ASGI app. It is closed with the client.
            ``"httpx"`` or ``"httpx2"`` takes that library's own transports, which its mocks see in tests.
        cache: keeps outcomes for a while; by default each lookup asks the service.
        hooks: called with each `Event`.

    Raises:
        ConfigError: an argument cannot be used; the message names it.
    """

    def __init__(
        self,
        app_key: str,
        app_secret: str | Secret,
        *,
        region: Region = "beijing",
        base_urls: str | Sequence[str] | None = None,
        dialect: DialectName = "rongcloud",
        rate: float = 100.0,
        limiter: Limiter | str | None = None,
        guard: bool = False,
        max_in_flight: int = 64,
        attempt_timeout: float = 5.0,
        deadline: float | None = None,
        max_attempts: int = 5,
        outage_timeout: float = 30.0,
        requests_per_connection: int = 80,
        http2: bool = True,
        verify: ssl.SSLContext | None = None,
        proxy: str | Proxy | None = None,
        allow_insecure: bool = False,
        transport: "TransportSource | None" = None,
        cache: Cache | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        app_secret = Secret.of(app_secret)  # from here on no traceback shows it
        log_as_the_environment_says()
        from rongcloud_groups._dispatch.assembly import Assembly

        options = Options(
            region=region,
            base_urls=base_urls,
            dialect=dialect,
            rate=rate,
            limiter=limiter,
            guard=guard,
            max_in_flight=max_in_flight,
            attempt_timeout=attempt_timeout,
            deadline=deadline,
            max_attempts=max_attempts,
            outage_timeout=outage_timeout,
            requests_per_connection=requests_per_connection,
            http2=http2,
            verify=verify,
            proxy=Proxy.of(proxy),
            allow_insecure=allow_insecure,
            transport=transport,
            cache=cache,
            hooks=hooks,
        )
        self._parts = Assembly(app_key, app_secret, options)

    @classmethod
    def from_env(cls, **options: Unpack[AllOptions]) -> Self:
        """A client from the environment.

        ``RONGCLOUD_APP_KEY``; ``RONGCLOUD_APP_SECRET`` or ``RONGCLOUD_APP_SECRET_FILE``; and, where set,
        ``RONGCLOUD_REGION``, ``RONGCLOUD_BASE_URL`` (comma-separated, primary first), ``RONGCLOUD_DIALECT``,
        ``RONGCLOUD_RATE`` (requests/s), ``RONGCLOUD_LIMITER``, ``RONGCLOUD_PROXY``, ``RONGCLOUD_TRANSPORT`` (``httpx``
        or ``httpx2``), ``RONGCLOUD_HTTP2`` (0 for HTTP/1.1) and ``RONGCLOUD_ALLOW_INSECURE`` (1 for ``http://`` base
        URLs). Each client reads ``RONGCLOUD_LOG``: with ``debug``, ``info``, ``warning`` or ``error`` it logs from that
        level on, to stderr where the app has set up no logging.

        Args:
            **options: as for `GroupClient`; they take precedence over the environment.

        Raises:
            ConfigError: a variable is missing or cannot be used; the message names it.
        """
        return cls(**{**options_from_environment(), **options})

    async def open(self) -> Self:
        """Open the client without ``async with``; `aclose` closes it. A client is opened once.

        Raises:
            ConfigError: the limiter cannot keep a budget, such as one in a Redis that refuses the password.
            ClientClosed: it was opened before.
        """
        await self._parts.lifetime.open()
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client, as leaving its context does: open lookups end in `ClientClosed`.

        Raises:
            ClientClosed: it was opened in another event loop, or before a fork.
            ExceptionGroup: an error had stopped the client.
        """
        await self._parts.lifetime.close()

    @property
    def app_key(self) -> str:
        """The App Key that requests are signed for."""
        return self._parts.api.credentials.app_key

    @property
    def max_in_flight(self) -> int:
        """The most requests in flight."""
        return self._parts.options["max_in_flight"]

    @property
    def max_attempts(self) -> int:
        """Requests that may be lost on one ID before it fails."""
        return self._parts.options["max_attempts"]

    @property
    def cache(self) -> Cache:
        """The client's cache.

        Raises:
            ConfigError: it has none.
        """
        cache = self._parts.options["cache"]
        if cache is None:
            raise ConfigError("this client has no cache: make it with cache=Cache()")
        return cache

    async def get(self, group_id: str, *, deadline: float | None = None, fresh: bool = False) -> GroupProfile | None:
        """Look up one group.

        Args:
            group_id: its ID, 1 to 64 characters.
            deadline: seconds that it may take; the client's by default.
            fresh: ask the service, whatever the cache holds; a request on its way is waited for.

        Returns:
            The profile, or None where the service has no such group.

        Raises:
            InvalidGroupId: the service cannot take this ID; no request was made.
            DeadlineExceeded: the deadline passed; its phase says where the time went.
            RongCloudError: any other error that ended the lookup.
        """
        self._parts.lifetime.check_open()
        return await self._parts.lookups.get(group_id, deadline, fresh=fresh)

    async def get_many(
        self, group_ids: Iterable[str], *, deadline: float | None = None, bulk: bool = False, fresh: bool = False
    ) -> Lookup:
        """Look up any number of groups, each distinct ID once.

        Args:
            group_ids: their IDs; duplicates are welcome.
            deadline: seconds that it may take; the client's by default. IDs still open then fail with
                `DeadlineExceeded`; settled ones are returned.
            bulk: let other lookups go first; a tenth of the budget is kept for bulk. The cache is bypassed.
            fresh: as for `get`.

        Returns:
            Every ID in exactly one of found, missing and failed, in the order of its first mention. A call that is
            cancelled returns nothing: bound it by ``deadline``, or use `stream`, whose parts are the caller's as they
            come, if the IDs that are settled by then are wanted.

        Raises:
            AuthenticationError, ServiceNotEnabled, ServiceError, ConfigError: not retryable for any ID; the last
                where the service responds in the other dialect.
            ClientClosed: the client is not open, or was closed during the call.
        """
        self._parts.lifetime.check_open()
        return await self._parts.lookups.get_many(group_ids, deadline, bulk=bulk, fresh=fresh)

    def stream(self, group_ids: Iterable[str] | AsyncIterable[str | list[str]], *, bulk: bool = True) -> "Stream":
        """Look up groups as their IDs come, in flat memory: ``async with client.stream(ids) as parts``.

        Iterate over the parts with ``async for``: each is a `Lookup` of at most 50 of the IDs, as they settle. IDs
        are taken from the source only as fast as parts are consumed. Each distinct ID of a collection is looked up
        once; from an iterator or an asynchronous source, which may have no end, an ID that comes again is looked up
        again unless it is still open. The cache is bypassed.

        Where the caller is cancelled, or leaves, the IDs in the parts that it has are settled, and all others are not:
        they are no longer looked up.

        Args:
            group_ids: the IDs, an iterable or an asynchronous one; the latter may give lists of them, which is faster.
            bulk: let other lookups go first; a tenth of the budget is kept for bulk.
        """
        self._parts.lifetime.check_open()
        return self._parts.stream(group_ids, bulk=bulk)

    def list_groups(self) -> "Listing":
        """The groups of the app, oldest first: ``async for group in client.list_groups()``.

        A page of 1,000 is asked for when the one before is used up, on the listing's own budget of 100 requests/s.
        A listed group has no permissions, attributes and member count; look its ID up for them.

        Raises:
            ClientClosed: the client is not open.
        """
        self._parts.lifetime.check_open()
        return self._parts.listing

    def list_profiles(self, *, after: str | None = None, since: datetime | None = None) -> "ProfilePages":
        """The profiles of all groups, oldest first: ``async with client.list_profiles() as pages``.

        Iterate over the pages with ``async for``: each has the outcomes of up to 1,000 groups in the listing's order,
        and the token to resume after it. The next pages are fetched and looked up ahead, so that the budget is in use.

        Args:
            after: `ProfilePage.next_page_token` of the last page that is done; None to begin at the first.
            since: leave out groups that were created before; groups without a creation time stay.

        Raises:
            ClientClosed: the client is not open.
        """
        self._parts.lifetime.check_open()
        return self._parts.profile_pages(after=after, since=since)

    def stats(self) -> Stats:
        """Counts of the client so far, and its present state."""
        return self._parts.dispatcher.stats()

    def __repr__(self) -> str:
        if not hasattr(self, "_parts"):  # an option was refused, and a traceback shows its variables
            return "<GroupClient, not made>"
        state = "open" if self._parts.lifetime.is_open else "not open"
        return f"<GroupClient {self.app_key!r} at {self._parts.failover.host}, {state}>"

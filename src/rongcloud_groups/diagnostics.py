"""See what answers with the credentials at hand, and what to change where something is wrong.

It costs one request, or two where the first speaks against the dialect or the host.
"""

import ssl
import time
from asyncio import get_running_loop
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._http import Origin, Proxy
from rongcloud_groups._protocol.api import batch_request, read_batch
from rongcloud_groups._protocol.dialects import Dialect
from rongcloud_groups._protocol.dialects import dialect as dialect_named
from rongcloud_groups._protocol.responses import NO_SUCH_API, http_date
from rongcloud_groups._protocol.signing import new_nonce
from rongcloud_groups._transport.connect import Dialler
from rongcloud_groups._transport.interface import Connection, Connector
from rongcloud_groups.check_advice import (
    CLOCK_TOLERANCE,
    UNKNOWN_APP_KEY,
    advice,
    advice_to_connect,
    clock_words,
    is_bad_signature,
    what_happened,
)
from rongcloud_groups.config import REGIONS, ClientOptions, Credentials, Secret
from rongcloud_groups.errors import (
    ConfigError,
    DecodeError,
    ParameterError,
    RongCloudError,
    ServerError,
    ServiceError,
    TransportError,
)

MOST_REQUESTS: Final = 2

_GROUP_ID: Final = "rongcloud-groups-check"


class Finding(Struct, frozen=True):
    """Something to change.

    Attributes:
        problem: what is wrong.
        advice: what to do about it.
    """

    problem: str
    advice: str


class Diagnosis(Struct, frozen=True, kw_only=True):
    """What was seen; what no answer told is None.

    Attributes:
        ok: whether lookups with these settings can succeed. There may be problems all the same.
        dialect: the one that is set.
        answering_dialect: the one that the service answers this App Key in.
        region: the region of the host that answered, where it is a region's.
        host: the host (and port) that answered.
        http_version: ``HTTP/2`` or ``HTTP/1.1``.
        round_trip: seconds from the request to its answer.
        clock_offset: seconds that this machine's clock is ahead of the server's ``Date``, which has whole seconds.
        problems: what to change.
    """

    ok: bool
    dialect: str
    answering_dialect: str | None = None
    region: str | None = None
    host: str | None = None
    http_version: str | None = None
    round_trip: float | None = None
    clock_offset: float | None = None
    problems: list[Finding]


async def check(
    app_key: str,
    app_secret: str | Secret,
    *,
    region: str = "beijing",
    base_urls: str | Sequence[str] | None = None,
    dialect: str = "rongcloud",
    rate: float = 100.0,
    limiter: str | None = None,
    attempt_timeout: float = 5.0,
    verify: ssl.SSLContext | None = None,
    http2: bool = True,
    proxy: str | Proxy | None = None,
    allow_insecure: bool = False,
) -> Diagnosis:
    """Ask the service for one group, and tell what answers.

    The arguments are those of `GroupClient`.

    Raises:
        ConfigError: an argument cannot be used; the message names it.
    """
    app_secret = Secret.of(app_secret)
    options = ClientOptions(
        app_key=app_key,
        app_secret=app_secret,
        region=region,
        base_urls=base_urls,
        dialect=dialect,
        rate=rate,
        limiter=limiter,
        attempt_timeout=attempt_timeout,
        verify=verify,
        http2=http2,
        proxy=Proxy.of(proxy),
        allow_insecure=allow_insecure,
    )
    used, shared = options.make_limiter()
    dialler = Dialler(verify=verify, http2=http2, timeout=attempt_timeout, max_in_flight=1, proxy=options.proxy)
    checking = _Checking(options.credentials, dialect_named(dialect), SendGate(used), dialler, attempt_timeout)
    try:
        return await checking.checkup(options.origins)
    finally:
        if shared is not None:
            await shared.aclose()


class _Answer(NamedTuple):
    """What came of one request."""

    dialect: Dialect
    error: RongCloudError | None
    round_trip: float | None = None
    clock_offset: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether lookups can succeed: how the service answers for a group that it does not have is up to it."""
        return self.error is None or isinstance(self.error, ParameterError)

    @property
    def tells_dialect(self) -> bool:
        """Whether what answered is the service, in the dialect that it was asked in."""
        return not self.is_wrong_dialect and not self.speaks_against_host

    @property
    def is_wrong_dialect(self) -> bool:
        error = self.error
        if isinstance(error, ServiceError):
            return bool({NO_SUCH_API, UNKNOWN_APP_KEY} & {error.code, error.status})
        return isinstance(error, ConfigError | DecodeError)

    @property
    def speaks_against_host(self) -> bool:
        return isinstance(self.error, ServerError | TransportError)


class _Checking:
    """The hosts one after the other, until one answers."""

    def __init__(
        self, credentials: Credentials, dialect: Dialect, gate: SendGate, connector: Connector, attempt_timeout: float
    ) -> None:
        self._credentials = credentials
        self._dialect = dialect
        self._gate = gate
        self._connector = connector
        self._attempt_timeout = attempt_timeout
        self._requests = 0
        self._problems: list[Finding] = []

    async def checkup(self, urls: Sequence[Origin]) -> Diagnosis:
        seen = self._told(None, None, None)
        for url in urls:
            try:
                connection = await self._connected(url)
            except TransportError as error:
                self._problems.append(Finding(str(error), advice_to_connect(error)))
                continue
            try:
                answer = await self._in_either_dialect(connection)
            finally:
                await connection.aclose()
            seen = self._told(url, connection, answer)
            if not answer.speaks_against_host or self._requests == MOST_REQUESTS:
                break
        return seen

    async def _connected(self, url: Origin) -> Connection:
        return await self._connector.connect(url, lambda: None)

    async def _in_either_dialect(self, connection: Connection) -> _Answer:
        """The answer in the dialect that is set; in the other one, where that is understood instead."""
        answer = await self._asked(connection, self._dialect)
        if answer.is_wrong_dialect and self._requests < MOST_REQUESTS and connection.open_slots:
            other = await self._asked(connection, self._dialect.other)
            if other.tells_dialect:
                assert answer.error is not None  # noqa: S101  it speaks against something
                self._problems.append(
                    Finding(
                        what_happened(answer.error),
                        f"the service answers in the other dialect: set {other.dialect.switch}",
                    )
                )
                answer = other
        if answer.error is not None and not answer.accepted:
            self._problems.append(Finding(what_happened(answer.error), advice(answer.error, answer.clock_offset)))
        return answer

    async def _asked(self, connection: Connection, dialect: Dialect) -> _Answer:
        await self._gate.wait()
        self._requests += 1
        nonce = new_nonce()
        request = batch_request(dialect, self._credentials, [_GROUP_ID], nonce)
        sent_at = get_running_loop().time()
        try:
            reply = await connection.send(request, self._attempt_timeout)
        except TransportError as error:
            return _Answer(dialect, error)
        round_trip = get_running_loop().time() - sent_at
        offset = _clock_offset(reply.headers, time.time() - round_trip / 2)
        try:
            read_batch(dialect, reply, [_GROUP_ID], nonce.request_id)
        except RongCloudError as error:
            return _Answer(dialect, error, round_trip, offset)
        return _Answer(dialect, None, round_trip, offset)

    def _told(self, url: Origin | None, connection: Connection | None, answer: _Answer | None) -> Diagnosis:
        if url is None or connection is None or answer is None or answer.round_trip is None:
            return Diagnosis(ok=False, dialect=self._dialect.name, problems=self._problems)
        offset = answer.clock_offset
        if offset is not None and abs(offset) > CLOCK_TOLERANCE and not is_bad_signature(answer.error):
            self._problems.append(Finding(clock_words(offset), "set it, before the service refuses its timestamps"))
        return Diagnosis(
            ok=answer.accepted and answer.dialect is self._dialect,
            dialect=self._dialect.name,
            answering_dialect=answer.dialect.name if answer.tells_dialect else None,
            region=next((region for region, urls in REGIONS.items() if str(url) in urls), None),
            host=url.authority,
            http_version=connection.http_version,
            round_trip=answer.round_trip,
            clock_offset=offset,
            problems=self._problems,
        )


def _clock_offset(headers: Mapping[str, str], ours: float) -> float | None:
    theirs = http_date(headers.get("date", ""))
    if theirs is None:
        return None
    return ours - theirs.timestamp() - 0.5  # a Date is cut to the second: half of one is lost on average

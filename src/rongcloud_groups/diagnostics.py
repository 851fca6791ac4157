"""Checks how the service responds to the credentials at hand, and advises if lookups cannot succeed.

It costs one request, or two if the first speaks against the dialect or the host.
"""

import socket
import ssl
import time
from asyncio import get_running_loop
from contextlib import aclosing
from typing import Final, NamedTuple, Unpack

from msgspec import Struct

from rongcloud_groups._dispatch.assembly import Assembly
from rongcloud_groups._http import Origin
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.dialects import Dialect
from rongcloud_groups._protocol.error_codes import BAD_SIGNATURE, NO_SUCH_API, UNKNOWN_APP_KEY, hint_for
from rongcloud_groups._protocol.responses import http_date
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups._transport.interface import Connection
from rongcloud_groups.client import GroupClient
from rongcloud_groups.config import REGIONS, Options
from rongcloud_groups.errors import (
    ConfigError,
    DecodeError,
    ParameterError,
    RongCloudError,
    ServerError,
    ServiceError,
    TransportError,
)

MAX_REQUESTS: Final = 2
CLOCK_TOLERANCE: Final = 60.0
"""Seconds by which the clock may be off without a finding; the service does not say how many it accepts."""

_GROUP_ID: Final = "rongcloud-groups-check"


class Finding(Struct, frozen=True):
    """Something to change.

    Attributes:
        problem: the fault.
        advice: the cure.
    """

    problem: str
    advice: str


class Diagnosis(Struct, frozen=True, kw_only=True):
    """The state of the service as one client sees it; None where no response showed it.

    Attributes:
        ok: whether lookups with these settings can succeed. There may be problems even so.
        dialect: the one that is set.
        answering_dialect: the one that the service speaks with this App Key.
        region: the region of the host that responded, if it is a region's.
        host: the host (and port) that responded.
        http_version: ``HTTP/2`` or ``HTTP/1.1``.
        round_trip: seconds from the request to its response.
        clock_offset: seconds that this machine's clock is ahead of the server's ``Date``, which has whole seconds.
        problems: the faults, each with its cure.
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


async def check(app_key: str, app_secret: str | Secret, **options: Unpack[Options]) -> Diagnosis:
    """Ask the service for one group, and report the response.

    The arguments are as for `GroupClient`.

    Raises:
        ConfigError: an argument cannot be used; the message names it.
    """
    app_secret = Secret.of(app_secret)  # from here on no traceback shows it
    async with GroupClient(app_key, app_secret, **options) as client:
        return await _Check(client._parts).run()  # noqa: SLF001  it sends a request of its own, in place of a lookup


class _Outcome(NamedTuple):
    dialect: Dialect
    error: RongCloudError | None
    round_trip: float | None
    clock_offset: float | None

    @property
    def accepted(self) -> bool:
        """Whether lookups can succeed: a service may refuse an ID that no group has."""
        return self.error is None or isinstance(self.error, ParameterError)

    @property
    def shows_dialect(self) -> bool:
        """Whether the service responded, in the dialect of the request."""
        return not self.is_wrong_dialect and not self.is_down

    @property
    def codes(self) -> set[int]:
        """The code and the HTTP status of a refusal."""
        return {self.error.code, self.error.status} if isinstance(self.error, ServiceError) else set()

    @property
    def is_wrong_dialect(self) -> bool:
        return isinstance(self.error, ConfigError | DecodeError) or bool(self.codes & {NO_SUCH_API, UNKNOWN_APP_KEY})

    @property
    def is_down(self) -> bool:
        return isinstance(self.error, ServerError | TransportError)

    @property
    def clock_problem(self) -> str:
        """The fault of this machine's clock; empty where it is right, or the server's is not known."""
        offset = self.clock_offset or 0.0
        if abs(offset) <= CLOCK_TOLERANCE:
            return ""
        return f"this machine's clock is {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the server's"


class _Check:
    """Asks one host after the other, until one responds."""

    def __init__(self, parts: Assembly) -> None:
        self._parts = parts
        self._requests = 0
        self._problems: list[Finding] = []

    async def run(self) -> Diagnosis:
        diagnosis = Diagnosis(ok=False, dialect=self._parts.api.dialect.name, problems=self._problems)
        for origin in self._parts.origins:
            try:
                connection = await self._parts.connector.connect(origin, lambda: None)
            except TransportError as error:
                self._report(error, _advice_to_connect(error))
                continue
            async with aclosing(connection):
                outcome = await self._ask_in_either_dialect(connection)
            if outcome.round_trip is not None:
                diagnosis = self._diagnosis(origin, connection, outcome)
            if not outcome.is_down or self._requests == MAX_REQUESTS:
                break
        return diagnosis

    async def _ask_in_either_dialect(self, connection: Connection) -> _Outcome:
        """The outcome in the dialect that is set, or in the other one if the service speaks that."""
        api = self._parts.api
        outcome = await self._ask(connection, api)
        error = outcome.error
        if error and outcome.is_wrong_dialect and self._requests < MAX_REQUESTS and connection.open_slots:
            other = await self._ask(connection, ServiceApi(api.dialect.other, api.credentials))
            if other.shows_dialect:
                self._report(error, f"the service responds in the other dialect: set {other.dialect.switch}")
                outcome = other
        if outcome.error and not outcome.accepted:
            self._report(outcome.error, _advice(outcome, outcome.error))
        return outcome

    async def _ask(self, connection: Connection, api: ServiceApi) -> _Outcome:
        await self._parts.gate.wait()
        self._requests += 1
        request = api.batch_request([_GROUP_ID])
        sent_at = get_running_loop().time()
        error = round_trip = offset = None
        try:
            sending = connection.send(request, self._parts.options["attempt_timeout"])
            self._parts.gate.sent()
            response = await sending
            round_trip = get_running_loop().time() - sent_at
            if date := http_date(response.headers.get("date", "")):
                # A Date is cut to the second: half of one is lost on average.
                offset = time.time() - round_trip / 2 - date.timestamp() - 0.5
            api.read_batch(response, [_GROUP_ID], request.request_id)
        except RongCloudError as refusal:
            error = refusal
        return _Outcome(api.dialect, error, round_trip, offset)

    def _report(self, error: RongCloudError, advice: str) -> None:
        hint = error.hint if isinstance(error, ServiceError) else ""  # the advice has it
        self._problems.append(Finding(str(error).removesuffix(f": {hint}"), advice))

    def _diagnosis(self, origin: Origin, connection: Connection, outcome: _Outcome) -> Diagnosis:
        if outcome.clock_problem and BAD_SIGNATURE not in outcome.codes:
            self._problems.append(Finding(outcome.clock_problem, "set it, before the service refuses its timestamps"))
        dialect = self._parts.api.dialect
        return Diagnosis(
            ok=outcome.accepted and outcome.dialect is dialect,
            dialect=dialect.name,
            answering_dialect=outcome.dialect.name if outcome.shows_dialect else None,
            region=next((region for region, urls in REGIONS.items() if str(origin) in urls), None),
            host=origin.authority,
            http_version=connection.http_version,
            round_trip=outcome.round_trip,
            clock_offset=outcome.clock_offset,
            problems=self._problems,
        )


def _advice(outcome: _Outcome, error: RongCloudError) -> str:
    if BAD_SIGNATURE in outcome.codes and outcome.clock_problem:
        return f"{outcome.clock_problem}: set it; if that is not enough, check RONGCLOUD_APP_SECRET"
    if NO_SUCH_API in outcome.codes:
        return "this host has the API in neither dialect: check RONGCLOUD_REGION or RONGCLOUD_BASE_URL"
    return hint_for(error)


def _advice_to_connect(error: TransportError) -> str:
    """The cure of a connection that could not be opened; `connect` raises the error from its cause."""
    match error.__cause__:
        case ssl.SSLCertVerificationError():
            return "name the file of the certificates to trust in SSL_CERT_FILE, if this host is the right one"
        case ssl.SSLError() | ConnectionResetError():
            return "the host does not speak TLS as it should: check RONGCLOUD_BASE_URL, its port and its scheme"
        case socket.gaierror() | UnicodeError():
            return "check RONGCLOUD_REGION or RONGCLOUD_BASE_URL, and name resolution on this machine"
        case _:
            return "check RONGCLOUD_REGION or RONGCLOUD_BASE_URL, and that a firewall lets this machine connect there"

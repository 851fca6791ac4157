"""The one table of error codes: which exception a code stands for, the hint for a user, and the action to take."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from rongcloud_groups.errors import (
    AuthenticationError,
    ConfigError,
    DecodeError,
    ParameterError,
    RateLimited,
    ServerError,
    ServiceError,
    ServiceNotEnabled,
    TransportError,
)

ErrorAction = Literal["fatal", "pause", "bisect", "repeat", "retry", "reconnect", "fail"]
"""The consequence of an error for the requests.

- ``fatal``: no request can succeed until a setting is changed.
- ``pause``: every request on this budget waits; the batch is not at fault and loses no attempt.
- ``bisect``: one ID of the batch is at fault. Send each half by itself; an ID that stands alone fails.
- ``repeat``: one profile in the response may be at fault. Send the batch once more; then bisect.
- ``retry``: the same request may succeed later.
- ``reconnect``: as ``retry``, on a new connection; this one takes no more requests.
- ``fail``: the batch has failed.
"""

RETRIED: Final[frozenset[ErrorAction]] = frozenset({"retry", "repeat", "reconnect"})
"""The actions after which the same IDs are sent again, at the cost of an attempt."""

UNKNOWN_APP_KEY: Final = 1001
BAD_SIGNATURE: Final = 1004
NO_SUCH_API: Final = 404
"""The code, and the HTTP status, for a path that the service does not have."""


class ErrorCode(NamedTuple):
    """A row of the table: the exception, and its cure and its action where they are not those of its class."""

    error: type[ServiceError]
    hint: str = ""
    action: ErrorAction | None = None


_NOT_ENABLED: Final = "enable group profile hosting for this App Key, in the service's console or by a ticket"
_REGION: Final = "check region or base_urls (RONGCLOUD_REGION, RONGCLOUD_BASE_URL)"

CODES: Final[Mapping[int, ErrorCode]] = {
    NO_SUCH_API: ErrorCode(ServiceError, f"no such API for this App Key there; {_REGION}", "fatal"),
    1000: ErrorCode(ServerError),
    UNKNOWN_APP_KEY: ErrorCode(
        AuthenticationError,
        "check RONGCLOUD_APP_KEY and RONGCLOUD_APP_SECRET: the App Secret does not fit the App Key, of which "
        "development and production have a pair each; and RONGCLOUD_REGION: an App Key works in one data center",
    ),
    1002: ErrorCode(ParameterError),
    1003: ErrorCode(ParameterError),
    BAD_SIGNATURE: ErrorCode(
        AuthenticationError,
        "check RONGCLOUD_APP_SECRET, which signs the request; other usual causes are hashing the App Key, or a "
        "clock far off",
    ),
    1005: ErrorCode(ParameterError),
    1006: ErrorCode(AuthenticationError, "the app is locked or deleted; the service's console shows its state"),
    1007: ErrorCode(
        AuthenticationError, "the app is restricted; check that the service's console allows this IP address"
    ),
    1008: ErrorCode(RateLimited),
    1009: ErrorCode(ServiceNotEnabled, _NOT_ENABLED),
    1050: ErrorCode(ServerError),
    1508: ErrorCode(ParameterError),  # a request body over 100 kB, says one of the SDKs
}
"""The service's codes."""

STATUSES: Final[Mapping[int, ErrorCode]] = {
    400: ErrorCode(ParameterError),
    401: ErrorCode(AuthenticationError, "check the App Key, its secret and the region"),
    NO_SUCH_API: CODES[NO_SUCH_API],
    408: ErrorCode(ServiceError, "a server or proxy on the way gave up waiting; try again later", "retry"),
    413: ErrorCode(ParameterError),
    414: ErrorCode(ParameterError),
    421: ErrorCode(ServiceError, f"the connection leads to another host; {_REGION}", "reconnect"),
    425: ErrorCode(ServiceError, "the server did not want the request yet; try again later", "retry"),
    429: ErrorCode(RateLimited),
    430: ErrorCode(ServiceNotEnabled, _NOT_ENABLED),  # the service's own status
}
"""HTTP statuses, where the response has no code that decides."""

_UNKNOWN: Final = ErrorCode(ServiceError)
_STATUS_CLASSES: Final[Mapping[int, ErrorCode]] = {
    3: ErrorCode(ServiceError, "redirects are not followed; check base_urls (RONGCLOUD_BASE_URL)"),
    5: ErrorCode(ServerError),
}
"""Other statuses, by their first digit."""

_CLASSES: Final[tuple[tuple[type | tuple[type, ...], ErrorAction, str], ...]] = (
    ((AuthenticationError, ServiceNotEnabled, ConfigError), "fatal", ""),
    (RateLimited, "pause", "another program uses the App Key up to its limit; try again when it has ended"),
    (ParameterError, "bisect", ""),
    (ServerError, "retry", "the service fails; try again later"),
    (ServiceError, "fail", "give the service's support the code and the request's ID"),
    (
        TransportError,
        "retry",
        "try again; if it stays so, check RONGCLOUD_REGION, RONGCLOUD_BASE_URL and the network in between",
    ),
    (
        DecodeError,
        "repeat",
        "something other than the service seems to respond; check RONGCLOUD_BASE_URL, and proxies on the way",
    ),
)
"""The action and the hint of each class; the first that fits counts."""


def error_code_for(code: int | None, status: int) -> ErrorCode:
    """The row for a response.

    The code decides before the status, but 429 means the rate, unless no request can succeed anyway.
    """
    by_code = None if code is None else CODES.get(code)
    by_status = STATUSES.get(status) or _STATUS_CLASSES.get(min(status // 100, 5), _UNKNOWN)
    if by_code is not None and by_code.error in {AuthenticationError, ServiceNotEnabled}:
        return by_code
    if by_status.error is RateLimited or by_code is None:
        # An undocumented code says more than a mere "bad request": bisecting is for documented ones.
        return _UNKNOWN if by_status.error is ParameterError and code is not None else by_status
    return by_code


def action_for(error: Exception) -> ErrorAction:
    """The consequence of an error for the requests; ``fail`` for one that is not of this library."""
    if isinstance(error, ServiceError):
        row = error_code_for(error.code if error.code in CODES else None, error.status)
        if row.action is not None and row.error is type(error):
            return row.action
    return next((action for kind, action, _ in _CLASSES if isinstance(error, kind)), "fail")


def hint_for(error: Exception) -> str:
    """The cure of an error, for the user; empty where there is nothing to add to its message."""
    own = error.hint if isinstance(error, ServiceError) else ""
    return own or next((hint for kind, _, hint in _CLASSES if isinstance(error, kind)), "")

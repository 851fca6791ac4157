"""What to do about what `check` sees."""

import socket
import ssl
from typing import Final

from rongcloud_groups._protocol.responses import NO_SUCH_API
from rongcloud_groups.errors import (
    AuthenticationError,
    RateLimited,
    RongCloudError,
    ServerError,
    ServiceError,
    TransportError,
)

CLOCK_TOLERANCE: Final = 60.0
"""Seconds by which the clock may be off unremarked; the service does not say how many it accepts."""
UNKNOWN_APP_KEY: Final = 1001
BAD_SIGNATURE: Final = 1004


def clock_words(offset: float) -> str:
    """How far off the clock is.

    Args:
        offset: seconds that it is ahead of the server's.
    """
    return f"this machine's clock is {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the server's"


def is_bad_signature(error: RongCloudError | None) -> bool:
    """Whether the service refused the signature, or what it is made of."""
    return isinstance(error, AuthenticationError) and error.code == BAD_SIGNATURE


def what_happened(error: RongCloudError) -> str:
    """The error's message without its hint, for which there is better advice here."""
    hint = error.hint if isinstance(error, ServiceError) else ""
    return str(error).removesuffix(f": {hint}")


def advice(error: RongCloudError, clock_offset: float | None) -> str:
    """What to do about the error of a request.

    Args:
        error: the error.
        clock_offset: seconds that this machine's clock is ahead of the server's; None where it is not known.
    """
    match error:
        case AuthenticationError():
            return _advice_on_credentials(error, clock_offset)
        case RateLimited():
            words = "something else uses the App Key up to its limit; check again when that has ended"
        case ServiceError() if NO_SUCH_API in (error.code, error.status):
            words = "this host has the API in neither dialect: check RONGCLOUD_REGION or RONGCLOUD_BASE_URL"
        case ServerError():
            words = "the service fails; check again later"
        case ServiceError():
            words = error.hint or "give the service's support the code and the request's ID"
        case TransportError():
            words = "check again; if it stays so, see what stands between this machine and the service"
        case _:
            words = "something else than the service answers there: check RONGCLOUD_BASE_URL, and proxies on the way"
    return words


def _advice_on_credentials(error: AuthenticationError, clock_offset: float | None) -> str:
    if is_bad_signature(error) and clock_offset is not None and abs(clock_offset) > CLOCK_TOLERANCE:
        return f"{clock_words(clock_offset)}: set it; if that is not enough, check RONGCLOUD_APP_SECRET"
    if is_bad_signature(error):
        return "check RONGCLOUD_APP_SECRET; it signs the request, and does not fit RONGCLOUD_APP_KEY"
    if error.code == UNKNOWN_APP_KEY:
        return (
            "check RONGCLOUD_APP_KEY and RONGCLOUD_APP_SECRET, of which development and production have a pair each, "
            "and RONGCLOUD_REGION: an App Key works in its own data center alone"
        )
    return error.hint


def advice_to_connect(error: TransportError) -> str:
    """What to do about a connection that could not be opened; `connect` raises the error from its cause."""
    match error.__cause__:
        case ssl.SSLCertVerificationError():
            return "name the file of the certificates to trust in SSL_CERT_FILE, if this host is the right one"
        case ssl.SSLError() | ConnectionResetError():
            return "the host does not speak TLS as it should: check RONGCLOUD_BASE_URL, its port and its scheme"
        case socket.gaierror() | UnicodeError():
            return "check RONGCLOUD_REGION or RONGCLOUD_BASE_URL, and name resolution on this machine"
        case _:
            return "check RONGCLOUD_REGION or RONGCLOUD_BASE_URL, and that a firewall lets this machine connect there"

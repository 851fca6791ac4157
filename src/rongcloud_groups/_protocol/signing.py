"""What makes a request unlike every other one."""

import secrets
import time
from typing import NamedTuple


class RequestNonce(NamedTuple):
    """A request's own: each attempt has a new one.

    Attributes:
        nonce: at most 18 characters.
        timestamp_ms: when it was made, in milliseconds since 1970.
        request_id: at most 36 characters; the service's support asks for it.
    """

    nonce: str
    timestamp_ms: int
    request_id: str


def new_nonce() -> RequestNonce:
    """A stamp of now."""
    return RequestNonce(secrets.token_hex(8), time.time_ns() // 1_000_000, secrets.token_hex(16))

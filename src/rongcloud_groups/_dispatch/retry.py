"""Whether a lost request is retried, and after which pause."""

from math import inf
from random import random
from ssl import SSLCertVerificationError
from typing import Final

from msgspec import Struct

from rongcloud_groups._protocol.error_codes import ErrorAction, action_for
from rongcloud_groups.errors import RateLimited, ServerError, ServiceError, TransportError

FIRST_BACK_OFF: Final = 0.1
MAX_BACK_OFF: Final = 5.0
"""Seconds; the n-th retry waits a random part of the n-th doubling (full jitter)."""
MAX_UNPROCESSED: Final = 20
"""How often an ID may come back from requests that the server did not begin, at no cost of attempts."""
MAX_UNDECODABLE: Final = 12
"""Undecodable responses in a row, twice the halvings of a batch, that are the fault of the service and no profile."""


class Attempts(Struct):
    """The requests that one ID, or one page of the listing, lost so far.

    Attributes:
        lost: how many count against `RetryPolicy.max_attempts`.
        unprocessed: how many the server did not begin.
        undecodable: how many had a response that could not be decoded.
        refused: how many the service refused to take now.
        pauses: how many of those were waited for.
        refused_at: when it refused the first of those, by the loop's clock.
    """

    lost: int = 0
    unprocessed: int = 0
    undecodable: int = 0
    refused: int = 0
    pauses: int = 0
    refused_at: float = inf


class RetryPolicy(Struct, frozen=True):
    """The one place that decides between retry and failure."""

    max_attempts: int
    outage_timeout: float
    attempt_timeout: float
    origins: int

    def action(self, error: Exception) -> ErrorAction:
        """The action for a request that ended in this error."""
        if isinstance(error, ServerError) and error.retry_after is not None:
            return "pause"
        return action_for(error)

    def count(self, attempts: Attempts, error: Exception) -> None:
        if isinstance(error, TransportError) and error.never_processed and attempts.unprocessed < MAX_UNPROCESSED:
            attempts.unprocessed += 1
        else:
            attempts.lost += 1

    def exhausted(self, attempts: Attempts) -> bool:
        return attempts.lost >= self.max_attempts

    def count_refusal(self, attempts: Attempts, error: ServiceError, now: float) -> bool:
        """Count a refused request; whether to wait, and not to retry at once with another origin."""
        attempts.refused += 1
        attempts.refused_at = min(attempts.refused_at, now)
        wait = isinstance(error, RateLimited) or attempts.refused % self.origins == 0
        attempts.pauses += wait
        return wait

    def refused_too_long(self, attempts: Attempts, resumes_at: float) -> bool:
        """Whether to give up instead of waiting until then; the first pause is always waited for."""
        return attempts.pauses > 1 and resumes_at - attempts.refused_at > self.outage_timeout

    def is_outage(self, error: TransportError) -> bool:
        """Whether a connection could not be opened for a reason that may pass, and that says nothing of any ID."""
        return isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, SSLCertVerificationError)

    def delay(self, lost: int, error: Exception) -> float:
        """Seconds until the retry of a request, after so many were lost."""
        return 0.0 if isinstance(error, TransportError) and lost <= 1 else self.back_off(lost)

    def back_off(self, lost: int) -> float:
        """Seconds; twice as long for each lost attempt, with full jitter."""
        return random() * min(MAX_BACK_OFF, FIRST_BACK_OFF * 2.0 ** min(lost, 10))

"""Whether a lost request is retried, and after which pause."""

from dataclasses import dataclass
from random import random
from typing import Final

from rongcloud_groups._protocol.error_codes import ErrorAction, action_for
from rongcloud_groups.errors import TransportError

FIRST_BACK_OFF: Final = 0.1
MAX_BACK_OFF: Final = 5.0
"""Seconds; the n-th retry waits a random part of the n-th doubling (full jitter)."""
MAX_UNPROCESSED: Final = 20
"""How often an ID may come back from requests that the server did not begin, at no cost of attempts."""


@dataclass(slots=True)
class Attempts:
    """The requests that one ID, or one page of the listing, lost so far.

    Attributes:
        lost: how many count against `RetryPolicy.max_attempts`.
        unprocessed: how many the server did not begin.
    """

    lost: int = 0
    unprocessed: int = 0


class RetryPolicy:
    """The one place that decides between retry and failure.

    Args:
        max_attempts: requests that may be lost on one ID, or one page of the listing.
    """

    def __init__(self, max_attempts: int) -> None:
        self.max_attempts = max_attempts

    def action(self, error: Exception) -> ErrorAction:
        """What to do about a request that ended in this error."""
        return action_for(error)

    def count(self, attempts: Attempts, error: Exception) -> None:
        """Count a lost request."""
        if isinstance(error, TransportError) and error.never_processed and attempts.unprocessed < MAX_UNPROCESSED:
            attempts.unprocessed += 1
        else:
            attempts.lost += 1

    def exhausted(self, attempts: Attempts) -> bool:
        """Whether no attempt is left."""
        return attempts.lost >= self.max_attempts

    def delay(self, lost: int, error: Exception) -> float:
        """Seconds until the retry of a request, after so many were lost."""
        return 0.0 if isinstance(error, TransportError) and lost <= 1 else self.back_off(lost)

    def back_off(self, lost: int) -> float:
        """Seconds; twice as long for each lost attempt, with full jitter."""
        return random() * min(MAX_BACK_OFF, FIRST_BACK_OFF * 2.0**lost)

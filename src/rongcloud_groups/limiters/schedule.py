"""Reserved send times: the arithmetic that shared budgets have in common."""

from math import ceil, exp, floor
from typing import NamedTuple, Self

SHARED_JITTER = 0.007
"""Seconds, as `PATH_JITTER`, between machines that share a clock; late processes are a sign that more is needed."""


HOST_JITTER = 0.01
"""Seconds, as `SHARED_JITTER`, between processes that compete for the same processors."""


LATENESS_DECAY = 3.0
"""Seconds in which what is remembered of a process's lateness falls by the factor e."""


MAX_HISTORY = 500
"""Requests whose send times a shared budget remembers."""


MAX_LATE = 0.02
"""Seconds after which a reserved slot is not used any more."""


CATCH_UP = 0.8
"""Part of the regular gap that two slots are apart at the least where what was not used lately is made good."""


MAX_BEHIND = 0.1
"""Seconds by which slots come later than the limit would let them, at the most, while that is made good."""


QUIET_PERIOD = 1.6
"""Seconds without a request when nobody knows what other processes sent in the last second."""


class Window(NamedTuple):
    """How a shared budget counts: ``requests`` in so many seconds, wherever those begin."""

    requests: int
    seconds: float

    @classmethod
    def of(cls, limit: float) -> Self:
        """The window that keeps a limit in requests/s: a second, or a part of one that has few enough requests."""
        parts = ceil(limit / MAX_HISTORY)
        return cls(max(1, floor(limit / parts)), max(1 / parts, 1 / limit))


def remembered(late: float, seconds: float) -> float:
    """What is left of a lateness after so many seconds: that much is allowed for, besides the jitter."""
    return late * exp(-seconds / LATENESS_DECAY)


def slot_gap(rate: float, limit: float, behind: float) -> float:
    """Seconds from a slot to the next one at the least.

    Args:
        rate: requests/s that are let through now.
        limit: requests/s that the service allows.
        behind: seconds by which the slot comes later than the limit would let it.
    """
    return CATCH_UP / limit if rate == limit and behind <= MAX_BEHIND else 1 / rate

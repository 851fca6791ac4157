"""An open ID, its waiters, the lane in which it waits, and the batch in which it is in flight."""

from collections import deque
from collections.abc import Callable
from itertools import repeat, starmap
from typing import Final, Protocol, final

from msgspec import Struct, field

from rongcloud_groups._dispatch.retry import Attempts
from rongcloud_groups.errors import RongCloudError
from rongcloud_groups.lookup import Outcome

_SWEEP_AT: Final = 64
"""IDs that left a lane before it is worth looking for them in it."""


class Waiter(Protocol):
    """Receives outcomes. Implementations must not raise, and are equal to no other.

    Attributes:
        bulk: whether its IDs wait in the bulk lane.
    """

    @property
    def bulk(self) -> bool: ...

    def settle(self, outcomes: dict[str, Outcome], request_id: str | None = None) -> None:
        """Some of its IDs, at least one, have their outcome: of this request, if there was a response.

        The dict is the waiter's from now on.
        """

    def abort(self, error: RongCloudError) -> None:
        """None of its open IDs will be settled."""


@final
class PendingId(Struct, eq=False):
    """One open ID, in full.

    Attributes:
        bulk: whether it waits in the bulk lane.
        waiters: get the outcome of the request in flight, or else of the next one.
        next_waiters: get the outcome of the request after the one in flight, which is stale.
        stale: the request in flight was sent before an invalidation.
        attempts: the requests that it lost.
        place: the lane in which it waits, the half of a batch with which it waits to be sent alone, or the request in
            flight; None while it rests.
    """

    group_id: str
    bulk: bool
    waiters: dict[Waiter, None] = field(default_factory=dict)
    next_waiters: dict[Waiter, None] = field(default_factory=dict)
    stale: bool = False
    attempts: Attempts = field(default_factory=Attempts)
    place: "Lane | list[PendingId] | Batch | None" = None

    @property
    def wanted(self) -> bool:
        """Whether a waiter is left."""
        return bool(self.waiters or self.next_waiters)


class Batch(Struct, eq=False):
    """The IDs of one request in flight.

    Attributes:
        group_ids: in the order in which they are sent.
        waiters: the waiter of each, or its `PendingId`.
        cancel: called with the batch when no waiter is left for any of its IDs; they are no longer open by then.
        wanted: how many IDs have a waiter.
        request_id: the ``X-Request-ID`` of the request, once it is sent.
    """

    group_ids: list[str]
    waiters: list[Waiter | PendingId]
    cancel: "Callable[[Batch], object]"
    wanted: int
    request_id: str = ""

    def __len__(self) -> int:
        return len(self.group_ids)


class Lane(Struct, eq=False):
    """IDs in the order in which they leave; the isolated halves leave before the others, each alone.

    Attributes:
        place_of: says where an ID is.
        group_ids: those that wait here, and some that no longer do. One that comes back takes its old place.
        gone: how many of them no longer wait here.
    """

    place_of: Callable[[str], object]
    group_ids: deque[str] = field(default_factory=deque)
    gone: int = 0
    isolated: deque[list[PendingId]] = field(default_factory=deque)

    def __bool__(self) -> bool:
        return len(self.group_ids) > self.gone or bool(self.isolated)

    def __len__(self) -> int:
        return len(self.group_ids) - self.gone + sum(map(len, self.isolated))

    def take(self, most: int) -> list[str]:
        """Take out the first IDs, so many at most, apart from the isolated ones."""
        pop = self.group_ids.popleft
        if not self.gone:
            return list(starmap(pop, repeat((), min(most, len(self.group_ids)))))
        taken: dict[str, None] = {}
        while self.group_ids and len(taken) < most:
            group_id = pop()
            if group_id not in taken and self.place_of(group_id) is self:
                taken[group_id] = None
            else:
                self.gone -= 1
        return list(taken)

    def left(self) -> None:
        """An ID no longer waits here; those that left are taken out many at a time."""
        self.gone += 1
        if 2 * self.gone > len(self.group_ids) + _SWEEP_AT:
            distinct = dict.fromkeys(self.group_ids)
            self.group_ids = deque(group_id for group_id in distinct if self.place_of(group_id) is self)
            self.gone = 0

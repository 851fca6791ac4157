"""Waiters of a call: of `get` for one ID, of `get_many` for many."""

from asyncio import Future
from collections.abc import Callable, Iterable
from copy import copy
from operator import countOf
from typing import Final, TypeVar, cast

from msgspec import Struct, field

from rongcloud_groups._protocol.requests import are_plain_group_ids, validated_group_id
from rongcloud_groups.errors import InvalidGroupId, RongCloudError
from rongcloud_groups.lookup import Lookup, Outcome, lookup_of
from rongcloud_groups.models import GroupProfile

T = TypeVar("T")


class GetWaiter(Struct, eq=False):
    """Waits for one ID; its future ends in the profile, in None, or in the error.

    Attributes:
        request_ids: gets the request that served it, if not None.
    """

    future: Future[GroupProfile | None]
    request_ids: list[str] | None = None
    bulk: bool = False

    def settle(self, outcomes: dict[str, Outcome], request_id: str | None = None) -> None:
        """The ID has its outcome."""
        if self.request_ids is not None and request_id is not None:
            self.request_ids.append(request_id)
        _, outcome = outcomes.popitem()
        if isinstance(outcome, RongCloudError):
            self.abort(outcome)
        elif not self.future.done():
            self.future.set_result(outcome)

    def abort(self, error: RongCloudError) -> None:
        """There will be no outcome."""
        if not self.future.done():
            self.future.set_exception(copy(error))


class _Open:
    """Marks an ID that has no outcome yet."""


_OPEN: Final = _Open()


class GetManyWaiter(Struct, eq=False):
    """Waits for many IDs, each once; its future ends when all of them have their outcome.

    Attributes:
        future: ends in None, or in the error that aborts the whole lookup.
        request_ids: the requests that served it.
    """

    future: Future[None]
    request_ids: list[str]
    bulk: bool
    _outcomes: dict[str, Outcome | _Open] = field(default_factory=dict)
    _open: int = 0
    _all_admitted: bool = False
    _expired: Callable[[str], RongCloudError] | None = None

    def admit(self, group_ids: list[object]) -> list[str]:
        """Take up some more IDs; return those to look up: valid, new, and before the deadline."""
        outcomes: dict[str, Outcome | _Open] = checked(group_ids, _OPEN)
        if not self._outcomes.keys().isdisjoint(outcomes):
            outcomes = {each: outcomes[each] for each in outcomes if each not in self._outcomes}
        if countOf(outcomes.values(), _OPEN) == len(outcomes):
            opened = list(outcomes)
        else:
            opened = [group_id for group_id, outcome in outcomes.items() if outcome is _OPEN]
        if self._expired is not None:
            outcomes |= {group_id: self._expired(group_id) for group_id in opened}
            opened = []
        self._outcomes.update(outcomes)
        self._open += len(opened)
        return opened

    def expire(self, error_for: Callable[[str], RongCloudError]) -> None:
        """Settle the open IDs, and each one that is still to come, with an error."""
        self._expired = error_for
        self.settle({group_id: error_for(group_id) for group_id in self.open_ids()})

    def admitted(self) -> None:
        """No more IDs come."""
        self._all_admitted = True
        self.settle({})

    def settle(self, outcomes: dict[str, Outcome], request_id: str | None = None) -> None:
        """Some of the IDs have their outcome."""
        if request_id is not None:
            self.request_ids.append(request_id)
        self._outcomes.update(outcomes)
        self._open -= len(outcomes)
        if self._all_admitted and not self._open and not self.future.done():
            self.future.set_result(None)

    def abort(self, error: RongCloudError) -> None:
        """There will be no outcome for the open IDs."""
        if not self.future.done():
            self.future.set_exception(copy(error))

    def open_ids(self) -> list[str]:
        """The IDs that have no outcome yet."""
        if not self._open:
            return []
        return [group_id for group_id, outcome in self._outcomes.items() if outcome is _OPEN]

    def lookup(self) -> Lookup:
        """The outcomes, once no ID is open."""
        return lookup_of(cast("dict[str, Outcome]", self._outcomes), self.request_ids)


def checked(group_ids: list[object], valid: T) -> dict[str, T | InvalidGroupId]:
    """Each distinct ID once, in order: ``valid`` for the valid ones, the error for the others."""
    if are_plain_group_ids(group_ids):
        return dict.fromkeys(group_ids, valid)
    outcomes: dict[str, T | InvalidGroupId] = {}
    for group_id in group_ids:
        try:
            outcomes.setdefault(validated_group_id(group_id), valid)
        except InvalidGroupId as error:
            outcomes.setdefault(_failed_key(group_id), error)
    return outcomes


def _failed_key(group_id: object) -> str:
    """The key of an invalid ID in `Lookup.failed`: the ID itself where it can be a key, or else its ``repr``."""
    try:
        hash(group_id)
    except TypeError:
        return repr(group_id)
    return group_id  # type: ignore[return-value]  # a caller who gives no str finds it again under that value


def reject_single_str(group_ids: Iterable[object]) -> Iterable[object]:
    """The IDs themselves.

    Raises:
        TypeError: it is one str, whose characters would be taken for IDs.
    """
    if isinstance(group_ids, str | bytes):
        raise TypeError(f"give several group IDs, such as [{group_ids!r}], not one {type(group_ids).__name__}")
    return group_ids

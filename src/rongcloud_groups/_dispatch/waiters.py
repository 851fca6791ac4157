"""Waiters of a call: of `get` for one ID, of `get_many` for many."""

from asyncio import Future
from collections.abc import Callable, Iterable
from copy import copy
from typing import Final

from msgspec import Struct, field

from rongcloud_groups._protocol.requests import validated_group_id
from rongcloud_groups.errors import InvalidGroupId, RongCloudError
from rongcloud_groups.lookup import Lookup, Outcome
from rongcloud_groups.models import GroupProfile


class GetWaiter(Struct, eq=False):
    """Waits for one ID; its future ends in the profile, in None, or in the error."""

    future: Future[GroupProfile | None]

    def settle(self, group_id: str, outcome: Outcome) -> None:  # noqa: ARG002  the one ID it waits for
        """The ID has its outcome."""
        if isinstance(outcome, RongCloudError):
            self.abort(outcome)
        elif not self.future.done():
            self.future.set_result(outcome)

    def flush(self) -> None:
        """Nothing is held back."""

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
    """

    future: Future[None]
    _outcomes: dict[str, Outcome | _Open] = field(default_factory=dict)
    _open: int = 0
    _all_admitted: bool = False
    _expired: Callable[[str], RongCloudError] | None = None

    def admit(self, group_id: object) -> str | None:
        """Take up one more ID; return it where it is to be looked up: valid, new, and before the deadline."""
        try:
            valid = validated_group_id(group_id)
        except InvalidGroupId as error:
            self._outcomes.setdefault(failed_key(group_id), error)
            return None
        if valid in self._outcomes:
            return None
        if self._expired is not None:
            self._outcomes[valid] = self._expired(valid)
            return None
        self._outcomes[valid] = _OPEN
        self._open += 1
        return valid

    def expire(self, error_for: Callable[[str], RongCloudError]) -> None:
        """Settle the open IDs, and each one that is still to come, with an error."""
        self._expired = error_for
        for group_id in self.open_ids():
            self.settle(group_id, error_for(group_id))
        self.flush()

    def admitted(self) -> None:
        """No more IDs come."""
        self._all_admitted = True
        self.flush()

    def settle(self, group_id: str, outcome: Outcome) -> None:
        """One of the IDs has its outcome."""
        self._outcomes[group_id] = outcome
        self._open -= 1

    def flush(self) -> None:
        """Every ID that settles in this step has settled."""
        if self._all_admitted and not self._open and not self.future.done():
            self.future.set_result(None)

    def abort(self, error: RongCloudError) -> None:
        """There will be no outcome for the open IDs."""
        if not self.future.done():
            self.future.set_exception(copy(error))

    def open_ids(self) -> list[str]:
        """The IDs that have no outcome yet."""
        return [group_id for group_id, outcome in self._outcomes.items() if outcome is _OPEN]

    def lookup(self) -> Lookup:
        """The outcomes, once no ID is open."""
        lookup = Lookup()
        for group_id, outcome in self._outcomes.items():
            assert not isinstance(outcome, _Open)  # noqa: S101  an invariant
            lookup.record(group_id, outcome)
        return lookup


def failed_key(group_id: object) -> str:
    """The key of an invalid ID in `Lookup.failed`: the ID itself where it can be a key, or else its ``repr``."""
    try:
        hash(group_id)
    except TypeError:
        return repr(group_id)
    return group_id  # type: ignore[return-value]  # a caller who gives no str finds it again under what was given


def reject_single_str(group_ids: Iterable[object]) -> Iterable[object]:
    """The IDs themselves.

    Raises:
        TypeError: it is one str, whose characters would be taken for IDs.
    """
    if isinstance(group_ids, str | bytes):
        raise TypeError(f"give several group IDs, such as [{group_ids!r}], not one {type(group_ids).__name__}")
    return group_ids

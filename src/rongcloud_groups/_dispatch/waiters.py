"""Waiters of a call: of `get` for one ID, of `get_many` for many."""

from asyncio import AbstractEventLoop, CancelledError, Future, get_running_loop
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from copy import copy
from operator import countOf
from typing import TypeGuard, TypeVar, cast

from msgspec import UNSET, Struct, UnsetType, field

from rongcloud_groups._protocol.requests import are_plain_group_ids, validated_group_id
from rongcloud_groups.errors import InvalidGroupId, RongCloudError
from rongcloud_groups.lookup import Lookup, Outcome, lookup_of
from rongcloud_groups.models import GroupProfile

T = TypeVar("T")


class WakeUps:
    """Resumes the tasks whose `get` has its outcome: all of a batch in one call of the event loop.

    With a future each they take a call each, which costs more than the rest of a `get`.
    """

    def __init__(self) -> None:
        self.loop: AbstractEventLoop | None = None  # that of the tasks; asyncio.run cancels them while it does not run
        self._tasks: deque[SuspendedTask] = deque()

    def extend(self, tasks: "Iterable[SuspendedTask]") -> None:
        """Resume these tasks soon."""
        if not self._tasks:
            (self.loop or get_running_loop()).call_soon(self._resume)
        self._tasks.extend(tasks)

    def _resume(self) -> None:
        tasks, self._tasks = self._tasks, deque()
        done: Future[None] = get_running_loop().create_future()
        done.set_result(None)
        try:
            while tasks:
                wake_up, context = tasks.popleft()
                context.run(wake_up, done)
                del wake_up, context  # the traceback of the task's error leads to this frame: this leaves no cycle
        finally:
            if tasks:  # one ended in KeyboardInterrupt or SystemExit
                self.extend(tasks)


SuspendedTask = tuple[Callable[[Future[None]], object], Context]
"""Runs a step of a task that waits, and the context to run it in."""


class GetWaiter(Struct, eq=False):
    """Waits for one ID. To the task that yields it, it looks like a future (see `asyncio.isfuture`).

    Attributes:
        request_ids: receives the ID of the request that served it.
        outcome: `UNSET` until there is one.
        task: the task to resume then.
    """

    wake_ups: WakeUps
    request_ids: list[str] | None = None
    bulk: bool = False
    outcome: Outcome | CancelledError | UnsetType = UNSET
    task: SuspendedTask | None = None
    _asyncio_future_blocking: bool = True

    get_loop = staticmethod(get_running_loop)

    def add_done_callback(self, wake_up: Callable[[Future[None]], object], *, context: Context) -> None:
        if self.wake_ups.loop is None:
            self.wake_ups.loop = get_running_loop()
        self.task = wake_up, context

    def cancel(self, msg: object = None) -> bool:
        if self.outcome is not UNSET:
            return False
        self._end(CancelledError() if msg is None else CancelledError(msg))
        return True

    def result(self) -> GroupProfile | None:
        outcome = self.outcome
        if not isinstance(outcome, BaseException):
            return outcome  # type: ignore[return-value]  # it is not open
        self.outcome = self.task = None  # the error's traceback refers to this waiter: this leaves no cycle
        try:
            raise outcome
        finally:
            del outcome

    def settle(self, outcomes: dict[str, Outcome], request_id: str | None = None) -> None:
        if self.request_ids is not None and request_id is not None:
            self.request_ids.append(request_id)
        _, outcome = outcomes.popitem()
        self._end(copy(outcome) if isinstance(outcome, RongCloudError) else outcome)

    def abort(self, error: RongCloudError) -> None:
        self._end(copy(error))

    def _end(self, outcome: Outcome | CancelledError) -> None:
        if self.outcome is UNSET:
            self.outcome = outcome
            if self.task is not None:
                self.wake_ups.extend([self.task])

    def __repr__(self) -> str:
        return f"<GetWaiter, {'waiting' if self.outcome is UNSET else 'done'}>"


def are_get_waiters(waiters: Sequence[object]) -> TypeGuard[Sequence[GetWaiter]]:
    return set(map(type, waiters)) == {GetWaiter}


def settle_gets(waiters: Sequence[GetWaiter], outcomes: Iterable[GroupProfile | None], request_id: str) -> None:
    """Settle the waiters of a batch in one step."""
    tasks = []
    for waiter, outcome in zip(waiters, outcomes, strict=True):
        if waiter.request_ids is not None:
            waiter.request_ids.append(request_id)
        if waiter.outcome is UNSET:
            waiter.outcome = outcome
            tasks.append(waiter.task)
    waiters[0].wake_ups.extend(filter(None, tasks))


class GetManyWaiter(Struct, eq=False):
    """Waits for many IDs, each once; its future ends when all have their outcome, or in the error that aborts all."""

    future: Future[None]
    bulk: bool
    request_ids: list[str] = field(default_factory=list)
    _outcomes: dict[str, Outcome | UnsetType] = field(default_factory=dict)
    _open: int = 0
    _all_admitted: bool = False
    _expired: Callable[[str], RongCloudError] | None = None

    def admit(self, group_ids: list[object]) -> list[str]:
        """Take in more IDs; return those to look up: valid, new, and before the deadline."""
        outcomes: dict[str, Outcome | UnsetType] = checked(group_ids, UNSET)
        if not self._outcomes.keys().isdisjoint(outcomes):
            outcomes = {each: outcomes[each] for each in outcomes if each not in self._outcomes}
        if countOf(outcomes.values(), UNSET) == len(outcomes):
            opened = list(outcomes)
        else:
            opened = [group_id for group_id, outcome in outcomes.items() if outcome is UNSET]
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
        if request_id is not None:
            self.request_ids.append(request_id)
        self._outcomes.update(outcomes)
        self._open -= len(outcomes)
        if self._all_admitted and not self._open and not self.future.done():
            self.future.set_result(None)

    def abort(self, error: RongCloudError) -> None:
        if not self.future.done():
            self.future.set_exception(copy(error))

    def open_ids(self) -> list[str]:
        return [group_id for group_id, outcome in self._outcomes.items() if outcome is UNSET]

    def lookup(self) -> Lookup:
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
    """The IDs themselves; raises a `TypeError` for one str, whose characters would be taken for IDs."""
    if isinstance(group_ids, str | bytes):
        raise TypeError(f"give several group IDs, such as [{group_ids!r}], not one {type(group_ids).__name__}")
    return group_ids

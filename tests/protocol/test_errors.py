import copy
import pickle
from enum import Enum

import pytest

from rongcloud_groups import (
    ClientClosed,
    ConfigError,
    DeadlineExceeded,
    DecodeError,
    InvalidGroupId,
    RateLimited,
    RongCloudError,
    ServerError,
    TransportError,
    errors,
)
from rongcloud_groups._protocol.error_codes import CODES, RETRIED, STATUSES, action_for, error_code_for, hint_for
from rongcloud_groups._protocol.requests import validated_group_id
from rongcloud_groups.lookup import Lookup

EXAMPLES: list[RongCloudError] = [
    RongCloudError("it failed"),
    ConfigError("rate is 0"),
    InvalidGroupId("", "it is empty"),
    ServerError(1000, 500, "internal error", "r1", "try again later"),
    RateLimited(1008, 429, "too many", "r1", "", 2.5),
    TransportError("reset", never_processed=True),
    DecodeError("cut short"),
    DeadlineExceeded("connecting", 1.5),
    ClientClosed("the client is closed"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_copy_keeps_everything_and_shares_no_notes(error: RongCloudError) -> None:
    cause, context = OSError("cause"), KeyError("context")
    try:
        raise copy.copy(error) from cause
    except RongCloudError as raised:
        original = raised
    original.__context__ = context
    original.add_note("first")

    copied = copy.copy(original)
    copied.add_note("second")

    assert type(copied) is type(error)
    assert copied is not original
    assert (str(copied), copied.args) == (str(original), original.args)
    assert {**copied.__dict__, "__notes__": None} == {**original.__dict__, "__notes__": None}
    assert (copied.__cause__, copied.__context__, copied.__suppress_context__) == (cause, context, True)
    assert copied.__traceback__ is original.__traceback__ is not None
    assert (original.__notes__, copied.__notes__) == (["first"], ["first", "second"])
    assert str(pickle.loads(pickle.dumps(copied))) == str(original)  # noqa: S301  our own


def test_the_errors_of_a_lookup_are_raised_with_their_causes_and_notes() -> None:
    error = TransportError("connecting failed")
    error.__cause__ = OSError("refused")
    error.add_note("from the pool")
    lookup = Lookup(failed={"g1": error, "g2": error})

    with pytest.raises(ExceptionGroup) as caught:
        lookup.raise_for_failures()

    assert [each.__cause__ for each in caught.value.exceptions] == [error.__cause__] * 2
    assert [each.__notes__ for each in caught.value.exceptions] == [
        ["from the pool", "group ID 'g1'"],
        ["from the pool", "group ID 'g2'"],
    ]
    assert error.__notes__ == ["from the pool"]


class Broken:
    def __repr__(self) -> str:
        raise AttributeError("half-made")


def test_an_id_whose_repr_fails_is_still_named() -> None:
    assert "Broken object at" in str(InvalidGroupId(Broken(), "it must be a str, not Broken"))


# Actions and hints


@pytest.mark.parametrize(("status", "action"), [(408, "retry"), (425, "retry"), (421, "reconnect")])
@pytest.mark.parametrize("code", [None, 7777])
def test_a_status_that_may_go_away_is_retried(status: int, action: str, code: int | None) -> None:
    row = error_code_for(code, status)
    error = row.error(code or status, status, "try later", "r1", row.hint)

    assert action_for(error) == action
    assert action in RETRIED


@pytest.mark.parametrize("error", EXAMPLES[3:7], ids=lambda error: type(error).__name__)
def test_an_error_that_a_request_may_end_in_has_a_hint(error: RongCloudError) -> None:
    assert hint_for(error)


def test_each_error_class_of_the_service_is_in_the_table() -> None:
    kinds = {row.error for row in [*CODES.values(), *STATUSES.values()]}

    assert kinds == {errors.ServiceError, *errors.ServiceError.__subclasses__()}


# IDs that are not plain strings


class Color(str, Enum):  # noqa: UP042  unlike StrEnum, it prints its name
    RED = "red-group"


class Shouting(str):
    """As numpy.str_, a str that prints, hashes and compares in its own way."""

    __slots__ = ()

    def __str__(self) -> str:
        return "SHOUTED"

    def __repr__(self) -> str:
        return "Shouting()"

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return False


@pytest.mark.parametrize(("value", "plain"), [(Color.RED, "red-group"), (Shouting("g1"), "g1"), ("g1", "g1")])
def test_an_id_of_a_subclass_of_str_becomes_a_plain_one(value: str, plain: str) -> None:
    valid = validated_group_id(value)

    assert type(valid) is str
    assert valid == plain


def test_an_id_of_a_subclass_is_refused_as_a_plain_one_is() -> None:
    with pytest.raises(InvalidGroupId, match="comma"):
        validated_group_id(Shouting("a,b"))

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rongcloud_groups._protocol.dialects import DIALECTS, dialect
from rongcloud_groups.config import REGIONS, DialectName, Region
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.models import (
    GroupProfile,
    InvitePerm,
    JoinPerm,
    ListedGroup,
    MemProfilePerm,
    Permissions,
    Problem,
    RolePerm,
)

ENUMS = (JoinPerm, RolePerm, InvitePerm, MemProfilePerm)

utf8 = st.text(st.characters(codec="utf-8"))
numbers = st.integers(-(2**63), 2**64 - 1)
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
moments = st.integers(0, (LAST - FIRST) // timedelta(milliseconds=1)).map(lambda ms: FIRST + timedelta(milliseconds=ms))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | utf8,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(utf8, inner, max_size=3),
    max_leaves=8,
)
permissions = st.builds(
    Permissions,
    join_perm=numbers.map(JoinPerm),
    remove_perm=numbers.map(RolePerm),
    mem_invite_perm=numbers.map(RolePerm),
    invite_perm=numbers.map(InvitePerm),
    profile_perm=numbers.map(RolePerm),
    mem_profile_perm=numbers.map(MemProfilePerm),
)
problems = st.lists(st.builds(Problem, utf8, utf8, utf8), max_size=3).map(tuple)
shared = {
    "group_id": utf8,
    "group_name": st.none() | utf8,
    "owner": st.none() | utf8,
    "create_time": st.none() | moments,
    "introduction": st.none() | utf8,
    "announcement": st.none() | utf8,
    "portrait_url": st.none() | utf8,
    "problems": problems,
    "extra": st.dictionaries(utf8, json_values, max_size=3),
}
profiles = st.builds(
    GroupProfile,
    **shared,
    member_count=st.none() | st.integers(),
    ext_profile=st.dictionaries(utf8, utf8, max_size=3),
    permissions=permissions,
)
listed = st.builds(ListedGroup, **shared, creator=st.none() | utf8)


@given(profiles)
def test_a_profile_survives_json(profile: GroupProfile) -> None:
    again = msgspec.json.decode(msgspec.json.encode(profile), type=GroupProfile)

    assert again == profile
    assert type(again.permissions.join_perm) is JoinPerm


@given(listed)
def test_a_listed_group_survives_json(group: ListedGroup) -> None:
    assert msgspec.json.decode(msgspec.json.encode(group), type=ListedGroup) == group


@given(profiles)
def test_a_profile_survives_pickle_and_copies(profile: GroupProfile) -> None:
    assert pickle.loads(pickle.dumps(profile)) == profile  # noqa: S301  our own bytes
    assert copy.copy(profile) == profile
    assert copy.deepcopy(profile) == profile


def test_a_profile_and_its_parts_cannot_be_changed() -> None:
    profile = GroupProfile(group_id="g1")

    with pytest.raises(AttributeError):
        profile.group_name = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        profile.permissions.join_perm = JoinPerm.CLOSED  # type: ignore[misc]


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda empty: empty.__setitem__("key", "value"),
    lambda empty: empty.setdefault("key", "value"),
    lambda empty: empty.update(key="value"),
    lambda empty: empty.__ior__({"key": "value"}),
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_empty_dict_that_profiles_share_cannot_be_changed(change: Callable[[dict[str, Any]], object]) -> None:
    one, other = GroupProfile(group_id="1"), GroupProfile(group_id="2")
    assert one.extra is one.ext_profile is other.extra

    with pytest.raises(TypeError, match="change a copy of it"):
        change(one.extra)

    assert other.extra == {}
    assert {**one.extra, "key": 1} == dict(one.extra) | {"key": 1} == one.extra.copy() | {"key": 1} == {"key": 1}


def test_the_empty_dict_is_the_same_after_a_copy_and_a_pickle() -> None:
    profile = GroupProfile(group_id="1")
    for again in (copy.deepcopy(profile), pickle.loads(pickle.dumps(profile)), copy.copy(profile)):  # noqa: S301  our own
        assert again == profile
        assert again.extra is profile.extra
    assert isinstance(profile.extra, dict)
    assert json.dumps(profile.extra) == repr(profile.extra) == "{}"


def test_an_absent_permission_is_the_documented_zero() -> None:
    assert msgspec.json.decode(b"{}", type=Permissions) == Permissions()
    assert [int(getattr(Permissions(), field)) for field in Permissions.__struct_fields__] == [0] * 6


def test_the_documented_numbers_have_their_names() -> None:
    assert [member.name for member in JoinPerm] == [
        "OWNER_APPROVES",
        "NOBODY_APPROVES",
        "OWNER_OR_ADMIN_APPROVES",
        "CLOSED",
    ]
    assert [member.name for member in RolePerm] == ["OWNER", "OWNER_AND_ADMINS", "ALL_MEMBERS"]
    assert [member.name for member in InvitePerm] == ["NO_CONFIRMATION", "CONFIRMATION"]
    assert [member.name for member in MemProfilePerm] == ["OWNER_ADMINS_AND_SELF", "OWNER_AND_SELF", "SELF_ONLY"]


@pytest.mark.parametrize("kind", ENUMS)
@pytest.mark.parametrize("number", [-1, 7, 2**64 - 1])
def test_an_unknown_number_is_kept(kind: type[IntEnum], number: int) -> None:
    member = kind(number)

    assert (member, member.value, member.name) == (number, number, f"UNKNOWN_{number}")
    assert member == kind(number)
    assert hash(member) == hash(kind(number))
    assert number not in [each.value for each in kind]
    assert type(pickle.loads(pickle.dumps(member))) is kind  # noqa: S301  our own bytes
    assert copy.deepcopy(member) == member
    assert msgspec.json.decode(msgspec.json.encode(member), type=kind) == number


@pytest.mark.parametrize("kind", ENUMS)
def test_a_value_that_is_no_integer_is_no_permission(kind: type[IntEnum]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'"7"', type=kind)
    with pytest.raises(ValueError, match="is not a valid"):
        kind(7.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_is_found_by_its_name(name: str) -> None:
    assert dialect(name).name == name


@pytest.mark.parametrize("name", ["v4", "", None, []])
def test_an_unknown_dialect_is_an_error_that_lists_the_known_ones(name: Any) -> None:
    with pytest.raises(ConfigError, match="rongcloud, nexconn"):
        dialect(name)


def test_the_names_that_types_allow_are_those_that_exist() -> None:
    assert list(get_args(Region)) == list(REGIONS)
    assert list(get_args(DialectName)) == list(DIALECTS)

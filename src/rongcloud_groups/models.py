"""The service's data of a group, as frozen values.

Every type here goes through ``msgspec.json.encode`` and ``msgspec.json.decode`` without loss. The garbage collector
ignores them: JSON has no cycles, and a program may hold millions.
"""

from datetime import datetime
from enum import IntEnum
from typing import Any, Final, Self

from msgspec import Struct, convert, json, to_builtins


class _OpenIntEnum(IntEnum):
    """An IntEnum that keeps a number it has no name for, as a member called ``UNKNOWN_<number>``."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if type(value) is not int:
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member


class JoinPerm(_OpenIntEnum):
    """Who approves a request to join the group (``joinPerm``)."""

    OWNER_APPROVES = 0
    NOBODY_APPROVES = 1
    """A request to join succeeds at once."""
    OWNER_OR_ADMIN_APPROVES = 2
    CLOSED = 3
    """No request to join is taken."""


class RolePerm(_OpenIntEnum):
    """The members who may do something in the group (``removePerm``, ``memInvitePerm``, ``profilePerm``)."""

    OWNER = 0
    OWNER_AND_ADMINS = 1
    ALL_MEMBERS = 2


class InvitePerm(_OpenIntEnum):
    """Whether an invited user must agree (``invitePerm``)."""

    NO_CONFIRMATION = 0
    CONFIRMATION = 1


class MemProfilePerm(_OpenIntEnum):
    """The members who may change a member's data in the group (``memProfilePerm``)."""

    OWNER_ADMINS_AND_SELF = 0
    OWNER_AND_SELF = 1
    SELF_ONLY = 2


class _EmptyDict(dict[str, Any]):
    """An empty dict that stays empty, so that all values may share it: each of a million would take 64 bytes."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("this empty dict is shared by many profiles: change a copy of it, dict(…)")

    __setitem__ = setdefault = update = __ior__ = _refuse

    def __reduce__(self) -> str:
        return "EMPTY"  # the one there is


EMPTY: Final = _EmptyDict()
"""Stands for ``{}`` in every value."""


class _Value(Struct, frozen=True, kw_only=True, gc=False):
    """A struct that Pydantic, and so FastAPI, takes as a type: it validates, serializes and has a JSON schema."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Self], handler: object) -> Any:
        from pydantic_core import core_schema  # its caller has it

        return core_schema.no_info_plain_validator_function(
            lambda value: convert(value, cls, from_attributes=True),
            serialization=core_schema.plain_serializer_function_ser_schema(to_builtins),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: object, handler: object) -> dict[str, Any]:
        (_, components) = json.schema_components([cls], ref_template="{name}")
        resolved: dict[str, Any] = _inline(components[cls.__name__], components)
        return resolved


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    """The schema without references, which the schema of an application would not resolve."""
    if isinstance(schema, list):
        return [_inline(each, components) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(components[schema["$ref"]], components)
    return {key: _inline(value, components) for key, value in schema.items()}


class Permissions(_Value, frozen=True, kw_only=True, gc=False):
    """A group's permissions, as the service's page on hosted groups defines them.

    A permission that the service leaves out has its documented default, 0.

    Attributes:
        join_perm: who approves a request to join.
        remove_perm: who may remove a member.
        mem_invite_perm: who may invite.
        invite_perm: whether an invited user must agree.
        profile_perm: who may change the group's profile.
        mem_profile_perm: who may change a member's data in the group.
    """

    join_perm: JoinPerm = JoinPerm.OWNER_APPROVES
    remove_perm: RolePerm = RolePerm.OWNER
    mem_invite_perm: RolePerm = RolePerm.OWNER
    invite_perm: InvitePerm = InvitePerm.NO_CONFIRMATION
    profile_perm: RolePerm = RolePerm.OWNER
    mem_profile_perm: MemProfilePerm = MemProfilePerm.OWNER_ADMINS_AND_SELF


DEFAULT_PERMISSIONS = Permissions()
"""The permissions of a group for which the service sends none."""


class Problem(Struct, frozen=True):
    """One thing in a profile that could not be read.

    Attributes:
        field: the service's key, inside a nested object after a dot: ``groupProfile.introduction``.
        reason: the fault.
        raw: the JSON text that the service sent for it.
    """

    field: str
    reason: str
    raw: str


class GroupProfile(_Value, frozen=True, kw_only=True, gc=False):
    """The profile of one group.

    The lengths are the limits in the service's documentation; they are not checked here.

    Attributes:
        group_id: the group's ID, 1 to 64 characters.
        group_name: its name, at most 64 characters.
        owner: the user ID of its owner.
        create_time: when it was created: aware, UTC, to the millisecond.
        member_count: how many members it has.
        introduction: at most 512 characters.
        announcement: at most 1,024 characters.
        portrait_url: at most 128 characters.
        ext_profile: the app's own attributes; the keys start with ``ext_``. Where there are none, it is an empty dict
            that many profiles share and that cannot be changed; so is ``extra``.
        permissions: the members who may do each thing.
        problems: the values of this profile that could not be read; almost always empty. Such a field is
            None, or has its default.
        extra: keys that this library does not know, and their values; those inside a nested object
            are under that object's key, such as ``groupProfile``.
    """

    group_id: str
    group_name: str | None = None
    owner: str | None = None
    create_time: datetime | None = None
    member_count: int | None = None
    introduction: str | None = None
    announcement: str | None = None
    portrait_url: str | None = None
    ext_profile: dict[str, str] = EMPTY
    permissions: Permissions = DEFAULT_PERMISSIONS
    problems: tuple[Problem, ...] = ()
    extra: dict[str, Any] = EMPTY


class ListedGroup(_Value, frozen=True, kw_only=True, gc=False):
    """One group as the listing of an app's groups gives it: without permissions, attributes and member count.

    Attributes:
        creator: the user ID of its creator; the others are as in `GroupProfile`.
    """

    group_id: str
    group_name: str | None = None
    creator: str | None = None
    owner: str | None = None
    create_time: datetime | None = None
    introduction: str | None = None
    announcement: str | None = None
    portrait_url: str | None = None
    problems: tuple[Problem, ...] = ()
    extra: dict[str, Any] = EMPTY

"""Profiles and listed groups out of JSON: the documented shape fast, anything near it leniently.

An answer of exactly the documented shape is decoded by msgspec into prepared types, all profiles at once. Where one
profile has another shape, each is decoded so by itself, and that one is read member by member, so that what cannot be
read costs no more than itself. All ways give equal results.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from rongcloud_groups._protocol.dialects import Dialect
from rongcloud_groups._protocol.lenient import UNREADABLE, FieldReader
from rongcloud_groups.models import (
    DEFAULT_PERMISSIONS,
    GroupProfile,
    InvitePerm,
    JoinPerm,
    ListedGroup,
    MemProfilePerm,
    Permissions,
    RolePerm,
)


@cache
def answer_reader(dialect: Dialect) -> Callable[[bytes], list[GroupProfile] | None]:
    """What reads the body of a successful answer; it gives None for one that isn't of exactly the documented shape."""
    strict = msgspec.json.Decoder(_documented_answer(dialect))
    envelope = dialect.envelope

    def read(body: bytes) -> list[GroupProfile] | None:
        try:
            answer: Any = strict.decode(body)
            data = answer if envelope is None else answer.data
            return _profiles_of(data.profiles)
        except UNREADABLE:
            return None

    return read


@cache
def profile_reader(dialect: Dialect) -> Callable[[Raw], GroupProfile | None]:
    """What reads one entry of a reply's profiles; it gives None for one whose group ID cannot be read."""
    strict = msgspec.json.Decoder(_documented_profile(dialect))

    def read(entry: Raw) -> GroupProfile | None:
        try:
            return _profiles_of([strict.decode(entry)])[0]
        except UNREADABLE:
            return lenient_profile(dialect, entry)

    return read


# The documented shape


class _Basics(Struct, forbid_unknown_fields=True, rename="camel", gc=False):
    introduction: str | None = None
    announcement: str | None = None
    portrait_url: str | None = None


class _Permissions(Struct, forbid_unknown_fields=True, rename="camel", gc=False):
    join_perm: JoinPerm = JoinPerm.OWNER_APPROVES
    remove_perm: RolePerm = RolePerm.OWNER
    mem_invite_perm: RolePerm = RolePerm.OWNER
    invite_perm: InvitePerm = InvitePerm.NO_CONFIRMATION
    profile_perm: RolePerm = RolePerm.OWNER
    mem_profile_perm: MemProfilePerm = MemProfilePerm.OWNER_ADMINS_AND_SELF


_LONGEST_REMEMBERED: Final = 256
_NO_BASICS: Final = _Basics()
_BEYOND_EXACT: Final = 2**42
"""Milliseconds since 1970, in 2109, from which on a float of seconds is not exact to the microsecond."""
_basics_in: Final = msgspec.json.Decoder(_Basics).decode
_attributes_in: Final = msgspec.json.Decoder(dict[str, str]).decode
_PERMISSIONS: Final = msgspec.json.Decoder(_Permissions)


def _documented_answer(dialect: Dialect) -> type[Struct]:
    code = ("code", Literal[dialect.success_code])
    profiles = ("profiles", list[_documented_profile(dialect)])  # type: ignore[misc]  # a type that is made here
    if dialect.envelope is None:
        return msgspec.defstruct("_DocumentedAnswer", [code, profiles])
    data = msgspec.defstruct("_DocumentedData", [profiles])
    return msgspec.defstruct("_DocumentedAnswer", [code, ("data", data)], rename={"data": dialect.envelope})


def _documented_profile(dialect: Dialect) -> type[Struct]:
    return msgspec.defstruct(
        "_DocumentedProfile",
        [
            ("group_id", Annotated[str, Meta(min_length=1)]),
            ("group_name", str | None, None),
            ("owner", str | None, None),
            ("create_time", Annotated[int, Meta(ge=0, lt=_BEYOND_EXACT)] | None, None),
            ("member_count", Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None, None),
            ("basics", str | _Basics | None, None),
            ("attributes", str | dict[str, str] | None, None),
            ("permissions", Annotated[str, Meta(max_length=_LONGEST_REMEMBERED)] | _Permissions | None, None),
        ],
        rename={
            "group_id": dialect.group_id_key,
            "group_name": dialect.group_name_keys[0],
            "create_time": dialect.create_time_key,
            "member_count": "memberCount",
            "basics": "groupProfile",
            "attributes": "groupExtProfile",
        },
        forbid_unknown_fields=True,
        gc=False,  # it is gone in a moment, and has no cycles
    )


def _profiles_of(documented: Sequence[Any]) -> list[GroupProfile]:
    """All of them in one loop, which takes less time than a call for each."""
    profiles = []
    for read, create_time in zip(documented, _create_times(documented), strict=True):
        basics, attributes, permissions = read.basics, read.attributes, read.permissions
        if basics.__class__ is str:
            basics = _basics_in(basics) if basics else None
        if attributes.__class__ is str:
            attributes = _attributes_in(attributes) if attributes else None
        if permissions.__class__ is str:
            permissions = _permissions_in(permissions) if permissions else DEFAULT_PERMISSIONS
        elif permissions is not None:
            permissions = _public_permissions(permissions)
        basics = basics or _NO_BASICS
        profiles.append(
            GroupProfile(
                group_id=read.group_id,
                group_name=read.group_name,
                owner=read.owner,
                create_time=create_time,
                member_count=read.member_count,
                introduction=basics.introduction,
                announcement=basics.announcement,
                portrait_url=basics.portrait_url,
                ext_profile=attributes or {},
                permissions=permissions or DEFAULT_PERMISSIONS,
            )
        )
    return profiles


def _create_times(documented: Sequence[Any]) -> list[datetime | None]:
    seconds = [None if (time := read.create_time) is None else time / 1000 for read in documented]
    return msgspec.convert(seconds, list[datetime | None], strict=False)


@lru_cache(maxsize=1024)  # many groups have the same few
def _permissions_in(text: str) -> Permissions:
    return _public_permissions(_PERMISSIONS.decode(text))


def _public_permissions(read: _Permissions) -> Permissions:
    return Permissions(
        join_perm=read.join_perm,
        remove_perm=read.remove_perm,
        mem_invite_perm=read.mem_invite_perm,
        invite_perm=read.invite_perm,
        profile_perm=read.profile_perm,
        mem_profile_perm=read.mem_profile_perm,
    )


# Anything near it


def lenient_profile(dialect: Dialect, entry: Raw) -> GroupProfile | None:
    """The profile in an entry of any shape; None where its group ID cannot be read."""
    fields = FieldReader.of(entry)
    if (group_id := fields.group_id(dialect.group_id_key)) is None:
        return None
    nested, attributes = fields.object("groupProfile"), fields.object("groupExtProfile")
    permissions = fields.object("permissions")
    basics = _basics(nested, fields)
    return GroupProfile(
        group_id=group_id,
        group_name=fields.text(*dialect.group_name_keys),
        owner=fields.text("owner"),
        create_time=fields.moment(dialect.create_time_key),
        member_count=fields.integer("memberCount"),
        introduction=basics.introduction,
        announcement=basics.announcement,
        portrait_url=basics.portrait_url,
        ext_profile=attributes.all_texts(),
        permissions=Permissions(
            join_perm=permissions.choice("joinPerm", JoinPerm),
            remove_perm=permissions.choice("removePerm", RolePerm),
            mem_invite_perm=permissions.choice("memInvitePerm", RolePerm),
            invite_perm=permissions.choice("invitePerm", InvitePerm),
            profile_perm=permissions.choice("profilePerm", RolePerm),
            mem_profile_perm=permissions.choice("memProfilePerm", MemProfilePerm),
        ),
        extra=_extra(fields, groupProfile=nested, permissions=permissions),
        problems=tuple(fields.problems),  # the last, when all else has been read
    )


def listed_group(dialect: Dialect, entry: Raw) -> ListedGroup | None:
    """The group in an entry of the listing; None where its group ID cannot be read."""
    fields = FieldReader.of(entry)
    if (group_id := fields.group_id(dialect.group_id_key)) is None:
        return None
    nested = fields.object(*dialect.listed_profile_keys)
    basics = _basics(nested, fields)
    return ListedGroup(
        group_id=group_id,
        group_name=fields.text("name", "groupName"),
        creator=fields.text("creator"),
        owner=fields.text("owner"),
        create_time=fields.moment(*dialect.listed_time_keys),
        introduction=basics.introduction,
        announcement=basics.announcement,
        portrait_url=basics.portrait_url,
        extra=_extra(fields, groupProfile=nested),
        problems=tuple(fields.problems),  # the last, when all else has been read
    )


def _basics(nested: FieldReader, fields: FieldReader) -> _Basics:
    """The texts of ``groupProfile``, or those beside it, where one documented example has them."""

    def text(*keys: str) -> str | None:
        inner = nested.text(*keys)
        return fields.text(*keys) if inner is None else inner

    return _Basics(text("introduction"), text("announcement"), text("portraitUrl", "portrait_url"))


def _extra(fields: FieldReader, **nested: FieldReader) -> dict[str, Any]:
    return fields.rest() | {key: rest for key, each in nested.items() if (rest := each.rest())}

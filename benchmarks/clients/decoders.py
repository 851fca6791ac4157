"""The ways to read a response that `decoding.py` measures; each is what a user of that library would write."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson  # type: ignore[import-not-found,unused-ignore]  # in the environment of field_environment.py
from benchmarks.servers.realistic_profiles import DialectName, reply
from pydantic import BaseModel, ConfigDict, Field, Json  # type: ignore[import-not-found,unused-ignore]  # in the field's environment
from pydantic.alias_generators import to_camel  # type: ignore[import-not-found,unused-ignore]  # in the field's environment

from rongcloud_groups import GroupProfile, InvitePerm, JoinPerm, MemProfilePerm, RolePerm
from rongcloud_groups._http import Response
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.dialects import NEXCONN, RONGCLOUD, Dialect
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups._protocol.signing import Credentials

GROUP_IDS = [f"group-{number:06}" for number in range(50)]
NESTED = ("groupProfile", "groupExtProfile", "permissions")
CREDENTIALS = Credentials("key1", Secret("secret1"))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def decoders() -> dict[str, Callable[[], object]]:
    """By name; all but the last read the response in RongCloud's dialect."""
    body = body_in("rongcloud")
    ways: dict[str, Callable[[], object]] = {
        "rongcloud-groups": lambda: ours(RONGCLOUD, body),
        "json, plain dicts": lambda: plain(json.loads, body),
        "orjson, plain dicts": lambda: plain(orjson.loads, body),
        "json, dataclasses": lambda: typed(json.loads, body),
        "orjson, dataclasses": lambda: typed(orjson.loads, body),
        "pydantic, models": lambda: pydantic_models(body),
    }
    expected = ours(RONGCLOUD, body)
    for name in ("json, dataclasses", "pydantic, models"):
        assert as_ours(ways[name]()) == expected, name
    nexconn = body_in("nexconn")
    return ways | {"rongcloud-groups, v4": lambda: ours(NEXCONN, nexconn)}


def body_in(dialect: DialectName) -> bytes:
    return reply(dialect, GROUP_IDS)


def ours(dialect: Dialect, body: bytes) -> dict[str, GroupProfile]:
    api = ServiceApi(dialect, CREDENTIALS)
    return api.read_batch(Response(200, {"content-type": "application/json"}, body), GROUP_IDS).found


# Plain dicts: nothing is checked, times and permissions stay numbers


def plain(loads: Callable[[bytes | str], Any], body: bytes) -> dict[str, dict[str, Any]]:
    answer = loads(body)
    assert answer["code"] == 200
    for profile in answer["profiles"]:
        for key in NESTED:
            if text := profile.get(key):
                profile[key] = loads(text)
    return {profile["groupId"]: profile for profile in answer["profiles"]}


# Dataclasses: the same types as ours, each value checked where its conversion does so


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    join_perm: JoinPerm
    remove_perm: RolePerm
    mem_invite_perm: RolePerm
    invite_perm: InvitePerm
    profile_perm: RolePerm
    mem_profile_perm: MemProfilePerm


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    group_id: str
    group_name: str | None
    owner: str | None
    create_time: datetime | None
    member_count: int | None
    introduction: str | None
    announcement: str | None
    portrait_url: str | None
    ext_profile: dict[str, str]
    permissions: Permissions


def typed(loads: Callable[[bytes | str], Any], body: bytes) -> dict[str, Profile]:
    answer = loads(body)
    assert answer["code"] == 200
    profiles = (typed_profile(loads, profile) for profile in answer["profiles"])
    return {profile.group_id: profile for profile in profiles}


def typed_profile(loads: Callable[[bytes | str], Any], profile: dict[str, Any]) -> Profile:
    basics, attributes, permissions = (loads(profile.get(key) or "{}") for key in NESTED)
    created = profile.get("createTime")
    return Profile(
        group_id=checked_text(profile["groupId"]) or "",
        group_name=checked_text(profile.get("groupName")),
        owner=checked_text(profile.get("owner")),
        create_time=None if created is None else EPOCH + timedelta(milliseconds=created),
        member_count=int(profile["memberCount"]) if "memberCount" in profile else None,
        introduction=checked_text(basics.get("introduction")),
        announcement=checked_text(basics.get("announcement")),
        portrait_url=checked_text(basics.get("portraitUrl")),
        ext_profile={key: checked_text(value) or "" for key, value in attributes.items()},
        permissions=Permissions(
            join_perm=JoinPerm(permissions.get("joinPerm", 0)),
            remove_perm=RolePerm(permissions.get("removePerm", 0)),
            mem_invite_perm=RolePerm(permissions.get("memInvitePerm", 0)),
            invite_perm=InvitePerm(permissions.get("invitePerm", 0)),
            profile_perm=RolePerm(permissions.get("profilePerm", 0)),
            mem_profile_perm=MemProfilePerm(permissions.get("memProfilePerm", 0)),
        ),
    )


def checked_text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(value)
    return value


# pydantic: its models, its `Json` for the nested texts


class Model(BaseModel):  # type: ignore[misc,unused-ignore]  # not there where the types are checked
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class BasicsModel(Model):
    introduction: str | None = None
    announcement: str | None = None
    portrait_url: str | None = None


class PermissionsModel(Model):
    join_perm: JoinPerm = JoinPerm.OWNER_APPROVES
    remove_perm: RolePerm = RolePerm.OWNER
    mem_invite_perm: RolePerm = RolePerm.OWNER
    invite_perm: InvitePerm = InvitePerm.NO_CONFIRMATION
    profile_perm: RolePerm = RolePerm.OWNER
    mem_profile_perm: MemProfilePerm = MemProfilePerm.OWNER_ADMINS_AND_SELF


class ProfileModel(Model):
    group_id: str
    group_name: str | None = None
    owner: str | None = None
    create_time: datetime | None = None  # pydantic takes a number this large for milliseconds
    member_count: int | None = None
    group_profile: Json[BasicsModel] = BasicsModel()
    group_ext_profile: Json[dict[str, str]] = Field(default_factory=dict)
    permissions: Json[PermissionsModel] = PermissionsModel()


class AnswerModel(Model):
    code: int
    profiles: list[ProfileModel]


def pydantic_models(body: bytes) -> dict[str, ProfileModel]:
    return {profile.group_id: profile for profile in AnswerModel.model_validate_json(body).profiles}


def as_ours(profiles: Any) -> dict[str, GroupProfile]:
    """The dataclasses or the models as our profiles, to see that they hold the same."""
    from rongcloud_groups import Permissions as OurPermissions

    def of(profile: Any) -> GroupProfile:
        basics = getattr(profile, "group_profile", profile)
        attributes = profile.group_ext_profile if basics is not profile else profile.ext_profile
        return GroupProfile(
            group_id=profile.group_id,
            group_name=profile.group_name,
            owner=profile.owner,
            create_time=profile.create_time,
            member_count=profile.member_count,
            introduction=basics.introduction,
            announcement=basics.announcement,
            portrait_url=basics.portrait_url,
            ext_profile=attributes,
            permissions=OurPermissions(
                **{name: getattr(profile.permissions, name) for name in OurPermissions.__struct_fields__}
            ),
        )

    return {group_id: of(profile) for group_id, profile in profiles.items()}

"""The differences between the service's two interfaces, as one table each; everything else is shared."""

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from rongcloud_groups.errors import ConfigError

Paths = tuple[str, ...]
"""The keys that a field may have, the documented one first; ``outer.inner`` is a key in a nested object."""


class Dialect(Struct, frozen=True, kw_only=True, eq=False):
    """One of the service's interfaces, as its documentation and its SDKs show it."""

    name: Literal["rongcloud", "nexconn"]
    content_type: Literal["application/json", "application/x-www-form-urlencoded"]
    """Of a request; a form repeats the key of a list."""
    success_code: int
    envelope: str | None
    """The key of the object that holds the data; None where they stand beside ``code``."""
    batch_path: str
    group_ids_key: str
    profile: Mapping[str, Paths]
    """The keys of each field of `GroupProfile`."""
    listing_path: str
    page_size_key: str
    listed_group: Mapping[str, Paths]
    """The keys of each field of `ListedGroup`."""

    @property
    def other(self) -> "Dialect":
        """The other one of the two."""
        return NEXCONN if self.name == "rongcloud" else RONGCLOUD

    @property
    def switch(self) -> str:
        """The settings that choose it."""
        return f"dialect={self.name!r} (RONGCLOUD_DIALECT={self.name})"


def _texts(*objects: str) -> dict[str, Paths]:
    """The keys of the group's texts, in one of the objects, or beside it, as in one example on the service's pages."""
    keys = {"introduction": ["introduction"], "announcement": ["announcement"]}
    keys["portrait_url"] = ["portraitUrl", "portrait_url"]
    places = (*(f"{each}." for each in objects), "")
    return {field: tuple(place + key for place in places for key in names) for field, names in keys.items()}


RONGCLOUD: Final = Dialect(
    name="rongcloud",
    content_type="application/x-www-form-urlencoded",
    success_code=200,
    envelope=None,
    batch_path="/entrust/group/profile/query.json",
    group_ids_key="groupIds",
    profile={
        "group_id": ("groupId",),
        "group_name": ("groupName", "name"),  # the English page says groupName, the Chinese one name
        "owner": ("owner",),
        "create_time": ("createTime",),
        "member_count": ("memberCount",),
        **_texts("groupProfile"),
        "ext_profile": ("groupExtProfile",),
        "permissions": ("permissions",),
    },
    listing_path="/entrust/group/query.json",
    page_size_key="size",
    listed_group={
        "group_id": ("groupId",),
        "group_name": ("name", "groupName"),
        "creator": ("creator",),
        "owner": ("owner",),
        "create_time": ("time", "createTime"),
        **_texts("groupProfile"),
    },
)

NEXCONN: Final = Dialect(
    name="nexconn",
    content_type="application/json",
    success_code=0,
    envelope="result",
    batch_path="/v4/group-channel/profile/list",
    group_ids_key="channelIds",
    profile={
        "group_id": ("channelId",),
        "group_name": ("name",),
        "owner": ("owner",),
        "create_time": ("createdAt",),
        "member_count": ("memberCount",),
        **_texts("groupProfile"),
        "ext_profile": ("groupExtProfile",),
        "permissions": ("permissions",),
    },
    listing_path="/v4/group-channel/list",
    page_size_key="pageSize",
    listed_group={
        "group_id": ("channelId",),
        "group_name": ("name", "groupName"),
        "creator": ("creator",),
        "owner": ("owner",),
        "create_time": ("createdAt",),
        **_texts("groupProfile", "profile"),  # the SDK says groupProfile, the page's example profile
    },
)

DIALECTS: Final[Mapping[str, Dialect]] = {each.name: each for each in (RONGCLOUD, NEXCONN)}


def dialect(name: str) -> Dialect:
    """The dialect of that name; a ConfigError lists the names."""
    try:
        return DIALECTS[name]
    except (KeyError, TypeError):
        raise ConfigError(f"dialect {name!r} is not known; the dialects are {', '.join(DIALECTS)}") from None

"""What differs between the service's two interfaces; everything else is shared."""

from typing import Literal

from msgspec import Struct

from rongcloud_groups.errors import ConfigError

DialectName = Literal["rongcloud", "nexconn"]


class Dialect(Struct, frozen=True, kw_only=True):
    """One of the service's interfaces, as its documentation and its SDKs show it.

    Attributes:
        name: what ``dialect=`` and ``RONGCLOUD_DIALECT`` call it.
        encoding: how a request's parameters are written: a form, where a list repeats its key, or JSON.
        success_code: the ``code`` of an answer that is not an error.
        envelope: the key of the object that holds the data; None where they stand beside ``code``.
        batch_path: where group profiles are asked for.
        group_ids_key: the parameter that names the groups.
        group_id_key: the key of a group's ID.
        group_name_keys: the keys that a group's name may have, the usual one first.
        create_time_key: the key of a profile's creation time, in milliseconds.
        listing_path: where an app's groups are listed.
        page_size_key: the parameter for the size of a page.
        listed_time_keys: the keys that the creation time may have in the listing.
        listed_profile_keys: the keys that ``groupProfile`` may have in the listing.
    """

    name: DialectName
    encoding: Literal["form", "json"]
    success_code: int
    envelope: str | None
    batch_path: str
    group_ids_key: str
    group_id_key: str
    group_name_keys: tuple[str, ...]
    create_time_key: str
    listing_path: str
    page_size_key: str
    listed_time_keys: tuple[str, ...]
    listed_profile_keys: tuple[str, ...]

    @property
    def content_type(self) -> str:
        """The ``Content-Type`` of a request."""
        return "application/json" if self.encoding == "json" else "application/x-www-form-urlencoded"

    @property
    def other(self) -> "Dialect":
        """The one of the two that this is not."""
        return NEXCONN if self.name == "rongcloud" else RONGCLOUD

    @property
    def switch(self) -> str:
        """How it is chosen."""
        return f"dialect={self.name!r} (RONGCLOUD_DIALECT={self.name})"


RONGCLOUD = Dialect(
    name="rongcloud",
    encoding="form",
    success_code=200,
    envelope=None,
    batch_path="/entrust/group/profile/query.json",
    group_ids_key="groupIds",
    group_id_key="groupId",
    group_name_keys=("groupName", "name"),  # the English page says groupName, the Chinese one name
    create_time_key="createTime",
    listing_path="/entrust/group/query.json",
    page_size_key="size",
    listed_time_keys=("time", "createTime"),
    listed_profile_keys=("groupProfile",),
)

NEXCONN = Dialect(
    name="nexconn",
    encoding="json",
    success_code=0,
    envelope="result",
    batch_path="/v4/group-channel/profile/list",
    group_ids_key="channelIds",
    group_id_key="channelId",
    group_name_keys=("name",),
    create_time_key="createdAt",
    listing_path="/v4/group-channel/list",
    page_size_key="pageSize",
    listed_time_keys=("createdAt",),
    listed_profile_keys=("groupProfile", "profile"),  # the SDK says groupProfile, the page's example profile
)

DIALECTS: dict[str, Dialect] = {each.name: each for each in (RONGCLOUD, NEXCONN)}


def dialect(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        ConfigError: there is none; the message lists the names.
    """
    try:
        return DIALECTS[name]
    except (KeyError, TypeError):
        raise ConfigError(f"dialect {name!r} is not known; the dialects are {', '.join(DIALECTS)}") from None

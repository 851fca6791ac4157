"""How groups look in a response: RongCloud v1 and Nexconn v4."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from rongcloud_groups.emulator.groups import NESTED, Group, Part
from rongcloud_groups.emulator.requests import Version

Nested = Literal["strings", "objects"]

_V4_NAMES = {"groupId": "channelId", "groupName": "name", "createTime": "createdAt"}
_LISTED_NAMES = {
    1: {"groupId": "groupId", "groupName": "name", "owner": "owner", "createTime": "time"},
    4: {"groupId": "channelId", "groupName": "name", "owner": "owner", "createTime": "createdAt"},
}


class Response(NamedTuple):
    """One response, and the fault to play while it is sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    code: int  # the service's; 0 where the response has none
    group_ids: list[str]  # those asked for; empty unless the request was a batch query that was let in
    delay: float = 0.0  # seconds to wait before it is sent
    fault: str | None = None  # a name in `faults.CONNECTION_FAULTS`


@dataclass(kw_only=True)
class ResponseFormat:
    """The names and types in the responses; the attributes are options of `Service`."""

    v1_nested: Nested = "strings"  #: the type of v1's nested parts
    v4_nested: Nested = "objects"  #: the type of v4's nested parts
    name_key: Literal["groupName", "name"] = "groupName"  #: the key of the group's name in v1
    portrait_key: Literal["portraitUrl", "portrait_url"] = "portraitUrl"  #: the key of the portrait
    flat_texts: bool = False  #: whether introduction and announcement stand outside ``groupProfile``
    numbers_as_strings: bool = False  #: whether times and counts are strings
    code_as_string: bool = False  #: whether ``code`` is a string

    def profile(self, version: Version, group: Group) -> Group:
        """A group as a batch query's response has it; `group` is changed, its nested parts are not."""
        if self.flat_texts or self.portrait_key != "portraitUrl":
            self._spell_texts(group)
        self._spell_numbers(group)
        if self._nested_as_strings(version):
            for name in NESTED:
                part = group.get(name)
                if isinstance(part, dict):
                    group[name] = part.text if isinstance(part, Part) else msgspec.json.encode(part).decode()
        if version == 4:  # noqa: PLR2004  the service's own version number
            _rename(group, _V4_NAMES)
        elif self.name_key != "groupName":
            _rename(group, {"groupName": self.name_key})
        return group

    def listed(self, version: Version, group: Group) -> Group:
        """The same as a listing's response has it."""
        self._spell_numbers(group)
        listed = {name: group[key] for key, name in _LISTED_NAMES[version].items() if key in group}
        profile, as_string = group.get("groupProfile"), self._nested_as_strings(version)
        if isinstance(profile, dict):
            # v4's page has a string under profile in its example; the SDKs have an object under groupProfile.
            name = "profile" if version == 4 and as_string else "groupProfile"  # noqa: PLR2004  the service's version
            listed[name] = msgspec.json.encode(profile).decode() if as_string else profile
        return listed

    def encode(self, content: dict[str, Any]) -> bytes:
        """The body of a response."""
        return msgspec.json.encode(content | {"code": str(content["code"])} if self.code_as_string else content)

    def _spell_texts(self, group: Group) -> None:
        texts = group.get("groupProfile")
        if isinstance(texts, dict):
            group["groupProfile"] = texts = dict(texts)
            _rename(texts, {"portraitUrl": self.portrait_key})
            if self.flat_texts:
                group |= {name: texts.pop(name) for name in ("introduction", "announcement") if name in texts}

    def _spell_numbers(self, group: Group) -> None:
        if self.numbers_as_strings:
            group |= {name: str(group[name]) for name in ("createTime", "memberCount") if name in group}

    def _nested_as_strings(self, version: Version) -> bool:
        return (self.v1_nested if version == 1 else self.v4_nested) == "strings"


def _rename(part: dict[str, Any], names: dict[str, str]) -> None:
    for old, new in names.items():
        if old in part:
            part[new] = part.pop(old)

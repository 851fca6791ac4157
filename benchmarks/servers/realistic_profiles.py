"""Group profiles as a service with users has them, and replies of fifty of them: about 30 kB each."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, Literal
from zlib import crc32

import msgspec

from rongcloud_groups.emulator import Universe

DialectName = Literal["rongcloud", "nexconn"]

GROUPS: Final = 500
"""How many different groups there are; the ID that is asked for stands in the place of theirs."""

_PLACEHOLDER: Final = "\0"


def reply(dialect: DialectName, group_ids: Sequence[str]) -> bytes:
    """The answer that has a profile for each of these IDs, which need no JSON escapes."""
    parts = _profiles(dialect)
    first = crc32(group_ids[0].encode()) if group_ids else 0
    profiles = ",".join(
        before + group_id + after
        for group_id, (before, after) in (
            (group_id, parts[(first + number) % GROUPS]) for number, group_id in enumerate(group_ids)
        )
    )
    text = f'{{"code":200,"profiles":[{profiles}]}}'
    if dialect == "nexconn":
        text = f'{{"code":0,"result":{{"profiles":[{profiles}]}}}}'
    return text.encode()


@cache
def _profiles(dialect: DialectName) -> list[tuple[str, str]]:
    """The JSON of each profile, before and after its group ID."""
    universe = Universe(unknown_share=0)
    parts = []
    for number in range(GROUPS):
        group = universe.get(f"g{number}")
        assert group is not None
        before, _, after = msgspec.json.encode(_of(dialect, group)).decode().partition(r"\u0000")
        parts.append((before, after))
    return parts


def _of(dialect: DialectName, group: dict[str, Any]) -> dict[str, Any]:
    nested = ("groupProfile", "groupExtProfile", "permissions")
    if dialect == "rongcloud":
        texts = {key: msgspec.json.encode(group[key]).decode() for key in nested if key in group}
        return group | {"groupId": _PLACEHOLDER} | texts
    return {
        "channelId": _PLACEHOLDER,
        "name": group["groupName"],
        "owner": group["owner"],
        "createdAt": group["createTime"],
        "memberCount": group["memberCount"],
    } | {key: group[key] for key in nested if key in group}

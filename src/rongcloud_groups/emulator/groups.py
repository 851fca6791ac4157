"""The groups that exist: made from their ID alone, or added."""

import json
import re
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import msgspec

Group = dict[str, Any]
"""A group under the service's names (RongCloud v1), with its three nested parts as objects."""


class Part(dict[str, Any]):
    """A nested part that many groups share; it is not changed once it is made."""

    @cached_property
    def text(self) -> str:
        """The part as JSON."""
        return msgspec.json.encode(self).decode()


NESTED = ("groupProfile", "groupExtProfile", "permissions")

_VARIANTS = 512
_LISTED_ID = re.compile("g(0|[1-9][0-9]{0,11})", re.ASCII)
_FIRST_CREATED_MS = 1_600_000_000_000
_YEARS_OF_CREATION_MS = 5 * 365 * 86_400_000

_NAMES = (
    "Harbour Rowing Club", "产品设计讨论组", "Chess & Tea", "三年二班家长群", "Project Aurora", "周末徒步 🥾",
    "Neighbours of Mill Lane", "前端技术交流", "週末攝影", "東京ランナーズ",
    "Café des voisins", "한강 자전거 모임", "Release train", "杭州同城美食 🍜", "Order book", "读书会",
)  # fmt: skip
# ruff: noqa: RUF001  Chinese text has its own commas
_SENTENCES = (
    "We meet every other Thursday and keep notes of what was decided.",
    "欢迎新成员入群，请先阅读群公告并修改群昵称。",
    "本群用于项目进度同步，非紧急事项请在工作日联系管理员。",
    'Questions are welcome; "search first" is the only rule.',
    "群内禁止发布广告，违者将被移出群聊。",
    "Photographs of the last trip are in the shared album 📷.",
    "每周三晚八点线上分享，主题提前两天公布。",
    "New here? Say hello and tell us your city.",
    "新しいメンバーは自己紹介をお願いします。",
    "Please mute the group at night\nand use threads for long subjects.",
)  # fmt: skip
_EXT = (
    ("ext_city", ("杭州", "Singapore", "São Paulo", "Riyadh", "東京")),
    ("ext_level", ("1", "2", "3", "vip")),
    ("ext_topic", ("music", "运动", "engineering", "families")),
    ("ext_source", ("import", "app", "web")),
)
_PERMISSIONS = (
    ("joinPerm", 4), ("removePerm", 3), ("memInvitePerm", 3), ("invitePerm", 2), ("profilePerm", 3),
    ("memProfilePerm", 3),
)  # fmt: skip


class Universe:
    """Every group there is, the same one for the same ID and seed, with nothing stored.

    Args:
        seed: another seed makes other groups, and other IDs unknown.
        unknown_share: share of the IDs that name no group, 0 to 1.
        listed: how many generated groups, ``g0``, ``g1``, …, the listing has; none of them is unknown.
        only_explicit: only groups that were added exist.
    """

    def __init__(
        self, seed: int = 0, *, unknown_share: float = 0.1, listed: int = 0, only_explicit: bool = False
    ) -> None:
        self.listed = 0 if only_explicit else listed
        self._key = str(seed).encode()
        self._unknown_below = 2**32 if only_explicit else int(unknown_share * 2**32)
        self._explicit: dict[str, Group] = {}

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Self:
        """All the groups there are, from a file: one JSON object a line, under the names that `add` takes.

        Args:
            path: a UTF-8 file; empty lines are skipped.

        Raises:
            ValueError: a line is not a group; the message names the file and the line.
        """
        universe = cls(only_explicit=True)
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        universe._add_line(line)
                    except ValueError as error:
                        raise ValueError(f"{path}, line {number}: {error}") from error
        return universe

    def add(self, group_id: str, **fields: Any) -> None:
        """Add a group that has exactly these fields; an earlier one of this ID is replaced.

        Args:
            group_id: its ID.
            fields: under the service's names: ``groupName``, ``owner``, ``createTime`` (ms),
                ``memberCount``; ``groupProfile``, ``groupExtProfile`` and ``permissions`` as dicts
                (a str is passed on as it is, so that a test can break it).
        """
        self._explicit[group_id] = {"groupId": group_id, **fields}

    def knows(self, group_id: str) -> bool:
        """Tell whether there is a group with this ID."""
        return self.shared(group_id) is not None

    def get(self, group_id: str) -> Group | None:
        """The group, or None where there is none."""
        group = self.shared(group_id)
        return group and {name: dict(part) if isinstance(part, dict) else part for name, part in group.items()}

    def shared(self, group_id: str) -> Group | None:
        """The same, but its nested parts may belong to other groups too, and must not be changed."""
        explicit = self._explicit.get(group_id)
        if explicit is not None:
            return dict(explicit)
        name = group_id.encode("utf-8", "surrogatepass")
        digest = int.from_bytes(blake2b(name, digest_size=16, key=self._key).digest(), "big")
        place = self._place(group_id)
        if digest & 0xFFFFFFFF < self._unknown_below and place is None:
            return None
        return _generated(group_id, digest >> 32, place)

    def __len__(self) -> int:
        """How many groups the listing has."""
        return self.listed + len(self._explicit_in_list())

    def listing(self, start: int, size: int, *, newest_first: bool) -> list[Group]:
        """At most `size` listed groups after `start`, as they were created: the generated, then the added ones."""
        explicit = self._explicit_in_list()
        places = range(self.listed + len(explicit))[:: -1 if newest_first else 1][start : start + size]
        ids = (f"g{place}" if place < self.listed else explicit[place - self.listed] for place in places)
        return [group for group in map(self.shared, ids) if group is not None]

    def _explicit_in_list(self) -> list[str]:
        return [group_id for group_id in self._explicit if self._place(group_id) is None]

    def _place(self, group_id: str) -> int | None:
        """The place of a generated group in the listing."""
        place = int(group_id[1:]) if self.listed and _LISTED_ID.fullmatch(group_id) else self.listed
        return place if place < self.listed else None

    def _add_line(self, line: str) -> None:
        fields = json.loads(line)
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004  the file's value is at fault, not a type
        group_id = fields.pop("groupId", None)
        if not isinstance(group_id, str) or not group_id:
            raise ValueError("groupId is missing or not a text")
        if group_id in self._explicit:
            raise ValueError(f"groupId {group_id!r} was there before")
        for name in NESTED:
            if not isinstance(fields.get(name, {}), dict):
                raise ValueError(f"{name} is not an object")  # noqa: TRY004  the file's value is at fault, not a type
        self.add(group_id, **fields)


def _generated(group_id: str, digest: int, place: int | None) -> Group:
    profile, ext, permissions = _variant(digest % _VARIANTS)
    digest >>= 16
    since = digest % _YEARS_OF_CREATION_MS if place is None else place * 1_000
    group: Group = {
        "groupId": group_id,
        "groupName": _NAMES[digest % len(_NAMES)],
        "owner": f"user{digest % 90_001}",
        "createTime": _FIRST_CREATED_MS + since,
        "memberCount": 1 + digest % 3_000,
        "groupProfile": profile,
    }
    if ext:
        group["groupExtProfile"] = ext
    if permissions:
        group["permissions"] = permissions
    return group


@lru_cache(_VARIANTS)
def _variant(number: int) -> tuple[Part, Part, Part]:
    """The nested parts number `number`: they repeat over the groups, so that making a group stays cheap."""
    picks = int.from_bytes(blake2b(str(number).encode(), digest_size=32).digest(), "big")

    def pick(choices: int) -> int:
        nonlocal picks
        picks, chosen = divmod(picks, choices)
        return chosen

    def sentences(count: int) -> str:
        return " ".join(_SENTENCES[pick(len(_SENTENCES))] for _ in range(count))

    profile = Part(introduction=sentences(1 + pick(2)))
    if pick(8):
        profile["announcement"] = sentences(1 + pick(3))
    if pick(4):
        profile["portraitUrl"] = f"https://img.example.com/portraits/{number:04d}/{pick(10**9):09d}.png"
    ext = Part({name: values[pick(len(values))] for name, values in _EXT if pick(3)})
    permissions = Part({name: pick(choices) for name, choices in _PERMISSIONS if pick(6)} if pick(8) else {})
    return profile, ext, permissions

from enum import Enum

import pytest

from rongcloud_groups.config import DialectName
from rongcloud_groups.pytest_plugin import InProcessEmulator


class Group(str, Enum):  # noqa: UP042  unlike StrEnum, it prints its name
    CHESS = "chess"
    GONE = "gone"


class Text(str):
    """As numpy.str_: not a str where the exact type is compared."""

    __slots__ = ()


@pytest.mark.parametrize("kind", [Text, Group])
async def test_ids_of_a_subclass_of_str_are_looked_up(
    rongcloud_emulator: InProcessEmulator, dialect: DialectName, kind: type[str]
) -> None:
    rongcloud_emulator.add("chess", owner="u1")
    async with rongcloud_emulator.client(dialect=dialect) as client:
        profile = await client.get(kind("chess"))
        lookup = await client.get_many([kind("chess"), "chess", kind("gone")])
        async with client.stream([kind("chess")]) as parts:
            streamed = [part async for part in parts]
    assert profile is not None
    assert (list(lookup.found), lookup.missing, lookup.failed) == (["chess"], ["gone"], {})
    assert [list(part.found) for part in streamed] == [["chess"]]
    assert {type(group_id) for group_id in [*lookup.found, *lookup.missing, *streamed[0].found]} == {str}

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rongcloud_groups.emulator import Universe


@given(st.text(), st.integers(0, 5))
def test_a_group_depends_on_its_id_and_the_seed_alone(group_id: str, seed: int) -> None:
    first, second = Universe(seed), Universe(seed)
    assert first.get(group_id) == second.get(group_id)
    assert first.knows(group_id) == (first.get(group_id) is not None)


def test_another_seed_makes_other_groups() -> None:
    ids = [f"x{number}" for number in range(50)]
    assert [Universe(1).get(group_id) for group_id in ids] != [Universe(2).get(group_id) for group_id in ids]


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_share_of_unknown_ids_is_as_asked(share: float) -> None:
    universe = Universe(unknown_share=share)
    unknown = sum(not universe.knows(f"x{number}") for number in range(2000))
    assert unknown / 2000 == pytest.approx(share, abs=0.03)


def test_groups_keep_the_limits_of_the_service_and_look_like_real_ones() -> None:
    universe = Universe(unknown_share=0)
    groups = [universe.get(f"x{number}") or {} for number in range(2000)]
    for group in groups:
        assert len(group["groupName"]) <= 64
        profile = group["groupProfile"]
        assert len(profile["introduction"]) <= 512
        assert len(profile.get("announcement", "")) <= 1024
        assert len(profile.get("portraitUrl", "")) <= 128
        assert all(name.startswith("ext_") for name in group.get("groupExtProfile", {}))
        assert 0 <= group.get("permissions", {}).get("joinPerm", 0) <= 3
        assert 1 <= group["memberCount"] <= 3000
        assert 1_600_000_000_000 <= group["createTime"] < 1_800_000_000_000
    assert any("permissions" not in group for group in groups)
    assert any(0 < len(group.get("permissions", {})) < 6 for group in groups)
    sizes = [len(json.dumps(group, ensure_ascii=False).encode()) for group in groups]
    assert 450 <= sum(sizes) / len(sizes) <= 750
    assert any("🥾" in group["groupName"] for group in groups)


def test_changing_a_group_that_was_got_changes_nothing() -> None:
    universe = Universe(unknown_share=0)
    universe.add("mine", groupName="Mine")
    for group_id in ("x1", "mine"):
        before = universe.get(group_id)
        changed = universe.get(group_id) or {}
        changed["groupName"] = "changed"
        changed.get("groupProfile", {}).clear()
        assert universe.get(group_id) == before


def test_an_added_group_has_exactly_its_fields() -> None:
    universe = Universe(unknown_share=1)
    universe.add("mine", groupName="Mine", memberCount=3)
    assert universe.get("mine") == {"groupId": "mine", "groupName": "Mine", "memberCount": 3}


def test_only_explicit_knows_nothing_else() -> None:
    universe = Universe(unknown_share=0, listed=5, only_explicit=True)
    universe.add("mine")
    assert universe.knows("mine")
    assert not universe.knows("g0")
    assert [group["groupId"] for group in universe.listing(0, 10, newest_first=False)] == ["mine"]


def test_the_listing_is_in_the_order_of_creation_and_its_groups_exist() -> None:
    universe = Universe(unknown_share=0.9, listed=7)
    universe.add("new")
    universe.add("g3", groupName="in its own place")
    oldest = [group["groupId"] for group in universe.listing(0, 100, newest_first=False)]
    assert oldest == ["g0", "g1", "g2", "g3", "g4", "g5", "g6", "new"]
    assert [group["groupId"] for group in universe.listing(0, 100, newest_first=True)] == oldest[::-1]
    assert [group["groupId"] for group in universe.listing(6, 100, newest_first=False)] == ["g6", "new"]
    assert universe.listing(8, 10, newest_first=False) == []
    assert len(universe) == 8
    times = [universe.listing(place, 1, newest_first=False)[0]["createTime"] for place in (0, 1, 6)]
    assert times == sorted(times)


def test_groups_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "groups.jsonl"
    path.write_text(
        '{"groupId": "a", "groupName": "甲", "permissions": {"joinPerm": 1}}\n\n{"groupId": "b"}\n', encoding="utf-8"
    )
    universe = Universe.from_jsonl(path)
    assert universe.get("a") == {"groupId": "a", "groupName": "甲", "permissions": {"joinPerm": 1}}
    assert universe.knows("b")
    assert not universe.knows("c")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: not a JSON object"),
        ("{}", "line 2: groupId is missing"),
        ('{"groupId": 5}', "line 2: groupId is missing or not a text"),
        ('{"groupId": "a"}', "line 2: groupId 'a' was there before"),
        ('{"groupId": "b", "permissions": "{}"}', "line 2: permissions is not an object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "groups.jsonl"
    path.write_text(f'{{"groupId": "a"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"groups\.jsonl") as error:
        Universe.from_jsonl(path)
    assert complaint in str(error.value)

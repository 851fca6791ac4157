import re

import pytest

from rongcloud_groups.emulator import Faults, GoAway, StreamsDrop
from rongcloud_groups.emulator.faults import CONNECTION_FAULTS, RESPONSE_FAULTS


def test_without_faults_nothing_goes_wrong() -> None:
    faults = Faults()
    assert [faults.choose(number) for number in range(1, 100)] == [None] * 99
    assert not faults.storms(1)
    assert not faults.poisons("poison")
    assert not faults.played


def test_shares_are_kept_and_the_same_for_the_same_seed() -> None:
    def drawn(seed: int) -> list[str | None]:
        faults = Faults(share={"rst": 0.1, "hang": 0.2}, seed=seed)
        return [faults.choose(number) for number in range(1, 5001)]

    first = drawn(1)
    assert first == drawn(1)
    assert first != drawn(2)
    assert first.count("rst") / 5000 == pytest.approx(0.1, abs=0.02)
    assert first.count("hang") / 5000 == pytest.approx(0.2, abs=0.02)


def test_scripted_faults_come_first_then_those_at_the_number() -> None:
    faults = Faults(at={1: "hang", 4: "cut"})
    faults.next("rst", times=2)
    faults.next("drop")
    assert [faults.choose(number) for number in range(1, 6)] == ["rst", "rst", "drop", "cut", None]
    assert faults.played == {"rst": 2, "drop": 1, "cut": 1}


def test_a_script_does_not_move_what_is_drawn_later() -> None:
    plain, scripted = (Faults(share={"rst": 0.5}, seed=3) for _ in range(2))
    scripted.next("hang")
    drawn = [plain.choose(number) for number in range(1, 50)]
    assert [scripted.choose(number) for number in range(1, 50)][1:] == drawn[1:]


def test_poison_is_recognized_by_id_or_prefix() -> None:
    faults = Faults(poison={"a"}, poison_prefix="bad")
    assert [faults.poisons(group_id) for group_id in ("a", "bad1", "ab")] == [True, True, False]


def test_a_storm_has_a_first_and_a_last_request() -> None:
    faults = Faults(storm=(3, 4))
    assert [faults.storms(number) for number in range(1, 6)] == [False, False, True, True, False]
    assert faults.played == {"storm": 2}


def test_the_command_line_says_everything() -> None:
    faults = Faults.parse(
        [
            "goaway=100",
            "rst=1%",
            "hang=0.25",
            "goaway-close=5%",
            "handshake=0.3",
            "idle=2",
            "streams=7",
            "streams-drop=2@500",
            "storm=100-150",
            "poison=bad",
            "black-hole",
        ]
    )
    assert faults.goaway == GoAway("goaway", 100)
    assert faults.share == {"rst": 0.01, "hang": 0.25, "goaway-close": 0.05}
    assert (faults.handshake, faults.idle, faults.streams) == (0.3, 2.0, 7)
    assert faults.streams_drop == StreamsDrop(2, 500)
    assert faults.storm == (100, 150)
    assert faults.poison_prefix == "bad"
    assert faults.black_hole
    assert Faults.parse(["streams=none"]).streams is None


@pytest.mark.parametrize(
    "description",
    [
        "nonsense", "rst", "rst=", "rst=lots", "rst=101%", "rst=-1%", "rst=nan", "streams=", "streams-drop=5",
        "storm=3", "poison", "handshake=-1", "handshake=soon", "black-hole=yes", "goaway=-3", "",
    ],
)  # fmt: skip
def test_an_unreadable_fault_is_refused_with_a_list_of_the_known_ones(description: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(description))) as error:
        Faults.parse([description])
    for name in (*CONNECTION_FAULTS, *RESPONSE_FAULTS, "streams-drop=M@N", "black-hole"):
        assert name in str(error.value)


def test_a_misspelt_name_is_refused_in_code_too() -> None:
    with pytest.raises(ValueError, match="'rts' is not a fault"):
        Faults(share={"rts": 0.1})
    with pytest.raises(ValueError, match="'rts' is not a fault"):
        Faults(at={1: "rts"})
    with pytest.raises(ValueError, match="'rts' is not a fault"):
        Faults().next("rts")

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.command_line import environment, run
from support.emulators import emulator_process

from rongcloud_groups import GroupProfile

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    with emulator_process("--unknown=0.1") as address:
        yield environment(address.url, address.ca_file)


def run_example(*arguments: str, env: dict[str, str]) -> tuple[int, str, str]:
    return run(*arguments, env=env, command=[sys.executable])


def test_bulk_accounts_for_every_id(env: dict[str, str], tmp_path: Path) -> None:
    ids_file, profiles_file = tmp_path / "group-ids.txt", tmp_path / "profiles.jsonl"
    ids_file.write_text("\n".join([*(f"g{number}" for number in range(500)), "", "a b"]), encoding="utf-8")
    code, stdout, stderr = run_example(str(EXAMPLES / "stream_to_file.py"), str(ids_file), str(profiles_file), env=env)
    assert code == 1
    assert stderr == "a b: 'a b' is not a group ID: it has whitespace in it\n"
    numbers = re.fullmatch(r"(\d+) found, (\d+) missing, 1 failed, 10 requests\n", stdout)
    assert numbers is not None
    found, missing = map(int, numbers.groups())
    assert found + missing == 500
    assert len(msgspec.json.Decoder(GroupProfile).decode_lines(profiles_file.read_bytes())) == found


def test_bulk_says_how_it_is_used(env: dict[str, str]) -> None:
    code, _, stderr = run_example(str(EXAMPLES / "stream_to_file.py"), env=env)
    assert code == 1
    assert "IDS_FILE PROFILES_FILE" in stderr

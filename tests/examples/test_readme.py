import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.command_line import run
from support.emulators import emulator_process
from support.pages import PAGES, Block
from support.shell import readers_environment, run_lines

from rongcloud_groups import GroupProfile
from rongcloud_groups.cli.app import exit_code

README = PAGES["README"].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    with emulator_process("--unknown=0") as address:
        yield readers_environment(address)


@pytest.fixture
def in_env(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        if name.startswith(("RONGCLOUD_", "SSL_CERT_FILE")):
            monkeypatch.setenv(name, value)


@pytest.mark.runs("README/rongcloud-groups/python")
def test_the_first_program_prints_a_profile(blocks: list[Block], env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(blocks[0].text, encoding="utf-8")
    ended = run("first.py", env=env, command=[sys.executable], cwd=tmp_path)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("GroupProfile(group_id='g1'")


@pytest.mark.runs("README/Three uses/python 2")
def test_bulk_writes_a_line_for_each_profile(blocks: list[Block], env: dict[str, str], tmp_path: Path) -> None:
    group_ids = [f"g{number}" for number in range(120)]
    (tmp_path / "group-ids.txt").write_text("\n".join([*group_ids, "a b"]), encoding="utf-8")
    (tmp_path / "bulk.py").write_text(blocks[0].text, encoding="utf-8")
    ended = run("bulk.py", env=env, command=[sys.executable], cwd=tmp_path)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("a b 'a b' is not a group ID")
    profiles = msgspec.json.Decoder(GroupProfile).decode_lines((tmp_path / "profiles.jsonl").read_bytes())
    assert sorted(profile.group_id for profile in profiles) == sorted(group_ids)


@pytest.mark.usefixtures("in_env")
@pytest.mark.runs("README/Three uses/python 3")
async def test_the_worker_does_its_jobs(blocks: list[Block]) -> None:
    jobs: asyncio.Queue[list[str] | None] = asyncio.Queue()
    results: asyncio.Queue[Any] = asyncio.Queue()
    for job in (["g1", "g2"], ["g3", "a,b"], None):
        jobs.put_nowait(job)
    names: dict[str, Any] = {}
    exec(compile(blocks[0].text, "README.md", "exec"), names)  # noqa: S102  our own text
    await names["work"](jobs, results)
    assert [(list(found), list(failed)) for found, failed in (results.get_nowait(), results.get_nowait())] == [
        (["g1", "g2"], []),
        (["g3"], ["a,b"]),
    ]


def test_the_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"rongcloud-groups (get|sync|check|demo|emulate)", README))
    assert {"demo", "get"} <= commands
    for command in commands:
        assert exit_code([command, "--help"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.runs("README/Try it/console")
def test_the_commands_find_the_emulator(blocks: list[Block], tmp_path: Path) -> None:
    ended = run_lines(*blocks[0].commands, env=readers_environment(), here=tmp_path)
    assert ended.code == 0, ended
    assert ended.stdout.startswith('{"group_id":"g1"')

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient
from support.command_line import environment, run

from rongcloud_groups import GroupProfile
from rongcloud_groups.cli.app import exit_code
from rongcloud_groups.cli.emulator_process import emulator_process
from rongcloud_groups.config import REGIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST, WEB, BULK, WORKER = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    with emulator_process("--unknown=0") as address:
        yield environment(address.url, address.ca_file)


@pytest.fixture
def in_env(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        if name.startswith(("RONGCLOUD_", "SSL_CERT_FILE")):
            monkeypatch.setenv(name, value)


def names_of(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102  our own text
    return names


def test_the_first_program_prints_a_profile(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(FIRST, encoding="utf-8")
    ended = run("first.py", env=env, command=[sys.executable], cwd=tmp_path)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("GroupProfile(group_id='g1'")


@pytest.mark.usefixtures("in_env")
def test_the_web_app_answers_with_its_statuses(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(names_of(WEB)["app"]) as browser:
        statuses = [browser.get(f"/groups/{group_id}").status_code for group_id in ("g1", "a,b")]
        assert browser.get("/groups/g1").json()["name"]
    assert statuses == [200, 400]
    with emulator_process("--unknown=1", "--fault=hang=0.5") as other:
        monkeypatch.setenv("RONGCLOUD_BASE_URL", other.url)
        monkeypatch.setenv("SSL_CERT_FILE", other.ca_file or "")
        with TestClient(names_of(WEB)["app"]) as browser:
            statuses = [browser.get(f"/groups/g{number}").status_code for number in range(8)]
    assert set(statuses) == {404, 503}
    assert env


def test_bulk_writes_a_line_for_each_profile(env: dict[str, str], tmp_path: Path) -> None:
    group_ids = [f"g{number}" for number in range(120)]
    (tmp_path / "group-ids.txt").write_text("\n".join([*group_ids, "a b"]), encoding="utf-8")
    (tmp_path / "bulk.py").write_text(BULK, encoding="utf-8")
    ended = run("bulk.py", env=env, command=[sys.executable], cwd=tmp_path)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("a b 'a b' is not a group ID")
    profiles = msgspec.json.Decoder(GroupProfile).decode_lines((tmp_path / "profiles.jsonl").read_bytes())
    assert sorted(profile.group_id for profile in profiles) == sorted(group_ids)


@pytest.mark.usefixtures("in_env")
async def test_the_worker_does_its_jobs() -> None:
    jobs: asyncio.Queue[list[str] | None] = asyncio.Queue()
    results: asyncio.Queue[Any] = asyncio.Queue()
    for job in (["g1", "g2"], ["g3", "a,b"], None):
        jobs.put_nowait(job)
    await names_of(WORKER)["work"](jobs, results)
    assert [(list(found), list(failed)) for found, failed in (results.get_nowait(), results.get_nowait())] == [
        (["g1", "g2"], []),
        (["g3"], ["a,b"]),
    ]


def test_the_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"rongcloud-groups (\w+)", README))
    assert {"demo", "get"} <= commands
    for command in commands:
        assert exit_code([command, "--help"]) == 0
    assert capsys.readouterr().err == ""


def test_names_of_files_and_regions_are_right() -> None:
    for path in re.findall(r"`((?:examples|benchmarks|tests)/[\w./]*)`", README):
        assert (ROOT / path).exists(), path
    for region in REGIONS:
        assert f"`{region}`" in README

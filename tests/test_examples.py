import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from command_line import TIMEOUT, environment, run

from rongcloud_groups import GroupProfile
from rongcloud_groups.cli.emulator_process import emulator_process

EXAMPLES = Path(__file__).parent.parent / "examples"


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


def test_workers_print_what_their_jobs_asked_for(env: dict[str, str]) -> None:
    code, stdout, stderr = run_example(str(EXAMPLES / "worker.py"), env=env)
    assert (code, stderr) == (0, "")
    assert 40 < len(stdout.splitlines()) <= 60
    assert all(re.fullmatch(r"g\d+: .+, \d+ members", line) for line in stdout.splitlines())


async def test_the_web_app_answers_over_http(env: dict[str, str]) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hypercorn", "web_app:app", "--bind", "127.0.0.1:0",
        cwd=EXAMPLES, env=env, stdout=-1, stderr=-2,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            while not (running := re.search(rb"Running on (http://[\d.:]+)", await server.stdout.readline())):
                pass
        async with httpx.AsyncClient(base_url=running[1].decode()) as client:
            answers = [await client.get(f"/groups/{group_id}") for group_id in ("g1", "g3", "a,b")]
            missing = [
                answer.status_code
                for answer in await asyncio.gather(*(client.get(f"/groups/nobody{number}") for number in range(40)))
            ]
    finally:
        server.terminate()
        await server.communicate()
    assert [answer.status_code for answer in answers] == [200, 200, 400]
    assert json.loads(answers[0].content)["group_id"] == "g1"
    assert set(missing) == {200, 404}

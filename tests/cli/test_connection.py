import asyncio
from pathlib import Path

import pytest
from support.command_line import run
from support.proxy_process import tinyproxy

from rongcloud_groups.emulator import Emulator, worst_second


def budget_files(runtime_directory: Path) -> list[Path]:
    return list(runtime_directory.glob("rongcloud-groups/*"))


async def test_commands_that_are_run_together_share_the_budget_of_the_app_key(
    emulator: Emulator, variables: dict[str, str], tmp_path: Path
) -> None:
    env = variables | {"RONGCLOUD_RATE": "2", "XDG_RUNTIME_DIR": str(tmp_path)}
    ended = await asyncio.gather(*(asyncio.to_thread(run, "get", f"g{number}", env=env) for number in range(5)))
    assert [each.code for each in ended] == [0] * 5
    assert worst_second(emulator.arrivals) <= 3  # 5 where each has its own; a busy machine may deliver one early
    assert len(budget_files(tmp_path)) == 1


async def test_a_command_may_be_left_alone_with_the_whole_budget(variables: dict[str, str], tmp_path: Path) -> None:
    env = variables | {"RONGCLOUD_LIMITER": "local", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert (await asyncio.to_thread(run, "get", "g1", env=env)).code == 0
    assert budget_files(tmp_path) == []


async def test_a_directory_that_another_user_could_change_is_not_used(
    variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rongcloud-groups").mkdir()
    (tmp_path / "rongcloud-groups").chmod(0o777)
    env = variables | {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert (await asyncio.to_thread(run, "get", "g1", env=env)).code == 0
    assert budget_files(tmp_path) == []


@pytest.mark.parametrize("asked_by", ["option", "environment"])
@pytest.mark.parametrize("command", ["get", "check", "sync"])
async def test_a_command_connects_through_a_proxy(
    command: str, asked_by: str, emulator: Emulator, variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text("g1\n")
    arguments = {"get": ["g1"], "check": [], "sync": ["ids.txt", "-o", "out.jsonl"]}[command]
    async with tinyproxy(tmp_path) as proxy:
        variables["HTTPS_PROXY"] = proxy.url
        option = ["--proxy", proxy.url if asked_by == "option" else "env"]
        ended = await asyncio.to_thread(run, command, *arguments, *option, env=variables, cwd=tmp_path)
        direct = await asyncio.to_thread(run, "get", "g1", env=variables)
    assert (ended.code, direct.code) == (0, 0), ended.stderr
    assert len([line for line in proxy.log if "CONNECT" in line and "Request" in line]) == 1
    assert emulator.report().batch_requests == 2


def test_the_proxy_of_the_environment_must_be_there_when_it_is_asked_for(env: dict[str, str]) -> None:
    env = {name: value for name, value in env.items() if name.upper() != "HTTPS_PROXY"}
    ended = run("get", "g1", "--proxy", "env", env=env)
    assert (ended.code, ended.stderr) == (2, "rongcloud-groups: error: --proxy env: HTTPS_PROXY is not set\n")


async def test_no_http2_speaks_http_1(emulator: Emulator, variables: dict[str, str]) -> None:
    assert (await asyncio.to_thread(run, "get", "g1", "--no-http2", env=variables)).code == 0
    assert emulator.report().http_versions == {"HTTP/1.1": 1}

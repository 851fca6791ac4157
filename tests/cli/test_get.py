import asyncio
import json
import re
import socket
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.command_line import APP_SECRET, environment, profiles_in, run, run_on_terminal
from support.emulators import emulator_process

from rongcloud_groups.emulator import Emulator

STYLE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def dialect_env(env: dict[str, str], dialect: str) -> dict[str, str]:
    return env | {"RONGCLOUD_DIALECT": dialect}


def test_get_prints_one_line_of_json_a_profile_where_stdout_is_no_terminal(dialect_env: dict[str, str]) -> None:
    ended = run("get", "team_3", "g1", "team_3", env=dialect_env)
    assert (ended.code, ended.stderr) == (0, "")
    assert [profile.group_id for profile in profiles_in(ended.stdout)] == ["team_3", "g1"]
    assert profiles_in(ended.stdout)[1].member_count == 7


def test_get_prints_a_table_on_a_terminal_with_wide_characters_in_line(dialect_env: dict[str, str]) -> None:
    screen = run_on_terminal("get", "g1", "项目组-1", "team_3", env=dialect_env)
    assert screen.code == 0
    lines = STYLE.sub("", screen.screen).splitlines()
    assert lines[0].split() == ["group_id", "name", "members", "owner", "created", "introduction"]
    assert lines[1].split()[:8] == ["g1", "Chess", "&", "Tea", "7", "user1", "2023-11-14", "We"]
    assert "…" in lines[1]
    assert all(cell_len(line) <= 80 for line in lines)
    owners = [
        cell_len(line[: line.index(owner)])
        for line, owner in zip(lines, ("owner", "user1", "user2", "user3"), strict=True)
    ]
    assert len(set(owners)) == 1


def test_a_wider_terminal_shows_more_of_the_introduction(env: dict[str, str]) -> None:
    wide = run_on_terminal("get", "g1", env=env, columns=160)
    assert "We meet every other Thursday and keep notes of what was decided there." in wide.screen


def test_the_table_shows_a_long_id_whole(env: dict[str, str], groups_file: Path) -> None:
    long_id = "".join(f"{number:04}" for number in range(16))
    with groups_file.with_name("long.jsonl").open("w", encoding="utf-8") as file:
        file.write(json.dumps({"groupId": long_id, "groupName": "long"}))
    with emulator_process(f"--groups={groups_file.with_name('long.jsonl')}") as address:
        screen = run_on_terminal("get", long_id, env=env | environment(address.url, address.ca_file), columns=65)
    column = [line.split(" ")[0] for line in STYLE.sub("", screen.screen).splitlines()[1:]]
    assert "".join(column) == long_id


def test_a_terminal_that_is_too_narrow_for_the_table_shows_a_line_a_field(env: dict[str, str]) -> None:
    screen = run_on_terminal("get", "g1", "team_3", env=env, columns=40)
    lines = STYLE.sub("", screen.screen).splitlines()
    assert all(cell_len(line) <= 40 for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "group_id g1 name Chess & Tea members 7 owner user1 created 2023-11-14 introduction We meet every" in text
    assert "what was decided there. group_id team_3" in text


def test_json_gives_lines_on_a_terminal_too(env: dict[str, str]) -> None:
    screen = run_on_terminal("get", "--json", "g1", env=env)
    assert profiles_in(screen.screen)[0].group_id == "g1"


def test_no_color_leaves_the_table_without_colour(env: dict[str, str]) -> None:
    assert STYLE.search(run_on_terminal("get", "g1", env=env).screen)
    plain = run_on_terminal("get", "g1", env=env | {"NO_COLOR": "1"}).screen
    assert set(STYLE.findall(plain)) <= {"\x1b[0m", "\x1b[1m"}  # bold is no colour


def test_markup_and_escapes_in_a_name_are_shown_and_never_obeyed(env: dict[str, str]) -> None:
    screen = run_on_terminal("get", "odd", env=env, columns=120).screen
    assert "\x1b[2J" not in screen
    assert "\u202e" not in screen
    assert "[bold]" in screen
    assert ":smile:" in screen


def test_times_have_milliseconds_as_those_of_sync(env: dict[str, str]) -> None:
    assert '"create_time":"2023-11-14T22:13:20.000Z"' in run("get", "g1", env=env).stdout


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_stdin_without_ids_is_an_error(content: bytes, env: dict[str, str]) -> None:
    ended = run("get", "-", env=env, stdin=content)
    assert (ended.code, ended.stderr) == (2, "rongcloud-groups: error: stdin has no IDs\n")


def test_ids_come_from_stdin_as_well(dialect_env: dict[str, str]) -> None:
    ended = run("get", "-", "team_3", env=dialect_env, stdin="\ufeffg1\r\n\n  项目组-1\n".encode())
    assert (ended.code, ended.stderr) == (0, "")
    assert [profile.group_id for profile in profiles_in(ended.stdout)] == ["team_3", "g1", "项目组-1"]


def test_ids_typed_on_a_terminal_end_with_ctrl_d(env: dict[str, str]) -> None:
    screen = run_on_terminal("get", "-", "--json", env=env, typed=b"g1\n\x04")
    assert screen.code == 0
    assert "Ctrl-D" in screen.screen
    assert '"group_id":"g1"' in screen.screen


def test_an_id_that_begins_with_a_dash_comes_after_two_dashes(env: dict[str, str]) -> None:
    assert profiles_in(run("get", "--", "-dash", env=env).stdout)[0].group_id == "-dash"


def test_missing_ids_are_listed_on_stderr_and_are_no_failure(dialect_env: dict[str, str]) -> None:
    ended = run("get", "g1", "unknown", "项目组-9", env=dialect_env)
    assert ended.code == 0
    assert ended.stderr == "no such group: unknown\nno such group: 项目组-9\n"
    assert len(profiles_in(ended.stdout)) == 1


def test_nothing_found_prints_no_table(env: dict[str, str]) -> None:
    assert run_on_terminal("get", "unknown", env=env).screen == "no such group: unknown\n"


def test_an_invalid_id_fails_alone(dialect_env: dict[str, str]) -> None:
    ended = run("get", "g1", "a,b", "-", env=dialect_env, stdin=b"\xff\n")
    assert ended.code == 3
    assert [profile.group_id for profile in profiles_in(ended.stdout)] == ["g1"]
    first, second, last = ended.stderr.splitlines()
    assert first == "failed: 'a,b' is not a group ID: it has a comma in it"
    assert second.startswith(r"failed: '\udcff' is not a group ID")
    assert last.startswith("rongcloud-groups: error: 2 of 3 IDs failed; the service takes 1 to 64 characters")


def test_without_a_service_each_id_fails_and_the_message_names_the_settings_to_check() -> None:
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))  # taken, and not listening
        url = f"http://127.0.0.1:{unserved.getsockname()[1]}"
        ended = run("get", "g1", "g2", env=environment(url))
    assert (ended.code, ended.stdout) == (3, "")
    assert re.search(
        r"^failed: g1: no host could be reached for 5 s: 127.0.0.1:\d+: connecting failed: connection refused$",
        ended.stderr,
        re.MULTILINE,
    )
    assert "failed: g2: " in ended.stderr
    assert "check the network, RONGCLOUD_REGION and RONGCLOUD_BASE_URL" in ended.stderr


async def test_after_errors_of_the_service_another_run_is_suggested(
    emulator: Emulator, variables: dict[str, str], dialect: str
) -> None:
    emulator.faults.share["error-500"] = 1.0
    ended = await asyncio.to_thread(run, "get", "g1", env=variables | {"RONGCLOUD_DIALECT": dialect})
    assert ended.code == 3
    assert "failed: g1: server internal error (code 1000, HTTP 500" in ended.stderr
    assert "1 of 1 IDs failed; run it again for these" in ended.stderr


def test_without_an_id_it_prints_help_and_reads_nothing(env: dict[str, str]) -> None:
    piped = run("get", env=env)
    assert (piped.code, piped.stdout) == (2, "")
    assert "Usage: rongcloud-groups get" in piped.stderr
    terminal = run_on_terminal("get", env=env)
    assert terminal.code == 2
    assert "Usage: rongcloud-groups get" in STYLE.sub("", terminal.screen)


@pytest.mark.parametrize("name", ["RONGCLOUD_APP_KEY", "RONGCLOUD_APP_SECRET"])
def test_a_missing_variable_is_named(name: str) -> None:
    ended = run("get", "g1", env=environment("https://localhost", **{name: None}))
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("rongcloud-groups: error: ")
    assert name in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_region_that_does_not_exist_is_an_error_of_configuration() -> None:
    ended = run("get", "g1", env=environment(RONGCLOUD_REGION="atlantis"))
    assert ended.code == 2
    assert "'atlantis' is not known; the regions are beijing" in ended.stderr


def test_a_wrong_secret_ends_with_4_and_is_shown_nowhere(dialect_env: dict[str, str]) -> None:
    wrong = dialect_env | {"RONGCLOUD_APP_SECRET": "the-wrong-secret"}
    ended = run("get", "g1", env=wrong)
    assert (ended.code, ended.stdout) == (4, "")
    assert ended.stderr.startswith("rongcloud-groups: error: signature is invalid (code 1004, HTTP 401")
    checked = run("check", "--json", env=wrong)
    [finding] = json.loads(checked.stdout)["problems"]
    assert ended.stderr.endswith(f": {finding['advice']}\n")
    assert ended.stderr.count("\n") == 1
    debugged = run("get", "--debug", "g1", env=wrong)
    assert debugged.code == 4
    assert "Traceback (most recent call last)" in debugged.stderr
    assert "the-wrong-secret" not in ended.stderr + debugged.stderr


async def test_a_service_that_is_not_enabled_ends_with_4(
    emulator: Emulator, variables: dict[str, str], dialect: str
) -> None:
    emulator.service.enabled = False
    ended = await asyncio.to_thread(run, "get", "g1", env=variables | {"RONGCLOUD_DIALECT": dialect})
    assert ended.code == 4
    assert "code 1009" in ended.stderr
    assert "enable group profile hosting" in ended.stderr


def test_debug_logs_what_the_client_does(env: dict[str, str]) -> None:
    ended = run("get", "--debug", "g1", env=env)
    assert ended.code == 0
    assert "connected to 127.0.0.1" in ended.stderr
    assert APP_SECRET not in ended.stderr


@pytest.mark.parametrize("variable", ["RONGCLOUD_APP_KEY", "RONGCLOUD_APP_SECRET"])
def test_check_is_json_without_credentials_too(variable: str) -> None:
    ended = run("check", "--json", env=environment(**{variable: None}))
    assert (ended.code, ended.stderr) == (2, "")
    diagnosis = json.loads(ended.stdout)
    assert not diagnosis["ok"]
    assert variable in diagnosis["problems"][0]["problem"]

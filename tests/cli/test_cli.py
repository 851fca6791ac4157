import asyncio
import importlib.metadata
import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from rich.cells import cell_len
from support.command_line import APP_SECRET, COMMAND, TIMEOUT, environment, run, run_on_terminal, run_python
from support.proxy_process import tinyproxy

from rongcloud_groups import GroupProfile, ServerError
from rongcloud_groups.bulk import Format
from rongcloud_groups.cli.app import exit_code
from rongcloud_groups.cli.console import one_line
from rongcloud_groups.cli.emulator_process import emulator_process
from rongcloud_groups.cli.exit import Context, run_command
from rongcloud_groups.cli.sync_options import OutputFormat
from rongcloud_groups.emulator import Emulator, worst_second

STYLE = re.compile(r"\x1b\[[0-9;]*m")
GROUPS = (
    {
        "groupId": "g1",
        "groupName": "Chess & Tea",
        "owner": "user1",
        "createTime": 1_700_000_000_000,
        "memberCount": 7,
        "groupProfile": {"introduction": "We meet every other Thursday and keep notes of what was decided there."},
    },
    {"groupId": "项目组-1", "groupName": "产品设计讨论组", "owner": "user2", "memberCount": 1234},
    {"groupId": "team_3", "groupName": "週末攝影 🥾", "owner": "user3", "memberCount": 20},
    {"groupId": "-dash"},
    {"groupId": "odd", "groupName": "\x1b[2Jone\ntwo\u202e [bold]three[/bold]", "owner": ":smile:"},
)


@pytest.fixture(scope="module")
def groups_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("groups") / "groups.jsonl"
    path.write_text("".join(json.dumps(group) + "\n" for group in GROUPS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def env(groups_file: Path) -> Iterator[dict[str, str]]:
    with emulator_process(f"--groups={groups_file}") as address:
        yield environment(address.url, address.ca_file)


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None) as emulator:
        yield emulator


@pytest.fixture
def emulator_env(emulator: Emulator, tmp_path: Path) -> dict[str, str]:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(emulator.ca_pem)
    return environment(emulator.url, ca_file)


@pytest.fixture
def dialect_env(env: dict[str, str], dialect: str) -> dict[str, str]:
    return env | {"RONGCLOUD_DIALECT": dialect}


def profiles_in(stdout: str) -> list[GroupProfile]:
    return [msgspec.json.decode(line, type=GroupProfile) for line in stdout.splitlines()]


# get: what it prints


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


def test_what_a_name_holds_is_shown_and_never_obeyed(env: dict[str, str]) -> None:
    screen = run_on_terminal("get", "odd", env=env, columns=120).screen
    assert "\x1b[2J" not in screen
    assert "\u202e" not in screen
    assert "[bold]" in screen
    assert ":smile:" in screen


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


# get: what is missing and what failed


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
    emulator: Emulator, emulator_env: dict[str, str], dialect: str
) -> None:
    emulator.faults.share["error-500"] = 1.0
    ended = await asyncio.to_thread(run, "get", "g1", env=emulator_env | {"RONGCLOUD_DIALECT": dialect})
    assert ended.code == 3
    assert "failed: g1: server internal error (code 1000, HTTP 500" in ended.stderr
    assert "1 of 1 IDs failed; run it again for these" in ended.stderr


# the budget of commands


def budget_files(runtime_directory: Path) -> list[Path]:
    return list(runtime_directory.glob("rongcloud-groups/*"))


async def test_commands_that_are_run_together_share_the_budget_of_the_app_key(
    emulator: Emulator, emulator_env: dict[str, str], tmp_path: Path
) -> None:
    env = emulator_env | {"RONGCLOUD_RATE": "2", "XDG_RUNTIME_DIR": str(tmp_path)}
    ended = await asyncio.gather(*(asyncio.to_thread(run, "get", f"g{number}", env=env) for number in range(5)))
    assert [each.code for each in ended] == [0] * 5
    assert worst_second(emulator.record.arrivals) <= 3  # 5 where each has its own; a busy machine may deliver one early
    assert len(budget_files(tmp_path)) == 1


async def test_a_command_may_be_left_alone_with_the_whole_budget(emulator_env: dict[str, str], tmp_path: Path) -> None:
    env = emulator_env | {"RONGCLOUD_LIMITER": "local", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert (await asyncio.to_thread(run, "get", "g1", env=env)).code == 0
    assert budget_files(tmp_path) == []


async def test_a_directory_that_another_user_could_change_is_not_used(
    emulator_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rongcloud-groups").mkdir()
    (tmp_path / "rongcloud-groups").chmod(0o777)
    env = emulator_env | {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert (await asyncio.to_thread(run, "get", "g1", env=env)).code == 0
    assert budget_files(tmp_path) == []


@pytest.mark.parametrize("asked_by", ["option", "environment"])
@pytest.mark.parametrize("command", ["get", "check", "sync"])
async def test_a_command_connects_through_a_proxy(
    command: str, asked_by: str, emulator: Emulator, emulator_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text("g1\n")
    arguments = {"get": ["g1"], "check": [], "sync": ["ids.txt", "-o", "out.jsonl"]}[command]
    async with tinyproxy(tmp_path) as proxy:
        emulator_env["HTTPS_PROXY"] = proxy.url
        option = ["--proxy", proxy.url if asked_by == "option" else "env"]
        ended = await asyncio.to_thread(run, command, *arguments, *option, env=emulator_env, cwd=tmp_path)
        direct = await asyncio.to_thread(run, "get", "g1", env=emulator_env)
    assert (ended.code, direct.code) == (0, 0), ended.stderr
    assert len([line for line in proxy.log if "CONNECT" in line and "Request" in line]) == 1
    assert emulator.report().batch_requests == 2


def test_the_proxy_of_the_environment_must_be_there_when_it_is_asked_for(env: dict[str, str]) -> None:
    env = {name: value for name, value in env.items() if name.upper() != "HTTPS_PROXY"}
    ended = run("get", "g1", "--proxy", "env", env=env)
    assert (ended.code, ended.stderr) == (2, "rongcloud-groups: error: --proxy env: HTTPS_PROXY is not set\n")


async def test_no_http2_speaks_http_1(emulator: Emulator, emulator_env: dict[str, str]) -> None:
    assert (await asyncio.to_thread(run, "get", "g1", "--no-http2", env=emulator_env)).code == 0
    assert emulator.report().http_versions == {"HTTP/1.1": 1}


# get: its configuration, its credentials


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
    emulator: Emulator, emulator_env: dict[str, str], dialect: str
) -> None:
    emulator.service.enabled = False
    ended = await asyncio.to_thread(run, "get", "g1", env=emulator_env | {"RONGCLOUD_DIALECT": dialect})
    assert ended.code == 4
    assert "code 1009" in ended.stderr
    assert "enable group profile hosting" in ended.stderr


def test_debug_logs_what_the_client_does(env: dict[str, str]) -> None:
    ended = run("get", "--debug", "g1", env=env)
    assert ended.code == 0
    assert "connected to 127.0.0.1" in ended.stderr
    assert APP_SECRET not in ended.stderr


# How it ends


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_at_once(
    emulator: Emulator, emulator_env: dict[str, str], number: signal.Signals, code: int
) -> None:
    emulator.faults.share["hang"] = 1.0
    process = await _started("get", "g1", env=emulator_env)
    await emulator.wait_for(1)
    process.send_signal(number)
    assert await _ended(process) == (code, "", "")


async def test_sigterm_ends_what_a_shell_runs_in_the_background(
    emulator: Emulator, emulator_env: dict[str, str]
) -> None:
    emulator.faults.share["hang"] = 1.0
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"trap '' INT; exec {COMMAND} get g1", env=emulator_env, stdout=-1, stderr=-1
    )
    await emulator.wait_for(1)
    process.terminate()
    assert await _ended(process) == (143, "", "")


async def test_a_signal_ends_it_while_it_waits_for_stdin(env: dict[str, str]) -> None:
    reader, writer = os.pipe()
    # Unmeasured: where the signal comes while coverage holds its own lock, the process never ends.
    env = {name: value for name, value in env.items() if not name.startswith("COV")}
    process = await _started("get", "-", env=env, stdin=reader)
    os.close(reader)
    fill = asyncio.to_thread(os.write, writer, b"g1\n" * 100_000)  # more than a pipe holds: done once it reads
    await asyncio.wait_for(fill, TIMEOUT)
    process.send_signal(signal.SIGINT)
    assert await _ended(process) == (130, "", "")
    os.close(writer)


def test_a_reader_that_went_away_ends_it_quietly(env: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = run("get", "g1", env=env, stdout=writer)
    os.close(writer)
    assert (ended.code, ended.stderr) == (141, "")


def test_a_full_disk_is_one_line(env: dict[str, str]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = run("get", "g1", env=env, stdout=full.fileno())
    assert (ended.code, ended.stderr) == (1, "rongcloud-groups: error: cannot write stdout: No space left on device\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frob"], 'Unknown command "frob"'),
        (["get", "--jsn", "g1"], "Did you mean --json?"),
        (["emulate", "--window", "monthly"], "sliding"),
        (["emulate", "--port", "many"], "--port"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_ends_with_2(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments) == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert words in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["get", "--help"], ["emulate", "-h"], ["demo", "--help"]])
def test_help_goes_to_stdout(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments) == 0
    stdout, stderr = capfd.readouterr()
    assert "Usage: rongcloud-groups" in stdout
    assert stderr == ""


def test_an_unexpected_error_is_one_line_and_a_traceback_only_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    def work(_: Context) -> int:
        raise KeyError("a bug\nof two lines")

    assert run_command(work, debug=False) == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert run_command(work, debug=True) == 1
    assert "Traceback" in capfd.readouterr().err
    logging.getLogger("rongcloud_groups").setLevel(logging.NOTSET)


def test_another_error_of_the_service_ends_with_1(capfd: pytest.CaptureFixture[str]) -> None:
    def work(_: Context) -> int:
        raise ServerError(1000, 500, "no\x1b[2J use")

    assert run_command(work, debug=False) == 1
    assert capfd.readouterr().err == "rongcloud-groups: error: no\ufffd[2J use (code 1000, HTTP 500)\n"


def test_ctrl_c_outside_of_a_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("rongcloud_groups.cli.app.app", interrupted)
    assert exit_code(["get"]) == 130


def test_joined_emoji_stay_joined() -> None:
    assert one_line("a  \N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}\tb") == "a \N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET} b"


@pytest.mark.parametrize(
    "arguments",
    [["sync", "--report", "json", "--frob"], ["sync", "--report=json", "a", "b"], ["check", "--json", "-x"]],
)
def test_a_wrong_command_line_is_json_where_stderr_is(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments) == 2
    assert json.loads(capfd.readouterr().err)["exit_code"] == 2


def test_an_argument_too_many_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["sync", "a.txt", "b.txt", "-o", "c.jsonl"]) == 2
    assert "Unexpected argument 'b.txt'" in capfd.readouterr().err


def test_the_version_is_that_of_the_installed_package(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == 0
    assert capfd.readouterr().out.strip() == importlib.metadata.version("rongcloud-groups")


def test_help_describes_each_command_and_how_it_is_called(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--help"]) == 0
    text = " ".join(capfd.readouterr().out.replace("│", " ").split())
    for words in ("get Look up groups", "sync Look up every ID", "check Ask", "demo Look up", "emulate Run"):
        assert words in text
    assert exit_code(["sync", "--help"]) == 0
    assert capfd.readouterr().out.startswith("Usage: rongcloud-groups sync [OPTIONS] IDS -o OUT\n")


def test_the_formats_that_help_lists_are_those_of_the_sinks() -> None:
    assert get_args(OutputFormat) == get_args(Format)


def test_python_runs_the_package_as_the_command() -> None:
    ended = run("-m", "rongcloud_groups", "--version", env=environment(), command=(sys.executable,))
    assert (ended.code, ended.stderr) == (0, "")


def test_completion_is_installed_for_a_shell(tmp_path: Path) -> None:
    ended = run("--install-completion", "--shell", "bash", env=environment(HOME=str(tmp_path)))
    assert ended.code == 0, ended.stderr
    assert any("rongcloud" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_windows_is_refused_in_one_line() -> None:
    code = "import sys; from rongcloud_groups.cli import main; sys.platform = 'win32'; main()"
    ended = run_python(code, env=environment())
    assert ended.code == 2
    assert ended.stderr == "rongcloud-groups: error: this command runs on Linux and macOS; on Windows, run it in WSL\n"


# Warnings


@pytest.mark.parametrize("command", ["get", "check", "sync"])
async def test_a_warning_of_the_limiter_reaches_the_person_and_the_report(
    command: str, emulator_env: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))  # taken, and not listening
        emulator_env["RONGCLOUD_LIMITER"] = f"redis://127.0.0.1:{unserved.getsockname()[1]}"
        (tmp_path / "ids.txt").write_text("g1\n")
        arguments = {"get": ["g1"], "check": ["--json"], "sync": ["ids.txt", "-o", "-", "--report", "json"]}[command]
        ended = await asyncio.to_thread(run, command, *arguments, env=emulator_env, cwd=tmp_path)
    assert ended.code == 0
    match command:
        case "get":
            assert ended.stderr.startswith("rongcloud-groups: warning: Redis at 127.0.0.1")
        case "check":
            assert "Redis at 127.0.0.1" in json.loads(ended.stdout)["problems"][0]["problem"]
        case _:
            warning, summary = map(json.loads, ended.stderr.splitlines())
            assert warning["message_type"] == "warning"
            assert summary["warnings"] == [warning["message"]]


@pytest.mark.parametrize("variable", ["RONGCLOUD_APP_KEY", "RONGCLOUD_APP_SECRET"])
def test_check_is_json_without_credentials_too(variable: str) -> None:
    ended = run("check", "--json", env=environment(**{variable: None}))
    assert (ended.code, ended.stderr) == (2, "")
    diagnosis = json.loads(ended.stdout)
    assert not diagnosis["ok"]
    assert variable in diagnosis["problems"][0]["problem"]


# What is not installed


def without(module: str, *arguments: str) -> str:
    return (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['rongcloud-groups', *{arguments!r}]\n"
        "from rongcloud_groups.cli import main; main()"
    )


@pytest.mark.parametrize("module", ["cyclopts", "rich"])
def test_without_its_extra_the_command_names_it(module: str) -> None:
    ended = run_python(without(module, "get", "--help"), env=environment())
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "pip install 'rongcloud-groups[cli]'" in ended.stderr


def test_another_module_that_is_missing_is_not_taken_for_the_extra() -> None:
    ended = run_python(without("rongcloud_groups.cli.get", "get", "g1"), env=environment())
    assert ended.code == 1
    assert "ModuleNotFoundError" in ended.stderr


@pytest.mark.parametrize("command", ["emulate", "demo"])
def test_without_its_extra_the_emulator_names_it(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run_python(without("trustme", command), env=environment())
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "pip install 'rongcloud-groups[emulator]'" in ended.stderr


# emulate


async def test_emulate_prints_what_get_needs_and_a_report_at_the_end(groups_file: Path) -> None:
    process = await _started(
        "emulate", "--groups", str(groups_file), "--rate", "50", "--window", "bucket", "--fault", "slow-body=100%",
        env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    lines = (await process.stdout.read()).decode().splitlines()  # it closes stdout once it listens
    variables: dict[str, str | None] = {}
    for line in lines:
        name, _, value = line.removeprefix("export ").partition("=")
        variables[name] = value
    assert [line.split()[0] for line in lines] == ["export"] * 5
    assert int(variables.pop("RONGCLOUD_EMULATOR_PID") or 0) == process.pid
    url, ca_file = variables.pop("RONGCLOUD_BASE_URL"), variables.pop("SSL_CERT_FILE")
    got = await asyncio.to_thread(run, "get", "g1", "unknown", env=environment(url, ca_file, **variables))
    assert (got.code, got.stderr) == (0, "no such group: unknown\n")
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = await _ended(process)
    assert (code, stdout) == (0, "")
    listens, report_line = stderr.splitlines()
    assert listens == f"the emulator listens at {url}; Ctrl-C ends it"
    report = json.loads(report_line)
    assert report["batch_requests"] == 1
    assert report["faults"] == {"slow-body": 1}


def test_a_shell_evaluates_what_emulate_prints() -> None:
    line = f"""
        eval "$("{COMMAND}" emulate &)"
        "{COMMAND}" get g1; kill "$RONGCLOUD_EMULATOR_PID"
    """
    ended = run("-c", line, env=environment(RONGCLOUD_APP_KEY=None, RONGCLOUD_APP_SECRET=None), command=("sh",))
    assert profiles_in(ended.stdout)[0].group_id == "g1"


def test_emulate_says_which_port_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert exit_code(["emulate", "--port", str(port)]) == 1
    stderr = capfd.readouterr().err
    assert "in use" in stderr
    assert str(port) in stderr
    assert stderr.count("\n") == 1


def test_emulate_lists_the_faults_where_it_knows_none_of_that_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["emulate", "--fault", "gremlins=1%"]) == 2
    stderr = capfd.readouterr().err
    assert stderr.startswith("rongcloud-groups: error: 'gremlins=1%' is not a fault.")
    assert "\n  rst=SHARE: the stream is reset" in stderr


def test_emulate_names_the_line_that_is_no_group(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    groups = tmp_path / "groups.jsonl"
    groups.write_text('{"groupId": "g1"}\n{"name": "no ID"}\n')
    assert exit_code(["emulate", "--groups", str(groups)]) == 2
    assert f"{groups}, line 2: groupId is missing" in capfd.readouterr().err


async def _started(*arguments: str, env: dict[str, str], **options: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(COMMAND, *arguments, env=env, stdout=-1, stderr=-1, **options)


async def _ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    stdout, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT)
    return process.returncode, stdout.decode(), stderr.decode()

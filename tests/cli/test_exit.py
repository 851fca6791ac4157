import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
from support.command_line import COMMAND, TIMEOUT, environment, run, run_python
from support.command_process import ended, started

from rongcloud_groups import ServerError
from rongcloud_groups.cli import main
from rongcloud_groups.cli.console import one_line
from rongcloud_groups.cli.exit import Context, run_command
from rongcloud_groups.emulator import Emulator


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_at_once(
    emulator: Emulator, variables: dict[str, str], number: signal.Signals, code: int
) -> None:
    emulator.faults.share["hang"] = 1.0
    process = await started("get", "g1", env=variables)
    await emulator.wait_for(1)
    process.send_signal(number)
    assert await ended(process) == (code, "", "")


async def test_sigterm_ends_what_a_shell_runs_in_the_background(emulator: Emulator, variables: dict[str, str]) -> None:
    emulator.faults.share["hang"] = 1.0
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"trap '' INT; exec {COMMAND} get g1", env=variables, stdout=-1, stderr=-1
    )
    await emulator.wait_for(1)
    process.terminate()
    assert await ended(process) == (143, "", "")


async def test_a_signal_ends_it_while_it_waits_for_stdin(env: dict[str, str]) -> None:
    reader, writer = os.pipe()
    # Unmeasured: where the signal comes while coverage holds its own lock, the process never ends.
    env = {name: value for name, value in env.items() if not name.startswith("COV")}
    process = await started("get", "-", env=env, stdin=reader)
    os.close(reader)
    await asyncio.wait_for(asyncio.to_thread(write_whole, writer, b"g1\n" * 100_000), TIMEOUT)
    process.send_signal(signal.SIGINT)
    assert await ended(process) == (130, "", "")
    os.close(writer)


def write_whole(pipe: int, content: bytes) -> None:
    """Write more than a pipe holds: when it is written, the other side reads."""
    while content:
        content = content[os.write(pipe, content) :]


def test_ctrl_c_ends_it_without_a_word_while_it_is_imported() -> None:
    code = """
import signal, sys, types
sys.modules["rongcloud_groups.cli"] = types.SimpleNamespace(main=lambda: signal.raise_signal(signal.SIGINT))
from rongcloud_groups_command import main
main()
"""
    assert run_python(code, env=environment()) == (-signal.SIGINT, "", "")


def test_a_reader_that_went_away_ends_it_quietly(env: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = run("get", "g1", env=env, stdout=writer)
    os.close(writer)
    assert (ended.code, ended.stderr) == (141, "")


def test_a_working_directory_that_is_gone_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    line = f'cd gone; rmdir ../gone; "{COMMAND}" sync {tmp_path}/ids.txt -o out.jsonl'
    ended = run("-c", line, env=env, command=("bash",), cwd=tmp_path)
    words = "rongcloud-groups: error: the working directory is no longer there\n"
    assert (ended.code, ended.stderr) == (1, words)


@pytest.mark.parametrize("arguments", [["get", "g1"], ["check"], ["check", "--json"], ["get", "--help"], ["--version"]])
def test_a_full_disk_is_one_line(arguments: list[str], env: dict[str, str]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = run(*arguments, env=env, stdout=full.fileno())
    assert (ended.code, ended.stderr) == (1, "rongcloud-groups: error: cannot write stdout: No space left on device\n")


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
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_joined_emoji_stay_joined() -> None:
    assert one_line("a  \N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}\tb") == "a \N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET} b"

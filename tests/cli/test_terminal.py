"""The command on terminals and streams as they are: gone, full, stopped, resized, of another encoding."""

import asyncio
import csv
import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.bulk_jobs import ids, names_in, sync, until, written
from support.command_line import COMMAND, Terminal, open_terminal, run, run_on_terminal

from rongcloud_groups.cli.console import fitted
from rongcloud_groups.emulator import Emulator, Universe

HOSTILE = "\x9b31m\x7f\u202eevil"
"""A C1 control sequence, a DEL and a right-to-left override."""


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    universe = Universe(unknown_share=0.0)
    universe.add("odd", groupName=HOSTILE)
    async with Emulator(limit=None, universe=universe) as emulator:
        yield emulator


@pytest.fixture
def here(here: Path) -> Path:
    written(here / "ids.txt", *ids(600))
    return here


async def bash(line: str, *, env: dict[str, str], here: Path) -> tuple[int, str, str]:
    return await asyncio.to_thread(run, "-c", line, env=env, command=("bash",), cwd=here)


# stdout that takes a part


@pytest.mark.parametrize("command", ["get {ids} --json", "sync ids.txt -o -", "sync ids.txt -o - --format csv"])
async def test_a_pipe_that_takes_only_a_part_gets_all_rows(command: str, variables: dict[str, str], here: Path) -> None:
    arguments = command.format(ids=" ".join(ids(400))).split()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    variables["PYTHONUNBUFFERED"] = "1"
    process = await asyncio.create_subprocess_exec(
        COMMAND, *arguments, env=variables, cwd=here, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)

    def read_slowly() -> bytes:
        content = b""
        while chunk := os.read(reader, 4000):
            content += chunk
            time.sleep(0.001)  # a reader that is slower than the command is what this test is about
        return content

    content = await asyncio.to_thread(read_slowly)
    os.close(reader)
    assert process.stderr is not None
    errors = await process.stderr.read()
    assert await process.wait() == 0, errors
    lines = content.decode().splitlines()
    if "csv" in command:
        assert len(list(csv.reader(io.StringIO(content.decode(), newline="")))) == 601
    else:
        assert len([json.loads(line)["group_id"] for line in lines]) == (600 if "sync" in command else 400)


# stderr that cannot be written


@pytest.mark.parametrize("progress", ["plain", "json", "bar"])
async def test_a_full_disk_under_stderr_ends_no_job(progress: str, variables: dict[str, str], here: Path) -> None:
    variables["RONGCLOUD_RATE"] = "10"
    line = f'"{COMMAND}" sync ids.txt -o out.jsonl --progress {progress} 2>/dev/full'
    assert (await bash(line, env=variables, here=here))[0] == 0
    assert len(names_in(here / "out.jsonl")) == 600


async def test_messages_that_nothing_takes_change_no_exit_code(variables: dict[str, str], here: Path) -> None:
    assert (await bash(f'"{COMMAND}" get x1 a,b 2>/dev/full', env=variables, here=here))[0] == 3
    assert (await bash(f'"{COMMAND}" sync absent.txt -o out.jsonl 2>/dev/full', env=variables, here=here))[0] == 2
    assert (await bash(f'"{COMMAND}" get --frob 2>/dev/full', env=variables, here=here))[0] == 2


async def test_a_job_ends_well_when_its_terminal_has_gone(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    variables["RONGCLOUD_RATE"] = "8"
    terminal = Terminal("sync", "ids.txt", "-o", "out.jsonl", env=variables, here=here)
    await until(lambda: emulator.report().batch_requests >= 2)
    terminal.hang_up()
    assert await asyncio.to_thread(terminal.wait) == 0
    assert len(names_in(here / "out.jsonl")) == 600


# Ctrl-Z, a resize


async def test_ctrl_z_leaves_the_terminal_as_it_was_and_the_job_resumes(variables: dict[str, str], here: Path) -> None:
    variables["RONGCLOUD_RATE"] = "8"
    terminal = Terminal("sync", "ids.txt", "-o", "out.jsonl", env=variables, here=here)
    await until(lambda: "budget" in terminal.read())
    terminal.process.send_signal(signal.SIGTSTP)
    await until(lambda: terminal.state() == "T")
    await until(lambda: terminal.read().endswith("\x1b[2K"))
    assert "\x1b[?25l" not in terminal.screen  # the cursor was never hidden
    terminal.process.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(terminal.wait) == 0
    assert "done: out.jsonl" in terminal.read()
    assert len(names_in(here / "out.jsonl")) == 600


async def test_a_narrower_terminal_keeps_no_row_of_the_old_bar(variables: dict[str, str], here: Path) -> None:
    variables["RONGCLOUD_RATE"] = "8"
    terminal = Terminal("sync", "ids.txt", "-o", "out.jsonl", env=variables, here=here, columns=100)
    await until(lambda: "budget" in terminal.read())
    before = len(terminal.screen)
    terminal.resize(45)
    await until(lambda: "budget" in terminal.read()[before:])
    frame = terminal.screen[before:].partition("budget")[0]
    # The line of 100 columns takes three rows of 45 now, and the one below two: four rows up from the last one.
    assert frame.count("\x1b[1A") == 4
    assert await asyncio.to_thread(terminal.wait) == 0


async def test_a_terminal_stopped_by_ctrl_s_does_not_stop_the_job(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    variables["RONGCLOUD_RATE"] = "8"
    terminal = Terminal("sync", "ids.txt", "-o", "out.jsonl", env=variables, here=here)
    await until(lambda: "budget" in terminal.read())
    terminal.type(b"\x13")
    await until(lambda: emulator.report().batch_requests == 12)
    terminal.type(b"\x11")
    assert await asyncio.to_thread(terminal.wait) == 0
    assert "done: out.jsonl" in terminal.read()


# A narrow terminal, and one that is light or dark


def test_lines_are_broken_at_spaces_and_what_is_copied_is_whole() -> None:
    ours, theirs = open_terminal(20)
    with os.fdopen(theirs, "w") as terminal:
        assert fitted("missing IDs: a-file-name-that-is-too-long.txt, twelve", terminal).splitlines() == [
            "missing IDs:",
            "a-file-name-that-is-too-long.txt,",
            "twelve",
        ]
        assert (
            fitted("lines     20  in this file", terminal, indent=14)
            == "lines     20  in\n              this\n              file"
        )
        assert fitted("found  5  in profiles.jsonl", terminal, indent=10) == "found  5  in\n      profiles.jsonl"
    os.close(ours)
    with Path(os.devnull).open("w") as file:
        assert fitted("a line  " * 50, file) == "a line  " * 50


async def test_a_narrow_terminal_shows_whole_words(variables: dict[str, str], here: Path) -> None:
    shown = await asyncio.to_thread(
        run_on_terminal, "sync", "ids.txt", "-o", "out.jsonl", env=variables, cwd=here, columns=40
    )
    lines = shown.screen.splitlines()
    assert all(len(line) <= 40 for line in lines if "\x1b" not in line)
    assert "0 of them duplicates: 600 found, 0 missing, 0 failed" in " ".join(lines)


async def test_text_has_no_colour_that_a_light_or_a_dark_terminal_hides(variables: dict[str, str]) -> None:
    for arguments in (["--help"], ["sync", "--help"], ["get"]):
        shown = await asyncio.to_thread(run_on_terminal, *arguments, env=variables)
        assert set(re.findall(r"\x1b\[[\d;]*m", shown.screen)) == {"\x1b[0m", "\x1b[1m"}


# Text that a terminal cannot show, or would obey


@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
async def test_a_terminal_of_another_encoding_shows_a_replacement(
    encoding: str, variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    emulator.service.universe.add("项目组-1", groupName="🥾 walks")
    variables["PYTHONIOENCODING"] = encoding
    for arguments in (["get", "项目组-1", "项目组-2,"], ["get", "--json", "项目组-1"], ["sync", "ids.txt", "-o", "-"]):
        shown = await asyncio.to_thread(run_on_terminal, *arguments, env=variables, cwd=here, encoding=encoding)
        assert shown.code == (3 if len(arguments) == 3 and arguments[1] != "--json" and arguments[0] == "get" else 0)
        assert "Traceback" not in shown.screen
    shown = await asyncio.to_thread(run_on_terminal, "get", "项目组-1", env=variables, encoding=encoding)
    assert "? walks" in shown.screen
    assert ("项目组-1" in shown.screen) == (encoding == "gbk")


@pytest.mark.parametrize(
    "arguments", [["get", "--json", "odd"], ["sync", "-", "-o", "-"], ["sync", "-", "-o", "-", "--format", "csv"]]
)
async def test_a_terminal_obeys_no_row_and_a_pipe_gets_it_unchanged(
    arguments: list[str], variables: dict[str, str], here: Path
) -> None:
    line = f'echo odd | "{COMMAND}" {" ".join(arguments)}'
    shown = await asyncio.to_thread(run_on_terminal, "-c", line, env=variables, command=["bash"], cwd=here)
    assert shown.code == 0
    assert not set(HOSTILE[:1] + "\x7f\u202e") & set(shown.screen)
    if "csv" not in arguments:
        row = next(line for line in shown.screen.splitlines() if line.startswith("{"))
        assert json.loads(row)["group_name"] == HOSTILE
    _, stdout, _ = await bash(line, env=variables, here=here)
    assert HOSTILE in stdout


async def test_a_summary_fits_what_the_terminal_can_show(variables: dict[str, str], here: Path) -> None:
    variables["PYTHONIOENCODING"] = "ascii"
    ended = await sync("ids.txt", "-o", "项目.jsonl", env=variables, here=here)
    assert ended.code == 0
    assert re.search(r"done: \?\?\.jsonl", ended.stderr)

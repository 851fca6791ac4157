import asyncio
import json
import os
import resource
import signal
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bulk_jobs import environment_of, ids, names_in, rows_in, written
from command_line import COMMAND, Ended, OnTerminal, run, run_on_terminal
from rongcloud_groups.emulator import Emulator, Faults, Universe


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None, universe=Universe(unknown_share=0.1, listed=1500)) as emulator:
        yield emulator


@pytest.fixture
def variables(emulator: Emulator, tmp_path: Path) -> dict[str, str]:
    return environment_of(emulator, tmp_path)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


async def sync(*arguments: str, env: dict[str, str], here: Path, stdin: bytes = b"") -> Ended:
    return await asyncio.to_thread(run, "sync", *arguments, env=env, cwd=here, stdin=stdin)


async def sync_on_terminal(*arguments: str, env: dict[str, str], columns: int = 80) -> OnTerminal:
    return await asyncio.to_thread(run_on_terminal, "sync", *arguments, env=env, columns=columns)


async def started(*arguments: str, env: dict[str, str], here: Path, **options: Any) -> Process:
    return await asyncio.create_subprocess_exec(
        COMMAND, "sync", *arguments, env=env, cwd=here, stdout=PIPE, stderr=PIPE, **options
    )


async def test_a_file_of_ids_becomes_a_file_of_rows(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(300), *ids(20), "no good")
    ended = await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)
    assert (ended.code, ended.stdout) == (3, "")
    found = len(names_in(here / "out.jsonl"))
    first, second = ended.stderr.splitlines()
    assert first.startswith(f"321 IDs, 20 of them duplicates: {found} found, {300 - found} missing, 1 failed; 6 requests in ")
    assert second == "done: out.jsonl; failed IDs: out.jsonl.failed.jsonl"


async def test_without_failures_the_exit_code_is_0_and_missing_groups_count_only_if_asked(
    variables: dict[str, str], here: Path
) -> None:
    written(here / "ids.txt", *ids(100))
    assert (await sync("ids.txt", "-o", "out.csv", env=variables, here=here)).code == 0
    assert (await sync("ids.txt", "-o", "out.csv", "--fail-on-missing", env=variables, here=here)).code == 3


async def test_rows_go_to_stdout_and_everything_else_to_stderr(variables: dict[str, str], here: Path) -> None:
    ended = await sync("-", "-o", "-", env=variables, here=here, stdin=b"x1\nno good\nx0\n")
    assert [json.loads(line)["group_id"] for line in ended.stdout.splitlines()] == ["x1", "x0"]
    assert ended.stderr.startswith("failed: no good: ")
    assert ended.code == 3
    ended = await sync("-", "-o", "-", "--format", "csv", "--column", "id", env=variables, here=here, stdin=b"n,id\n1,x1\n")
    assert [line.split(",")[0] for line in ended.stdout.splitlines()] == ["group_id", "x1"]
    ended = await sync("-", "-o", "-", "--field", "id", env=variables, here=here, stdin=b'{"id":"x1"}\n')
    assert json.loads(ended.stdout)["group_id"] == "x1"


async def test_stdin_can_be_a_regular_file(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(10))
    with (here / "ids.txt").open("rb") as stdin:
        process = await started("-", "-o", "out.jsonl", env=variables, here=here, stdin=stdin)
        await process.communicate()
    assert process.returncode == 0
    assert len(rows_in(here / "out.jsonl")) > 5


async def test_all_groups_of_the_app_go_into_a_database(variables: dict[str, str], here: Path) -> None:
    ended = await sync("--all", "-o", "out.sqlite", "--report", "json", env=variables, here=here)
    assert ended.code == 0, ended.stderr
    assert names_in((here / "out.sqlite").rename(here / "out.db")) == [f"g{number}" for number in range(1500)]
    later = await sync("--all", "--since", "2100-01-01", "-o", "new.jsonl", env=variables, here=here)
    assert later.code == 0
    assert rows_in(here / "new.jsonl") == []


async def test_failed_ids_are_retried_into_the_same_output(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", *ids(60))
    emulator.service.faults = Faults(poison={"x3"})
    assert (await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)).code == 3
    before = names_in(here / "out.jsonl")
    emulator.service.faults = Faults()
    ended = await sync("--retry-failed", "out.jsonl.failed.jsonl", "-o", "out.jsonl", env=variables, here=here)
    assert ended.code == 0
    assert names_in(here / "out.jsonl") == [*before, "x3"]
    assert sorted(path.name for path in here.iterdir()) == ["ids.txt", "out.jsonl"]


async def test_a_dry_run_counts_tries_the_credentials_and_writes_nothing(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", *ids(120), "x1", "no good")
    variables["RONGCLOUD_RATE"] = "2"
    ended = await sync("ids.txt", "--dry-run", env=variables, here=here)
    assert ended.code == 0
    assert ended.stderr.splitlines() == [
        "122 IDs, 1 of them duplicates, 1 invalid",
        "3 requests, 2 s at the least",
        "credentials accepted",
    ]
    assert emulator.report().batch_requests == 1
    assert [path.name for path in here.iterdir()] == ["ids.txt"]
    ended = await sync("ids.txt", "--dry-run", "--report", "json", env=variables, here=here)
    assert json.loads(ended.stderr)["requests"] == 3
    ended = await sync("--all", "--dry-run", env=variables, here=here)
    assert "credentials accepted" in ended.stderr
    ended = await sync("-", "--dry-run", env=variables, here=here, stdin=b"no good\n")
    assert "credentials not tried" in ended.stderr
    emulator.service.locked = True
    assert (await sync("ids.txt", "--dry-run", env=variables, here=here)).code == 4


async def test_a_report_in_json_is_the_last_line_and_all_of_stderr_is_json(
    variables: dict[str, str], here: Path
) -> None:
    written(here / "ids.txt", *ids(5000))
    variables["RONGCLOUD_RATE"] = "50"
    ended = await sync("ids.txt", "-o", "out.jsonl", "--report", "json", "--progress", "json", env=variables, here=here)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert {line["message_type"] for line in lines[:-1]} == {"status"}
    assert 0 < lines[0]["records"] < 5000
    assert lines[0]["total"] == 5000
    summary = lines[-1]
    assert summary["message_type"] == "summary"
    assert (summary["complete"], summary["records"], summary["requests"]) == (True, 5000, 100)
    assert (summary["output"], summary["row_schema_version"]) == ("out.jsonl", 1)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    ("content", "arguments", "code", "words"),
    [
        (b"g1\n\xff\n", ["ids.txt", "-o", "out.jsonl"], 2, "ids.txt, line 2: not UTF-8"),
        (b"a,b\n", ["ids.csv", "-o", "out.jsonl"], 2, "has no column 'group_id'; it has 'a', 'b'"),
        (b"g1\n", ["ids.txt", "-o", "nowhere/out.jsonl"], 2, "cannot write nowhere/out.jsonl: No such file"),
        (b"g1\n", ["ids.txt", "-o", "out.unknown"], 2, "does not tell a format; give --format"),
        (b"g1\n", ["ids.txt"], 2, "give an output: -o FILE"),
        (b"g1\n", ["absent.txt", "-o", "out.jsonl"], 2, "cannot read absent.txt: No such file"),
        (b"g1\n", ["ids.txt", "--all", "-o", "out.jsonl"], 2, "give one of"),
        (b"g1\n", ["ids.txt", "--since", "2024-01-01", "-o", "out.jsonl"], 2, "--since goes with --all"),
        (b"g1\n", ["ids.txt", "-o", "out.jsonl", "--max-time", "soon"], 2, "--max-time 'soon' is not a time"),
        (b"g1\n", [], 2, "Usage"),
    ],
)
async def test_what_is_wrong_is_told_with_its_exit_code(
    content: bytes,
    arguments: list[str],
    code: int,
    words: str,
    terminal: bool,
    variables: dict[str, str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(here)
    for name in ("ids.txt", "ids.csv"):
        (here / name).write_bytes(content)
    if terminal:
        shown = await sync_on_terminal(*arguments, env=variables, columns=200)
        assert (shown.code, words in shown.screen) == (code, True), shown.screen
        return
    ended = await sync(*arguments, env=variables, here=here)
    assert (ended.code, ended.stdout) == (code, "")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    if arguments:
        ended = await sync(*arguments, "--report", "json", env=variables, here=here)
        assert ended.code == code


async def test_an_error_in_json_says_its_exit_code(variables: dict[str, str], here: Path) -> None:
    ended = await sync("absent.txt", "-o", "out.jsonl", "--report", "json", env=variables, here=here)
    assert json.loads(ended.stderr) == {
        "message_type": "error",
        "message": "cannot read absent.txt: No such file or directory",
        "exit_code": 2,
    }


async def test_a_traceback_is_shown_only_for_debugging(variables: dict[str, str], here: Path) -> None:
    ended = await sync("absent.txt", "-o", "out.jsonl", "--debug", env=variables, here=here)
    assert ended.code == 2
    assert "Traceback" in ended.stderr


async def test_missing_credentials_are_named(variables: dict[str, str], here: Path) -> None:
    del variables["RONGCLOUD_APP_SECRET"]
    written(here / "ids.txt", "g1")
    ended = await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)
    assert ended.code == 2
    assert "RONGCLOUD_APP_SECRET" in ended.stderr


async def test_an_app_that_is_not_accepted_is_exit_code_4(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    emulator.service.enabled = False
    written(here / "ids.txt", *ids(100))
    ended = await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)
    assert ended.code == 4
    assert "not enabled" in ended.stderr
    assert "the same command goes on from there" in ended.stderr
    emulator.service.enabled = True
    assert (await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)).code == 0


async def test_an_input_that_changed_is_refused_until_restart(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(3000))
    variables["RONGCLOUD_RATE"] = "10"
    ended = await sync("ids.txt", "-o", "out.jsonl", "--max-time", "0.3s", env=variables, here=here)
    assert ended.code == 5
    assert "run the same command again to go on" in ended.stderr
    written(here / "ids.txt", *ids(3001))
    variables["RONGCLOUD_RATE"] = "2000"
    ended = await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)
    assert ended.code == 2
    assert "is not the input that the unfinished run had" in ended.stderr
    assert (await sync("ids.txt", "-o", "out.jsonl", "--restart", env=variables, here=here)).code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_stops_the_job_after_what_is_under_way_and_it_goes_on(
    number: signal.Signals, code: int, variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", *ids(6000))
    slow = variables | {"RONGCLOUD_RATE": "30"}
    process = await started("ids.txt", "-o", "out.jsonl", "--report", "json", env=slow, here=here)
    while emulator.report().batch_requests < 5:
        await asyncio.sleep(0.01)
    process.send_signal(number)
    _, errors = await process.communicate()
    summary = json.loads(errors.splitlines()[-1])
    assert process.returncode == code
    assert not summary["complete"]
    done = summary["records"]
    assert 0 < done < 6000
    sent = emulator.report().batch_requests
    assert sent == summary["requests"] == -(-done // 50)  # nothing was asked whose answer was not kept
    ended = await sync("ids.txt", "-o", "out.jsonl", "--report", "json", env=variables, here=here)
    assert json.loads(ended.stderr)["resumed_from"] == done
    assert emulator.report().batch_requests == 120
    assert ended.code == 0
    reference = await sync("ids.txt", "-o", "undisturbed.jsonl", env=variables, here=here)
    assert reference.code == 0
    assert (here / "out.jsonl").read_bytes() == (here / "undisturbed.jsonl").read_bytes()


async def test_a_second_signal_stops_at_once(variables: dict[str, str], emulator: Emulator, here: Path) -> None:
    emulator.service.faults = Faults(share={"hang": 1.0})
    written(here / "ids.txt", *ids(600))
    process = await started("ids.txt", "-o", "out.jsonl", env=variables, here=here)
    while not emulator.report().requests:
        await asyncio.sleep(0.01)
    while process.returncode is None:
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.05)
    assert process.returncode == 130


async def test_a_signal_does_not_wait_for_a_quiet_stdin(variables: dict[str, str], emulator: Emulator, here: Path) -> None:
    process = await started("-", "-o", "out.jsonl", env=variables, here=here, stdin=PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x1\nx2\n")
    while not emulator.report().requests:
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    await process.wait()
    process.stdin.close()
    assert process.returncode == 143


async def test_a_reader_that_goes_away_ends_the_command_quietly(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(3000))
    process = await started("ids.txt", "-o", "-", env=variables, here=here)
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert process.stderr is not None
    errors = await process.stderr.read()
    await process.wait()
    assert (process.returncode, errors) == (141, b"")


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


async def test_an_output_that_takes_no_more_is_told_and_the_job_goes_on_later(
    variables: dict[str, str], here: Path
) -> None:
    written(here / "ids.txt", *ids(3000))
    for name in ("out.jsonl", "out.db"):
        process = await started("ids.txt", "-o", name, env=variables, here=here, preexec_fn=_small_files)
        _, errors = await process.communicate()
        assert process.returncode == 1, errors
        assert b"the same command goes on from there" in errors
        assert errors.count(b"\n") == 1
        assert (await sync("ids.txt", "-o", name, env=variables, here=here)).code == 0
    reference = await sync("ids.txt", "-o", "undisturbed.jsonl", env=variables, here=here)
    assert reference.code == 0
    assert (here / "out.jsonl").read_bytes() == (here / "undisturbed.jsonl").read_bytes()
    assert rows_in(here / "out.db") == rows_in(here / "out.jsonl")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)  # noqa: S603, S607  a tmpfs of the test's own
    if mounted.returncode:
        pytest.skip("a file system of its own takes the right to mount one")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)  # noqa: S603, S607  likewise


async def test_a_disk_that_fills_up_is_told_and_the_job_goes_on_when_there_is_room(
    variables: dict[str, str], here: Path, small_disk: Path
) -> None:
    written(here / "ids.txt", *ids(3000))
    for name in ("out.jsonl", "out.csv", "out.db", "out.parquet"):
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(700_000 if name != "out.parquet" else 1_000_000))
        ended = await sync("ids.txt", "-o", str(small_disk / name), env=variables, here=here)
        assert ended.code in {1, 2}, ended
        assert "space" in ended.stderr or "full" in ended.stderr
        ballast.unlink()
        for left in small_disk.iterdir():
            subprocess.run(["cp", "-r", str(left), str(here)], check=True)  # noqa: S603, S607  more room elsewhere
            subprocess.run(["rm", "-r", str(left)], check=True)  # noqa: S603, S607  likewise
        ended = await sync("ids.txt", "-o", name, env=variables, here=here)
        assert ended.code == 0, ended.stderr
        assert rows_in(here / name)
    assert rows_in(here / "out.db") == rows_in(here / "out.jsonl")


@pytest.mark.parametrize("columns", [80, 120])
async def test_a_terminal_shows_a_bar_that_fits_and_is_gone_in_the_end(
    columns: int, variables: dict[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    written(here / "ids.txt", *ids(4000))
    variables["RONGCLOUD_RATE"] = "50"
    shown = await sync_on_terminal("ids.txt", "-o", "out.jsonl", env=variables, columns=columns)
    assert shown.code == 0
    assert "of 4,000" in shown.screen
    assert "IDs/s" in shown.screen
    assert "budget" in shown.screen
    assert shown.screen.splitlines()[-1].endswith("done: out.jsonl")


async def test_a_terminal_without_colour_has_none(
    variables: dict[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    written(here / "ids.txt", *ids(2000))
    variables |= {"RONGCLOUD_RATE": "40", "NO_COLOR": "1"}
    shown = await sync_on_terminal("ids.txt", "-o", "out.jsonl", env=variables)
    assert "of 2,000" in shown.screen
    assert "\x1b[32m" not in shown.screen
    shown = await sync_on_terminal("ids.txt", "-o", "out.jsonl", env=variables | {"TERM": "dumb"})
    assert "\x1b" not in shown.screen


async def test_the_secret_is_nowhere(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(100))
    ended = await sync("ids.txt", "-o", "out.jsonl", "--debug", env=variables, here=here)
    assert variables["RONGCLOUD_APP_SECRET"] not in ended.stderr
    for path in here.iterdir():
        assert os.fsencode(variables["RONGCLOUD_APP_SECRET"]) not in path.read_bytes()

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.bulk_jobs import files_in, ids, rows_in, sync, sync_on, until, written
from support.command_line import COMMAND, run, run_on_terminal
from support.command_process import started

from rongcloud_groups.emulator import Emulator, Faults


@pytest.mark.parametrize("on", ["pipe", "terminal"])
async def test_an_input_that_changed_is_refused_until_restart(on: str, variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(3000))
    variables["RONGCLOUD_RATE"] = "5"
    code, printed = await sync_on(on, "ids.txt", "-o", "out.jsonl", "--max-time", "4s", env=variables, here=here)
    assert code == 5
    assert "run the same command again to resume" in printed
    written(here / "ids.txt", *ids(2999), "changed")
    variables["RONGCLOUD_RATE"] = "2000"
    code, printed = await sync_on(on, "ids.txt", "-o", "out.jsonl", env=variables, here=here)
    assert code == 2
    assert "is not the input that the unfinished run had" in printed
    assert "Traceback" not in printed
    assert (await sync_on(on, "ids.txt", "-o", "out.jsonl", "--restart", env=variables, here=here))[0] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_stops_the_job_after_the_requests_in_flight_and_it_resumes(
    number: signal.Signals, code: int, variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", *ids(6000))
    slow = variables | {"RONGCLOUD_RATE": "30", "RONGCLOUD_LIMITER": "local"}
    process = await started("sync", "ids.txt", "-o", "out.jsonl", "--report", "json", env=slow, here=here)
    await until(lambda: emulator.report().batch_requests >= 5)
    process.send_signal(number)
    _, errors = await process.communicate()
    summary = json.loads(errors.splitlines()[-1])
    assert process.returncode == code
    assert not summary["complete"]
    done = summary["records"]
    assert 0 < done < 6000
    sent = emulator.report().batch_requests
    assert sent == summary["requests"] == -(-done // 50)  # nothing was asked whose response was not kept
    ended = await sync("ids.txt", "-o", "out.jsonl", "--report", "json", env=variables, here=here)
    assert json.loads(ended.stderr)["resumed_from"] == done
    assert emulator.report().batch_requests == 120
    assert ended.code == 0
    reference = await sync("ids.txt", "-o", "undisturbed.jsonl", env=variables, here=here)
    assert reference.code == 0
    assert (here / "out.jsonl").read_bytes() == (here / "undisturbed.jsonl").read_bytes()


async def test_two_signals_at_once_are_one(variables: dict[str, str], emulator: Emulator, here: Path) -> None:
    written(here / "ids.txt", *ids(6000))
    slow = variables | {"RONGCLOUD_RATE": "30", "RONGCLOUD_LIMITER": "local"}
    process = await started("sync", "ids.txt", "-o", "out.jsonl", "--report", "json", env=slow, here=here)
    await until(lambda: emulator.report().batch_requests >= 5)
    for number in (signal.SIGINT, signal.SIGTERM):  # the same one twice may come as one
        process.send_signal(number)
    _, errors = await process.communicate()
    assert not json.loads(errors.splitlines()[-1])["complete"]
    assert process.returncode in {130, 143}


async def test_a_second_signal_stops_at_once(variables: dict[str, str], emulator: Emulator, here: Path) -> None:
    emulator.service.faults = Faults(share={"hang": 1.0})
    written(here / "ids.txt", *ids(600))
    process = await started("sync", "ids.txt", "-o", "out.jsonl", env=variables, here=here)
    await until(lambda: emulator.report().requests)
    while process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)  # unlike `send_signal`, it leaves the exit code to the loop
        await asyncio.sleep(0.05)
    assert process.returncode == 130


async def test_a_signal_does_not_wait_for_a_quiet_stdin(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    process = await started("sync", "-", "-o", "out.jsonl", env=variables, here=here, stdin=PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x1\nx2\n")
    await until(lambda: emulator.report().requests)
    process.send_signal(signal.SIGTERM)
    await process.wait()
    process.stdin.close()
    assert process.returncode == 143


async def test_a_reader_that_goes_away_ends_the_command_quietly(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(3000))
    process = await started("sync", "ids.txt", "-o", "-", env=variables, here=here)
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert process.stderr is not None
    errors = await process.stderr.read()
    await process.wait()
    assert (process.returncode, errors) == (141, b"")


async def test_a_reader_that_goes_away_ends_the_command_quietly_on_a_terminal_too(
    variables: dict[str, str], here: Path
) -> None:
    written(here / "ids.txt", *ids(3000))
    pipeline = f'set -o pipefail; "{COMMAND}" sync ids.txt -o - | head -n 1 > first'
    shown = await asyncio.to_thread(run_on_terminal, pipeline, env=variables, command=["bash", "-c"], cwd=here)
    assert shown.code == 141
    assert "rror" not in shown.screen
    assert len((here / "first").read_bytes().splitlines()) == 1


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


async def test_an_output_that_is_full_is_an_error_and_the_job_resumes_later(
    variables: dict[str, str], here: Path
) -> None:
    written(here / "ids.txt", *ids(3000))
    for name in ("out.jsonl", "out.db"):
        process = await asyncio.create_subprocess_exec(
            COMMAND, "sync", "ids.txt", "-o", name, env=variables, cwd=here, stderr=PIPE, preexec_fn=_small_files
        )
        _, errors = await process.communicate()
        assert process.returncode == 1, errors
        assert b"the same command resumes there" in errors
        assert errors.count(b"\n") == 1
        assert name.encode() in errors
        assert (await sync("ids.txt", "-o", name, env=variables, here=here)).code == 0
    reference = await sync("ids.txt", "-o", "undisturbed.jsonl", env=variables, here=here)
    assert reference.code == 0
    assert (here / "out.jsonl").read_bytes() == (here / "undisturbed.jsonl").read_bytes()
    assert rows_in(here / "out.db") == rows_in(here / "out.jsonl")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, check=False, capture_output=True)  # noqa: S603  a tmpfs of the test's own
    if mounted.returncode:
        pytest.skip("a file system of its own takes the right to mount one")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)  # noqa: S603, S607  ours too


def move_all(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.move(path, target)


def fill_up(disk: Path) -> Path:
    """Leave 64 KB; removing the returned file makes room."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(1024 * 1024 - 64 * 1024))
    return ballast


@pytest.mark.parametrize("arguments", [["get", *ids(400)], ["sync", "ids.txt", "-o", "-"]], ids=["get", "sync"])
async def test_rows_that_stdout_has_no_room_for_are_an_error(
    arguments: list[str], variables: dict[str, str], here: Path, small_disk: Path
) -> None:
    """A raw stdout takes a part of a write, and says so by its return value alone."""
    written(here / "ids.txt", *ids(400))
    variables["PYTHONUNBUFFERED"] = "1"
    fill_up(small_disk)
    with (small_disk / "rows").open("wb") as stdout:
        ended = await asyncio.to_thread(run, *arguments, env=variables, cwd=here, stdout=stdout.fileno())
    assert (ended.code, ended.stderr) == (1, "rongcloud-groups: error: cannot write stdout: No space left on device\n")


async def test_the_missing_ids_of_a_stopped_run_to_stdout_are_discarded(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(3000))
    written(here / "list.txt", "of an earlier run")
    variables["RONGCLOUD_RATE"] = "10"
    ended = await sync("ids.txt", "-o", "-", "--missing", "list.txt", "--max-time", "1s", env=variables, here=here)
    assert ended.code == 5
    assert "stopped before the end" in ended.stderr
    assert files_in(here) == ["ids.txt", "list.txt"]
    assert (here / "list.txt").read_text() == "of an earlier run\n"


@pytest.mark.parametrize("on", ["pipe", "terminal"])
async def test_a_disk_that_fills_up_is_an_error_and_the_job_resumes_when_there_is_room(
    on: str, variables: dict[str, str], here: Path, small_disk: Path
) -> None:
    written(here / "ids.txt", *ids(3000))
    for name in ("out.jsonl", "out.csv", "out.db", "out.parquet"):
        ballast = fill_up(small_disk)
        code, printed = await sync_on(on, "ids.txt", "-o", str(small_disk / name), env=variables, here=here)
        assert code in {1, 2}, printed
        assert "space" in printed or "full" in printed
        assert name in printed
        assert "Traceback" not in printed
        ballast.unlink()
        move_all(small_disk, here)
        code, printed = await sync_on(on, "ids.txt", "-o", name, env=variables, here=here)
        assert code == 0, printed
        assert rows_in(here / name)
    assert rows_in(here / "out.db") == rows_in(here / "out.jsonl")


async def test_stdin_can_be_a_regular_file(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(10))
    with (here / "ids.txt").open("rb") as stdin:
        process = await started("sync", "-", "-o", "out.jsonl", env=variables, here=here, stdin=stdin.fileno())
        await process.communicate()
    assert process.returncode == 0
    assert len(rows_in(here / "out.jsonl")) > 5

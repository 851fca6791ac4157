"""The job is killed with SIGKILL again and again, and ends as if nothing had happened."""

import asyncio
import multiprocessing
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.bulk_jobs import environment_of, failures_in, files_in, ids, names_in, rows_in, until, written
from support.command_server import IMPORTED_BY_RUNS, IMPORTED_FOR_PARQUET
from support.sync_process import run_command

from rongcloud_groups import ConfigError
from rongcloud_groups.bulk import open_sink
from rongcloud_groups.emulator import Emulator, Faults, Universe

KILLS = 20
NAMES = [*ids(700), "no good", *ids(1500), *ids(300), "bad,too", *ids(3000, "群"), "", "too long" * 9, *ids(500, "y")]


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    faults = Faults(share={"error-500": 0.02, "rst": 0.02})
    async with Emulator(limit=None, faults=faults, universe=Universe(listed=6000)) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def forked() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have everything imported (pyarrow imports pandas), so that a kill hits more than that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED_BY_RUNS, *IMPORTED_FOR_PARQUET])
    return context


async def asking_or_ended(process: multiprocessing.context.ForkServerProcess, emulator: Emulator) -> None:
    """Until the process has sent some requests, as many as chance says."""
    requests = random.randint(1, 8)
    await until(lambda: len(emulator.arrivals) >= requests or not process.is_alive())


async def ended(process: multiprocessing.context.ForkServerProcess) -> int | None:
    await asyncio.to_thread(process.join)
    return process.exitcode


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.db", "out.parquet"])
async def test_killed_at_random_moments_the_output_is_that_of_an_undisturbed_run(
    name: str, emulator: Emulator, forked: multiprocessing.context.ForkServerContext, tmp_path: Path
) -> None:
    source = str(written(tmp_path / "ids.txt", *NAMES))
    await killed_and_compared([source], name, emulator, forked, tmp_path)


async def test_a_walk_through_the_listing_survives_being_killed(
    emulator: Emulator, forked: multiprocessing.context.ForkServerContext, tmp_path: Path
) -> None:
    await killed_and_compared(["--all"], "out.jsonl", emulator, forked, tmp_path)
    assert names_in(tmp_path / "out.jsonl") == [f"g{number}" for number in range(6000)]


async def killed_and_compared(
    arguments: list[str],
    name: str,
    emulator: Emulator,
    forked: multiprocessing.context.ForkServerContext,
    directory: Path,
) -> None:
    variables = environment_of(emulator, directory, rate=20)
    log = str(directory / "log")
    (directory / "undisturbed").mkdir()
    expected = directory / "undisturbed" / name
    fast = environment_of(emulator, directory)
    whole = forked.Process(target=run_command, args=([*arguments, "-o", str(expected)], fast, log))
    whole.start()
    code = await ended(whole)

    output = directory / name
    done: list[int] = []  # after each kill
    while len(done) < KILLS or len(set(done)) <= KILLS // 5:  # they fall all over the work, not only before it
        process = forked.Process(target=run_command, args=([*arguments, "-o", str(output)], variables, log))
        emulator.reset()
        process.start()
        await asking_or_ended(process, emulator)
        await asyncio.sleep(random.uniform(0, 0.05))  # between two requests, or in a commit
        process.kill()
        if (killed := await ended(process)) != -9:  # on a slow machine the last request may come before the kill
            assert killed == code, said_in(log)
            break
        done.append(records_done(output))
    assert len(set(done)) > KILLS // 5
    variables = fast
    process = forked.Process(target=run_command, args=([*arguments, "-o", str(output)], variables, log))
    process.start()
    assert await ended(process) == code, said_in(log)

    assert rows_in(output) == rows_in(expected)
    failed, expected_failed = (
        [(line["group_id"], line["error"]) for line in failures_in(path)] for path in (output, expected)
    )
    assert failed == expected_failed
    assert missing_in(output) == missing_in(expected)
    left = set(files_in(directory)) - {"ids.txt", "log", "ca.pem", "undisturbed"}
    assert left <= {name, f"{name}.failed.jsonl", f"{name}.missing.txt"}


def missing_in(output: Path) -> str:
    path = Path(f"{output}.missing.txt")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def said_in(log: str) -> str:
    return Path(log).read_text(encoding="utf-8")


def records_done(output: Path) -> int:
    try:
        saved = open_sink(output).load()
    except ConfigError:  # killed while the database was being made
        return 0
    return 0 if saved is None else saved.counts.records

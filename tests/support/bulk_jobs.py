"""What the tests of bulk sync share."""

import asyncio
import csv
import json
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from support.clients import trusting
from support.command_line import Ended, OnTerminal, environment, run, run_on_terminal

from rongcloud_groups import GroupClient, GroupProfile
from rongcloud_groups._tables.rows import flat_row
from rongcloud_groups.bulk import COLUMNS, FailedIdsFile, Job, Source, open_sink
from rongcloud_groups.bulk.sinks.interface import Sink
from rongcloud_groups.emulator import Emulator

OUTPUTS = ("out.jsonl", "out.csv", "out.db", "out.parquet")


def ids(count: int, prefix: str = "x") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def client_of(emulator: Emulator, rate: float = 2000.0, **options: Any) -> GroupClient:
    return GroupClient(
        emulator.app_key, emulator.app_secret, base_urls=emulator.url, verify=trusting(emulator), rate=rate, **options
    )


def job_of(client: GroupClient, source: Source, output: Path, *, force: bool = False, **options: Any) -> Job:
    sink: Sink = open_sink(output, force=force)
    sink.seconds_between_commits = 0.02
    return Job(client, source, sink, FailedIdsFile(output), **options)


def environment_of(emulator: Emulator, directory: Path, rate: float = 2000.0) -> dict[str, str]:
    """The environment variables of a command that talks to an emulator."""
    ca_file = directory / "ca.pem"
    ca_file.write_bytes(emulator.ca_pem)
    return environment(emulator.url, ca_file, RONGCLOUD_RATE=str(rate))


def rows_in(path: Path) -> list[tuple[Any, ...]]:
    """The rows in their order, in the columns of the schema; in CSV, an empty text is None."""
    match path.suffix:
        case ".jsonl":
            lines = path.read_bytes().splitlines()
            return [flat_row(msgspec.json.decode(line, type=GroupProfile)) for line in lines]
        case ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            assert tuple(header) == COLUMNS
            members = COLUMNS.index("member_count")
            return [
                _with_time(int(cell) if cell and place == members else cell or None for place, cell in enumerate(row))
                for row in rows
            ]
        case ".db":
            with closing(sqlite3.connect(path)) as database:
                return [_with_time(row) for row in database.execute("SELECT * FROM groups ORDER BY rowid")]
        case _:
            return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def _with_time(cells: Iterable[Any]) -> tuple[Any, ...]:
    row = dict(zip(COLUMNS, cells, strict=True))
    if row["create_time"] is not None:
        assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", row["create_time"])
        row["create_time"] = datetime.fromisoformat(row["create_time"])
    return tuple(row.values())


def names_in(path: Path) -> list[str]:
    return [row[0] for row in rows_in(path)]


async def sync(*arguments: str, env: dict[str, str], here: Path, stdin: bytes = b"") -> Ended:
    return await asyncio.to_thread(run, "sync", *arguments, env=env, cwd=here, stdin=stdin)


async def sync_on_terminal(
    *arguments: str, env: dict[str, str], columns: int = 80, here: Path | None = None
) -> OnTerminal:
    return await asyncio.to_thread(run_on_terminal, "sync", *arguments, env=env, columns=columns, cwd=here)


async def sync_on(on: str, *arguments: str, env: dict[str, str], here: Path) -> tuple[int, str]:
    """The exit code, and the messages: on stderr in a pipe, or on a terminal."""
    if on == "terminal":
        return await sync_on_terminal(*arguments, env=env, columns=200, here=here)
    code, stdout, printed = await sync(*arguments, env=env, here=here)
    assert stdout == ""
    return code, printed


def failures_in(output: Path) -> list[dict[str, Any]]:
    """What is noted of failed IDs, in its order."""
    note = Path(f"{output}.failed.jsonl")
    return [json.loads(line) for line in note.read_bytes().splitlines()] if note.exists() else []


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  what is waited for sets no event
        await asyncio.sleep(0.001)


async def stop_when(job: Job, it_is_time: Callable[[], Any]) -> None:
    """Run a job, and stop it when something is true; it does not complete."""
    running = asyncio.create_task(job.run())
    await until(it_is_time)
    job.stop()
    assert not (await running).complete

"""The dlt source, into DuckDB and into a real PostgreSQL, killed in the middle and run again."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import dlt
import duckdb
import httpx
import msgspec
import psycopg2  # type: ignore[import-untyped]
import pytest
from dlt.extract.concurrency import FuturesPool
from support.emulators import emulator_process
from support.postgres import SERVER, postgres

from rongcloud_groups import GroupClient
from rongcloud_groups.blocking import BlockingGroupClient
from rongcloud_groups.dlt import all_groups, groups
from rongcloud_groups.emulator import Report, Universe
from rongcloud_groups.emulator.program import Address

LISTED = 4000
# dlt's own logging, which pytest would make an error inside of it
pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")
PROGRAM = """
import dlt, sys
from rongcloud_groups.dlt import all_groups
destination = dlt.destinations.postgres(sys.argv[1]) if "://" in sys.argv[1] else dlt.destinations.duckdb(sys.argv[1])
pipeline = dlt.pipeline("groups", pipelines_dir=sys.argv[2], destination=destination, dataset_name="rongcloud")
while pipeline.run(all_groups().add_limit(2)).load_packages:
    print("loaded", flush=True)
"""


@pytest.fixture(autouse=True)
def quiet_dlt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[Address]:
    with emulator_process("--no-tls", "--listed", str(LISTED), "--unknown", "0") as address:
        monkeypatch.setenv("RONGCLOUD_BASE_URL", address.url)
        monkeypatch.setenv("RONGCLOUD_APP_KEY", address.app_key)
        monkeypatch.setenv("RONGCLOUD_APP_SECRET", address.app_secret)
        yield address


@pytest.fixture
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "duckdb":
        yield str(tmp_path / "groups.duckdb")
        return
    if SERVER is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres() as url:
        yield url


def report(address: Address) -> Report:
    with httpx.Client(base_url=address.url, trust_env=False) as client:
        return msgspec.json.decode(client.get("/_emulator/report").content, type=Report)


def selected(destination: str, query: str) -> list[Any]:
    if "://" in destination:
        with psycopg2.connect(destination) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())
    with duckdb.connect(destination, read_only=True) as connection:
        return list(connection.execute(query).fetchall())


def pipeline(tmp_path: Path) -> dlt.Pipeline:
    file = dlt.destinations.duckdb(str(tmp_path / "groups.duckdb"))
    return dlt.pipeline("given", pipelines_dir=str(tmp_path / "p"), destination=file, dataset_name="rongcloud")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("destination", ["duckdb", "postgresql"], indirect=True)
def test_a_load_of_all_groups_that_is_killed_resumes_and_has_every_row_once(
    destination: str, address: Address, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PROGRAM, destination, str(tmp_path / "pipelines")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603  ours
        assert process.stdout is not None
        assert process.stdout.readline() == b"loaded\n"
        process.send_signal(signal.SIGKILL)
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)  # noqa: S603  ours
    assert ended.returncode == 0, ended.stderr
    rows = selected(destination, "SELECT count(*), count(DISTINCT group_id) FROM rongcloud.groups")
    assert rows == [(LISTED, LISTED)]
    requests = Counter(report(address).requests)
    batches = requests["/entrust/group/profile/query.json"]
    assert batches <= LISTED / 50 * 2  # the pages ahead of the kill are asked for again, not the whole


def test_a_limit_leaves_out_no_rows_where_dlt_takes_items_ahead_of_it(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = FuturesPool.resolve_next_future_no_wait

    def one_behind(pool: FuturesPool) -> Any:
        """Of an asynchronous resource, take an item when the next one has been made, as a slow process does."""
        wait(pool.futures)
        return None if len(pool.futures) == 1 else look(pool)

    del address
    monkeypatch.setattr(FuturesPool, "resolve_next_future_no_wait", one_behind)
    loading = pipeline(tmp_path)
    while loading.run(all_groups().add_limit(2)).load_packages:
        pass
    rows = selected(str(tmp_path / "groups.duckdb"), "SELECT count(*), count(DISTINCT group_id) FROM rongcloud.groups")
    assert rows == [(LISTED, LISTED)]


def test_a_second_run_asks_for_new_groups_only(address: Address, tmp_path: Path) -> None:
    loading = pipeline(tmp_path)
    loading.run(all_groups())
    before = report(address)
    loading.run(all_groups())
    after = report(address)
    asked = {path: count - before.requests.get(path, 0) for path, count in after.requests.items()}
    assert asked == {"/entrust/group/query.json": 1, "/entrust/group/profile/query.json": 1}


def test_missing_groups_are_deleted_and_failed_ids_have_a_table(address: Address, tmp_path: Path) -> None:
    del address
    universe = Universe(unknown_share=0.0)
    ids = [f"g{number}" for number in range(120)]
    assert all(map(universe.knows, ids))
    loading = pipeline(tmp_path)
    loading.run(groups([*ids, "a,b"]))
    assert selected(str(tmp_path / "groups.duckdb"), "SELECT count(*) FROM rongcloud.groups") == [(120,)]
    with emulator_process("--no-tls", "--unknown", "1") as empty:
        loading.run(groups(ids[:20], base_urls=empty.url, app_key=empty.app_key, app_secret=empty.app_secret))
    assert selected(str(tmp_path / "groups.duckdb"), "SELECT count(*) FROM rongcloud.groups") == [(100,)]
    failed = selected(str(tmp_path / "groups.duckdb"), "SELECT group_id, error FROM rongcloud.groups_failed")
    assert failed == [("a,b", "InvalidGroupId")]


@dlt.resource
def a_hundred_ids() -> Iterator[str]:
    yield from (f"g{number}" for number in range(100))


@dlt.transformer(data_from=a_hundred_ids)
async def an_async_client_a_call(group_id: str) -> Any:
    async with GroupClient.from_env() as client:
        return msgspec.to_builtins(await client.get(group_id))


@dlt.transformer(data_from=a_hundred_ids, parallelized=True)
def a_blocking_client_a_call(group_id: str) -> Any:
    with BlockingGroupClient.from_env() as client:
        yield msgspec.to_builtins(client.get(group_id))


@pytest.mark.parametrize("resource", [an_async_client_a_call, a_blocking_client_a_call])
def test_a_client_a_call_warns_once_or_keeps_the_budget(
    resource: Any, address: Address, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    pipeline(tmp_path).run(resource.with_name("groups"))
    took = time.monotonic() - began
    assert report(address).batch_requests == 100
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("rongcloud_groups")]
    if warnings:
        assert ["shared()" in text for text in warnings] == [True]
    else:
        assert took > 99 / 100
    assert bool(warnings) == (resource is an_async_client_a_call)


def test_a_script_of_ten_lines_runs_without_a_warning(address: Address, tmp_path: Path) -> None:
    del address
    program = (
        "import dlt\nfrom rongcloud_groups.dlt import groups\n"
        "pipeline = dlt.pipeline('x', destination=dlt.destinations.duckdb('x.duckdb'), dataset_name='rongcloud')\n"
        "pipeline.run(groups(['g1', 'g2']))\n"
    )
    ended = subprocess.run(  # noqa: S603  ours
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (ended.returncode, ended.stderr) == (0, "")

"""The example for Ray Data, with an actor killed. Ray is large, so it is installed by who wants to run this."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import msgspec
import pytest
from benchmarks.servers.redis_process import RedisProcess
from support.emulators import emulator_process
from support.pages import ROOT, Block
from support.shell import command_of, readers_environment

from rongcloud_groups.emulator import Report, Universe


@pytest.fixture(autouse=True)
def ray() -> None:
    pytest.importorskip("ray", reason="Ray is not among the packages of dev: pip install 'ray[data]' psutil")


IDS = [f"g{number}" for number in range(30_000)]


def actors_of(port: int) -> list[int]:
    """The processes of the actors that look up: they have a connection to the service."""
    import psutil  # type: ignore[import-untyped]

    connected = (each for each in psutil.net_connections("tcp") if each.raddr and each.raddr.port == port)
    return sorted({each.pid for each in connected if each.pid not in {None, os.getpid()}})


@pytest.mark.timeout(300)
@pytest.mark.runs("ray_data.py/indented")
def test_a_killed_actor_costs_no_row_and_the_budget_holds(blocks: list[Block], tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    pq.write_table(pa.table({"group_id": IDS}), tmp_path / "ids.parquet")
    with RedisProcess(tmp_path) as redis, emulator_process("--no-tls", "--unknown", "0.1") as address:
        export, job = (line.replace("redis://127.0.0.1:6379/0", redis.url) for line in blocks[0].commands)
        job = job.replace("IDS", str(tmp_path / "ids")).replace("PROFILES", str(tmp_path / "out"))
        command = command_of(export, f"exec {job}")
        env = readers_environment(address)
        with httpx.Client(base_url=address.url, trust_env=False) as service:

            def report() -> Report:
                return msgspec.json.decode(service.get("/_emulator/report").content, type=Report)

            with (
                (tmp_path / "log").open("wb") as log,
                subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log) as process,  # noqa: S603  ours
            ):
                while sum(report().requests.values()) < 100:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.05)  # the service's counter sets no event
                os.kill(actors_of(httpx.URL(address.url).port or 0)[0], signal.SIGKILL)
                assert process.wait() == 0, (tmp_path / "log").read_text()
            seen = report()
    sys.stdout.write(f"{seen}\n")  # the figures, for pytest -rP
    rows = pq.read_table(tmp_path / "out", columns=["group_id"])["group_id"].to_pylist()
    universe = Universe(unknown_share=0.1)
    assert sorted(rows) == sorted(filter(universe.knows, IDS))
    assert (seen.refused, seen.worst_second <= 100) == (0, True), seen
    assert seen.ids_asked_again <= 2000


A_GLOBAL_CLIENT = """
import sys
import ray
from rongcloud_groups.blocking import BlockingGroupClient

client = BlockingGroupClient.from_env()

def look_up(row):
    profile = client.get(row["id"])
    return {"group_id": row["id"], "name": profile.group_name}

rows = ray.data.from_items([{"id": f"g{number}"} for number in range(200)], override_num_blocks=8)
print(len(rows.map(look_up, num_cpus=0.5, concurrency=4).take_all()))
"""
A_CLIENT_A_CALL = A_GLOBAL_CLIENT.replace("client = ", "make = lambda: ").replace(
    "    profile = client.get(row", "    with make() as client:\n        profile = client.get(row"
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("program", [A_GLOBAL_CLIENT, A_CLIENT_A_CALL], ids=["a global client", "a client a call"])
def test_a_first_attempt_keeps_the_budget(program: str) -> None:
    with emulator_process("--no-tls", "--unknown", "0") as address:
        env = readers_environment(address, RONGCLOUD_RATE="20")
        ended = subprocess.run(  # noqa: S603  ours
            [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False, timeout=250
        )
        with httpx.Client(base_url=address.url, trust_env=False) as service:
            seen = msgspec.json.decode(service.get("/_emulator/report").content, type=Report)
    sys.stdout.write(f"{seen}\n")
    assert (ended.returncode, ended.stdout.split()) == (0, ["200"]), ended.stderr
    assert (seen.batch_requests, seen.worst_second <= 25) == (200, True), seen

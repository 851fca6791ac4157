import ast
import asyncio
import importlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
from redis import Redis
from support.command_line import TIMEOUT, Ended
from support.emulators import emulator_process
from support.pages import ROOT, Block
from support.shell import command_of, readers_environment, run_lines

from rongcloud_groups import ServerError
from rongcloud_groups.pytest_plugin import InProcessEmulator

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        assert not os.environ.get("CI"), "redis-server must be installed in CI"
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    directory = tmp_path_factory.mktemp("redis")
    with subprocess.Popen([program, *options], cwd=directory, stdout=subprocess.PIPE) as server:  # noqa: S603  a real one
        assert server.stdout is not None
        assert any(b"ready to accept connections" in line.lower() for line in server.stdout)
        yield f"redis://127.0.0.1:{port}/0"
        server.kill()
        server.stdout.read()


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module("worker")


@pytest.fixture(scope="module")
def env(redis_url: str) -> Iterator[dict[str, str]]:
    with emulator_process("--unknown=0", "--latency=0.01") as address:
        yield readers_environment(address, REDIS_URL=redis_url, RONGCLOUD_LIMITER=f"{redis_url}?share=0.5")


@contextmanager
def fleet_of(*lines: str, env: dict[str, str]) -> Iterator[list[str]]:
    """Two processes that take jobs, and the lines of their log, complete once they have ended."""
    command = command_of(*lines)
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603  our own example
        assert process.stderr is not None
        log: list[str] = []
        while sum("Listening started" in line for line in log) < 2:
            log.append(process.stderr.readline())
            assert log[-1], "".join(log[:-1])
        try:
            yield log
        finally:
            process.terminate()
            log += process.communicate(timeout=TIMEOUT)[1].splitlines(keepends=True)


async def run_worker(env: dict[str, str], *group_ids: str) -> Ended:
    command = [sys.executable, str(EXAMPLES / "worker.py"), *group_ids]
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=-1, stderr=-1)
    output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert process.returncode is not None
    return Ended(process.returncode, output.decode(), errors.decode())


async def sent(env: dict[str, str], *group_ids: str) -> dict[str, str]:
    ended = await run_worker(env, *group_ids)
    assert (ended.code, ended.stderr) == (0, "")
    names = ast.literal_eval(ended.stdout)
    assert isinstance(names, dict)
    return names


@pytest.mark.runs("worker.py/indented")
async def test_a_fleet_does_the_jobs_within_the_budget_in_redis(
    blocks: list[Block], env: dict[str, str], redis_url: str
) -> None:
    export, fleet, job = (line.replace("redis://127.0.0.1:6379/0", redis_url) for line in blocks[0].commands)
    with fleet_of(export, f"exec {fleet}", env=env) as log:
        jobs = await asyncio.gather(sent(env, "g1", "g2", "a b"), sent(env, *(f"h{number}" for number in range(120))))
        ended = await asyncio.to_thread(run_lines, export, job, env=env, here=ROOT)
    assert ast.literal_eval(ended.stdout).keys() == {"g1", "g2", "g3"}
    assert "Traceback" not in "".join(log)
    assert [set(names) for names in jobs] == [{"g1", "g2"}, {f"h{number}" for number in range(120)}]
    assert all(names for job in jobs for names in job.values())
    with Redis.from_url(redis_url) as redis:
        assert any(b"rongcloud" in key for key in redis.keys("*"))


async def test_a_job_that_failed_says_why(env: dict[str, str]) -> None:
    with fleet_of("exec taskiq worker worker:broker --app-dir examples", env=env | {"RONGCLOUD_APP_SECRET": "another"}):
        ended = await run_worker(env, "g1")
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1].startswith("rongcloud_groups.errors.AuthenticationError: ")
    assert "Cannot parse" not in ended.stderr


async def test_without_an_id_it_says_how_it_is_used(env: dict[str, str]) -> None:
    assert await run_worker(env) == Ended(2, "", "usage: worker.py GROUP_ID...\n")


async def test_a_job_names_the_groups_that_there_are(worker: ModuleType, rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.add("g1", group_name="Chess & Tea")
    async with rongcloud_emulator.client() as client:
        names = await worker.group_names.original_func(["g1", "unknown", "a b"], groups=client)
    assert names == {"g1": "Chess & Tea"}


async def test_a_job_whose_lookup_failed_is_to_be_tried_again(
    worker: ModuleType, rongcloud_emulator: InProcessEmulator
) -> None:
    rongcloud_emulator.fail_next("error-500")
    async with rongcloud_emulator.client(max_attempts=1) as client:
        with pytest.raises(ServerError):
            await worker.group_names.original_func(["g1"], groups=client)
    assert worker.group_names.labels["retry_on_error"] is True

import asyncio
import importlib
import re
import ssl
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import IO

import aiohttp
import httpx
import msgspec
import pytest
from support.command_line import TIMEOUT
from support.emulators import emulator_process
from support.pages import ROOT, Block
from support.shell import command_of, readers_environment

from rongcloud_groups import GroupClient, GroupProfile
from rongcloud_groups.emulator import Report, Universe
from rongcloud_groups.emulator.program import Address
from rongcloud_groups.pytest_plugin import InProcessEmulator

EXAMPLES = ROOT / "examples"
PROCESSES = 4
PAGES = 1200
PAGES_PER_SECOND = 400
RATE = 50
"""Half the limit, as a busy machine may read requests late; four budgets of their own would be twice the limit."""


@pytest.fixture(scope="module")
def example() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module("fastapi_app")


@asynccontextmanager
async def visitor(example: ModuleType, client: GroupClient) -> AsyncIterator[httpx.AsyncClient]:
    """A browser of the example, where it uses this client."""
    example.app.dependency_overrides[example.client_of] = lambda: client
    transport = httpx.ASGITransport(example.app)
    async with client, httpx.AsyncClient(transport=transport, base_url="http://app.test") as browser:
        yield browser
    example.app.dependency_overrides.clear()


async def test_a_group_is_its_profile_as_json(example: ModuleType, rongcloud_emulator: InProcessEmulator) -> None:
    added = rongcloud_emulator.add("g1", group_name="Chess & Tea", ext_profile={"ext_city": "杭州"})
    async with visitor(example, rongcloud_emulator.client()) as browser:
        response = await browser.get("/groups/g1")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert msgspec.json.decode(response.content, type=GroupProfile) == added


async def test_an_unknown_group_is_404_and_an_impossible_one_400(
    example: ModuleType, rongcloud_emulator: InProcessEmulator
) -> None:
    async with visitor(example, rongcloud_emulator.client()) as browser:
        statuses = [(await browser.get(f"/groups/{group_id}")).status_code for group_id in ("unknown", "a,b")]
    assert statuses == [404, 400]


async def test_a_page_that_the_budget_does_not_reach_in_time_is_503_with_retry_after(
    example: ModuleType, rongcloud_emulator: InProcessEmulator
) -> None:
    async with visitor(example, rongcloud_emulator.client(rate=0.1, deadline=0.1)) as browser:
        assert (await browser.get("/groups/first")).status_code == 404
        response = await browser.get("/groups/second")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert rongcloud_emulator.requests == [["first"]]


async def test_a_service_that_does_not_respond_is_504(
    example: ModuleType, rongcloud_emulator: InProcessEmulator
) -> None:
    rongcloud_emulator.fail_next("hang")
    async with visitor(example, rongcloud_emulator.client(deadline=0.2, max_attempts=1)) as browser:
        response = await browser.get("/groups/g1")
    assert response.status_code == 504
    assert "retry-after" not in response.headers


async def test_a_service_that_fails_is_502(example: ModuleType, rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.fail_next("error-500")
    async with visitor(example, rongcloud_emulator.client(max_attempts=1)) as browser:
        assert (await browser.get("/groups/g1")).status_code == 502


@pytest.fixture
def service() -> Iterator[Address]:
    with emulator_process("--unknown=0.1", "--latency=0.015") as address:
        yield address


@pytest.fixture
def app_url(blocks: list[Block], service: Address, tmp_path: Path) -> Iterator[str]:
    """The example on uvicorn, as its docstring says: in several processes that share a budget."""
    (line,) = blocks[0].commands
    command = command_of(f"exec env {line.replace('/run/groups', str(tmp_path))} --port 0 --no-access-log")
    env = readers_environment(service, RONGCLOUD_RATE=str(RATE))
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as server:  # noqa: S603  our own example
        assert server.stderr is not None
        yield served_at(server.stderr)
        server.terminate()
        _, rest = server.communicate(timeout=TIMEOUT)
        assert "Traceback" not in rest


def served_at(log: IO[str] | Iterable[str]) -> str:
    """Where uvicorn serves, once all its processes do."""
    url, started = "", 0
    for line in log:
        if running := re.search(r"running on (http://[\d.:]+)", line):
            url = running[1]
        started += "startup complete" in line
        if url and started == PROCESSES:
            return url
    raise AssertionError("uvicorn did not start")


def reported(service: Address) -> Report:
    trust = ssl.create_default_context(cafile=service.ca_file)
    with httpx.Client(verify=trust, trust_env=False) as client:
        return msgspec.json.decode(client.get(f"{service.url}/_emulator/report").content, type=Report)


@pytest.mark.runs("fastapi_app.py/indented")
async def test_four_processes_under_load_serve_every_page_within_one_budget(service: Address, app_url: str) -> None:
    clock = asyncio.get_running_loop().time
    async with aiohttp.ClientSession(app_url, timeout=aiohttp.ClientTimeout(TIMEOUT)) as browser:
        begin = clock()

        async def status(number: int) -> int:
            await asyncio.sleep(begin + number / PAGES_PER_SECOND - clock())
            async with browser.get(f"/groups/g{number}") as response:
                await response.read()
            return response.status

        statuses = Counter(await asyncio.gather(*(status(number) for number in range(PAGES))))
    known = sum(Universe(unknown_share=0.1).knows(f"g{number}") for number in range(PAGES))
    assert statuses == {200: known, 404: PAGES - known}
    report = reported(service)
    assert report.worst_second <= 100
    assert report.refused == 0
    assert report.ids_asked == PAGES
    assert report.batch_requests < PAGES / 2

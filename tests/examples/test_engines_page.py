"""The programs of docs/engines.md run; the Django view is in `test_web_pages`."""

import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.command_line import Ended, environment, run
from support.emulators import emulator_process
from support.pages import Block
from support.shell import readers_environment


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    with emulator_process("--no-tls", "--unknown=0.2", "--listed=1200") as address:
        yield environment(address.url, address.ca_file)


def run_program(block: Block, env: dict[str, str], here: Path, *, more: str = "") -> Ended:
    (here / "program.py").write_text(block.text + more, encoding="utf-8")
    quiet = env | {"RUNTIME__DLTHUB_TELEMETRY": "false", "DLT_DATA_DIR": str(here / "dlt"), "DAGSTER_HOME": str(here)}
    return run("program.py", env=quiet, command=[sys.executable], cwd=here)


CELERY = """
app.conf.task_always_eager = True
print(len(group_names.delay([f"h{number}" for number in range(100)]).get()))
"""


@pytest.mark.runs("engines/Celery/python")
def test_the_celery_task_runs(blocks: list[Block], env: dict[str, str], tmp_path: Path) -> None:
    ended = run_program(blocks[0], env, tmp_path, more=CELERY)
    assert ended.code == 0, ended.stderr
    assert 50 < int(ended.stdout) < 100


@pytest.mark.runs("engines/A notebook/python")
def test_the_notebook_shows_a_table(blocks: list[Block], env: dict[str, str], tmp_path: Path) -> None:
    ended = run_program(blocks[0], env, tmp_path)
    assert (ended.code, ended.stderr) == (0, "")
    assert "member_count" in ended.stdout


@pytest.mark.runs("engines/dlt/python", "dlt/indented")
def test_the_dlt_loop_loads_everything_and_ends(blocks: list[Block], env: dict[str, str], tmp_path: Path) -> None:
    loop, first = blocks
    ended = run_program(loop, env, tmp_path, more=f"\nprint('the end')\n{first.text}")
    assert ended.code == 0, ended.stderr
    assert "LOADED and contains no failed jobs" in ended.stdout
    assert ended.stdout.endswith("the end\n")


DAGSTER = """
result = dagster.materialize([groups])
print(result.success, result.asset_materializations_for_node("groups")[0].metadata["load"].value)
"""


@pytest.mark.runs("engines/Dagster/python")
def test_the_dagster_asset_materializes(blocks: list[Block], env: dict[str, str], tmp_path: Path) -> None:
    if find_spec("dagster") is None:
        assert not os.environ.get("CI"), "dagster must be installed in CI"
        pytest.skip("dagster is not installed")
    ended = run_program(blocks[0], env, tmp_path, more=DAGSTER)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith("True")
    assert "contains no failed jobs" in ended.stdout


@pytest.mark.runs("engines/An agent, over MCP/json")
async def test_an_agent_starts_the_server_by_its_configuration(blocks: list[Block], env: dict[str, str]) -> None:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    (server,) = json.loads(blocks[0].text)["mcpServers"].values()
    path = readers_environment()["PATH"]
    start = StdioServerParameters(**server, env=env | {"PATH": path})
    async with stdio_client(start) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        found = await session.call_tool("get_groups", {"group_ids": ["g1"]})
    assert not found.is_error

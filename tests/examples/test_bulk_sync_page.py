"""The commands of docs/bulk-sync.md run one after the other, and its tables say what is so."""

import asyncio
import os
import re
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest_asyncio
from support.bulk_jobs import environment_of
from support.command_line import run

from rongcloud_groups import models
from rongcloud_groups.bulk import COLUMNS, ROW_SCHEMA_VERSION, Counts
from rongcloud_groups.cli.exit import ExitCode
from rongcloud_groups.emulator import Emulator, Universe

PAGE = (Path(__file__).parents[2] / "docs" / "bulk-sync.md").read_text(encoding="utf-8")


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    universe = Universe(only_explicit=True)
    for group_id in ("g1", "g2", "g3"):
        universe.add(group_id, memberCount=3, createTime=1_704_100_000_000)
    async with Emulator(universe=universe) as emulator:
        yield emulator


async def test_the_commands_of_the_page_run(emulator: Emulator, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    env = environment_of(emulator, tmp_path, rate=100)
    scripts = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    env["PATH"] = os.pathsep.join([*scripts, os.environ["PATH"]])
    commands = re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)
    assert len(commands) > 10
    for command in commands:
        ended = await asyncio.to_thread(run, "-c", command, env=env, command=("bash",), cwd=here)
        code = re.search(r"# exit code (\d+)", command)
        assert ended.code == (int(code[1]) if code else 0), (command, ended)


def test_all_columns_are_described() -> None:
    named = re.findall(r"^\| (`[a-z_`, ]+`) \| [\w ]+ \| [\w ,]+ \| [\w ,]+ \|$", PAGE, re.MULTILINE)
    columns = [name for cell in named for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(columns) == sorted(COLUMNS)
    assert f"| `row_schema_version` | {ROW_SCHEMA_VERSION} |" in PAGE


def test_all_numbers_of_the_permissions_are_described() -> None:
    for field in msgspec.structs.fields(models.Permissions):
        row = re.search(rf"^\| `{field.name}` \(.*\) \|(.*)\|$", PAGE, re.MULTILINE)
        assert row is not None, field.name
        cells = [cell.strip() for cell in row[1].split("|")]
        assert [bool(cell) for cell in cells] == [number in set(field.type) for number in range(4)]


def test_all_counts_and_exit_codes_are_described() -> None:
    for name in Counts.__struct_fields__:
        assert f"`{name}`" in PAGE
    codes = {int(code) for cell in re.findall(r"^\| ([\d, ]+) \| \w", PAGE, re.MULTILINE) for code in cell.split(",")}
    assert codes == {*map(int, ExitCode), 143}

"""The commands of docs/bulk-sync.md run one after the other, and its tables say what is so."""

import asyncio
import re
import shutil
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from croniter import croniter  # type: ignore[import-untyped]
from support.bulk_jobs import environment_of
from support.emulators import emulator_process
from support.pages import PAGES, Block
from support.postgres import SERVER, postgres
from support.shell import readers_environment, run_lines

from rongcloud_groups import models
from rongcloud_groups.bulk import COLUMNS, ROW_SCHEMA_VERSION, Counts
from rongcloud_groups.cli.exit import ExitCode
from rongcloud_groups.emulator import Emulator, Universe

PAGE = PAGES["bulk-sync"].read_text(encoding="utf-8")


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    universe = Universe(only_explicit=True)
    for group_id in ("g1", "g2", "g3"):
        universe.add(group_id, memberCount=3, createTime=1_704_100_000_000)
    async with Emulator(universe=universe) as emulator:
        yield emulator


@pytest.mark.runs(
    "bulk-sync/Bulk sync/console",
    "bulk-sync/Formats/python",
    "bulk-sync/IDs without a row/console",
    "bulk-sync/Report and progress/console",
    "bulk-sync/Stop and resume/console",
)
async def test_the_commands_of_the_page_run(emulator: Emulator, blocks: list[Block], tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    first, program, *others = blocks
    (tmp_path / "program.py").write_text(program.text, encoding="utf-8")
    commands = [*first.commands, f"python {tmp_path / 'program.py'}"]
    commands += [command for block in others for command in block.commands]
    env = environment_of(emulator, tmp_path, rate=100) | {"PATH": readers_environment()["PATH"]}
    for command in commands:
        ended = await asyncio.to_thread(run_lines, command, env=env, here=here)
        code = re.search(r"# exit code (\d+)", command)
        assert ended.code == (int(code[1]) if code else 0), (command, ended)


@pytest.mark.runs("bulk-sync/From cron/sh", "bulk-sync/From cron/text")
def test_cron_starts_the_sync_each_night(blocks: list[Block], tmp_path: Path) -> None:
    script, crontab = blocks
    text = script.text.replace("…", "emulator-app-key").replace("/etc/rongcloud/secret", str(tmp_path / "secret"))
    (tmp_path / script.file).write_text(text, encoding="utf-8")
    (tmp_path / "secret").write_text("emulator-app-secret", encoding="utf-8")
    mail, entry = crontab.commands
    assert re.fullmatch(r"MAILTO=\S+@example\.com", mail)
    *fields, command = entry.split(maxsplit=5)
    night = croniter(" ".join(fields), datetime(2026, 1, 31, 12, tzinfo=UTC)).get_next(datetime)
    assert night == datetime(2026, 2, 1, 2, 15, tzinfo=UTC)
    assert "%" not in command, "cron would end the line there"
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "bin").symlink_to(sysconfig.get_path("scripts"))
    with emulator_process("--no-tls", "--listed", "100", "--unknown", "0") as address:
        cron = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "RONGCLOUD_BASE_URL": address.url}
        ended = subprocess.run(["/bin/sh", "-c", command], env=cron, cwd=tmp_path, capture_output=True, check=False)  # noqa: S603  the page's
    assert (ended.returncode, ended.stdout) == (0, b""), ended
    assert (tmp_path / "groups.db").exists()


@pytest.mark.runs("bulk-sync/Into PostgreSQL, each night/sql", "bulk-sync/Into PostgreSQL, each night/bash")
def test_the_nightly_sync_fills_a_table_in_postgresql(blocks: list[Block], tmp_path: Path) -> None:
    if SERVER is None or shutil.which("psql") is None:
        pytest.skip("PostgreSQL is not installed")
    import psycopg2  # type: ignore[import-untyped]

    for block in blocks:
        (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    with emulator_process("--no-tls", "--listed", "300", "--unknown", "0") as address, postgres() as url:
        env = readers_environment(address, DATABASE_URL=url)
        for _ in range(2):
            ended = run_lines("chmod +x nightly.sh", "./nightly.sh", env=env, here=tmp_path)
            assert ended.code == 0, ended
            with psycopg2.connect(url) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT count(*), count(create_time), count(permissions->>'join_perm') FROM groups")
                assert cursor.fetchall() == [(300, 300, 300)]


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

"""A field of the profile is one line of the model and one line of each dialect's table."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rongcloud_groups
from rongcloud_groups._protocol.dialects import DIALECTS, Dialect
from rongcloud_groups.models import GroupProfile, ListedGroup

PACKAGE = Path(rongcloud_groups.__file__).parent

PROGRAM = """
import asyncio, json, sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
from rongcloud_groups import GroupProfile, bulk
from rongcloud_groups._http import Response
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.dialects import DIALECTS
from rongcloud_groups._tables.rows import COLUMNS, flat_row, json_row
from rongcloud_groups.pytest_plugin import InProcessEmulator

opened = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
expected = GroupProfile(group_id="g1", max_members=500, colour="red")
for dialect in DIALECTS.values():
    for more in ({}, {"isNew": True}):  # the documented shape, and another one
        entry = {dialect.profile["group_id"][0]: "g1", "maxMembers": 500, **more}
        entry["groupProfile"] = '{"colour":"red","opened":1700000000000}'
        profiles = {"profiles": [entry]}
        body = {"code": dialect.success_code, **({dialect.envelope: profiles} if dialect.envelope else profiles)}
        found = ServiceApi(dialect, None).read_batch(Response(200, {}, json.dumps(body).encode()), ["g1"]).found["g1"]
        assert (found.max_members, found.colour, found.opened, found.extra) == (500, "red", opened, more), found
row = dict(zip(COLUMNS, flat_row(expected), strict=True))
assert (row["max_members"], row["colour"]) == (500, "red"), row
assert json.loads(json_row(expected))["max_members"] == 500
emulator = InProcessEmulator()
assert emulator.add("g1", max_members=500, colour="red") == expected

async def sync():
    for name in ("o.csv", "o.parquet", "o.sqlite"):
        async with emulator.client() as client:
            failures = bulk.FailedIdsFile(Path(name))
            await bulk.Job(client, bulk.IterableSource(["g1"]), bulk.open_sink(Path(name)), failures).run()
            assert pyarrow.table(await client.get_many(["g1"])).to_pylist()[0]["max_members"] == 500

asyncio.run(sync())
assert ",member_count,max_members,colour,opened," in Path("o.csv").read_text()
assert pyarrow.parquet.read_table("o.parquet").to_pylist()[0]["max_members"] == 500
assert sqlite3.connect("o.sqlite").execute("SELECT max_members FROM groups").fetchall() == [(500,)]
"""


@pytest.mark.parametrize("dialect", list(DIALECTS.values()), ids=list(DIALECTS))
def test_each_table_has_the_fields_of_the_models(dialect: Dialect) -> None:
    made_here = {"problems", "extra"}
    assert dialect.profile.keys() == set(GroupProfile.__struct_fields__) - made_here
    assert dialect.listed_group.keys() == set(ListedGroup.__struct_fields__) - made_here


def test_a_new_field_is_one_line_in_each_of_them(tmp_path: Path) -> None:
    copied = tmp_path / "rongcloud_groups"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    insert(copied / "models.py", "    member_count: int | None = None\n", "    max_members: int | None = None\n")
    insert(copied / "models.py", "    max_members: int | None = None\n", "    colour: str | None = None\n")
    insert(copied / "models.py", "    colour: str | None = None\n", "    opened: datetime | None = None\n")
    table = '        "member_count": ("memberCount",),\n'
    lines = '        "max_members": ("maxMembers",),\n        "colour": ("groupProfile.colour",),\n'
    lines += '        "opened": ("groupProfile.opened",),\n'
    assert insert(copied / "_protocol" / "dialects.py", table, lines) == len(DIALECTS)

    ended = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 0, ended.stderr


def insert(path: Path, after: str, lines: str) -> int:
    """Put lines into a file; returns into how many places."""
    text, count = re.subn(re.escape(after), after + lines, path.read_text())
    path.write_text(text)
    assert count, path
    return count

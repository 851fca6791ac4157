"""A lookup as a table, in the libraries that people read tables with."""

import subprocess
import sys
from datetime import UTC, datetime

import duckdb
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pytest

from rongcloud_groups import GroupProfile, Lookup, RongCloudError

PROFILES = [
    GroupProfile(
        group_id="g1",
        group_name="Chess & Tea\n茶",
        create_time=datetime(2024, 2, 29, 12, 0, 0, 1000, tzinfo=UTC),
        member_count=3,
        ext_profile={"ext_city": "杭州"},
    ),
    GroupProfile(group_id="g2"),
]


@pytest.fixture
def lookup() -> Lookup:
    return Lookup(
        found={profile.group_id: profile for profile in PROFILES}, missing=["m"], failed={"f": RongCloudError("no")}
    )


def selected(query: str, lookup: Lookup) -> list[tuple[object, ...]]:
    assert lookup is not None  # DuckDB finds the variable by its name
    relation = duckdb.sql(query)
    assert relation is not None
    return relation.fetchall()


def test_pyarrow_and_polars_and_duckdb_take_a_lookup_as_a_table(lookup: Lookup) -> None:
    table = pa.table(lookup)
    assert table.column_names == list(GroupProfile.__struct_fields__)
    assert table["create_time"].to_pylist() == [PROFILES[0].create_time, None]
    frame = pl.DataFrame(lookup)
    assert frame["group_id"].to_list() == ["g1", "g2"]
    assert frame["member_count"].to_list() == [3, None]
    assert selected("SELECT group_id, ext_profile->>'$.ext_city' FROM lookup", lookup) == [("g1", "杭州"), ("g2", None)]


def test_duckdb_selects_from_a_lookup_by_its_name(lookup: Lookup) -> None:
    assert selected("SELECT count(*), min(group_name) FROM lookup", lookup) == [(2, "Chess & Tea\n茶")]


def test_an_empty_lookup_has_the_columns_too() -> None:
    assert pa.table(Lookup()).schema == pa.table(Lookup(found={"g2": PROFILES[1]})).schema
    assert pl.DataFrame(Lookup()).shape == (0, len(GroupProfile.__struct_fields__))


def test_without_pyarrow_the_extra_is_named() -> None:
    program = (
        "import sys\nsys.modules['pyarrow'] = None\nfrom rongcloud_groups import ConfigError, Lookup\n"
        "try: Lookup().__arrow_c_stream__()\nexcept ConfigError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)  # noqa: S603  ours
    assert ended.stdout == "a lookup as a table needs the extra arrow: pip install 'rongcloud-groups[arrow]'\n"

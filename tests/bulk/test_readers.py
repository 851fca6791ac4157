"""DuckDB, Polars, pandas and sqlite3 read each format of the same groups to the same table."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio
from support.bulk_jobs import client_of

from rongcloud_groups._tables.rows import COLUMN_KINDS
from rongcloud_groups.bulk import COLUMNS, FailedIdsFile, IterableSource, Job, open_sink
from rongcloud_groups.emulator import Emulator, Universe

duckdb: Any = pytest.importorskip("duckdb")
pl: Any = pytest.importorskip("polars")
pd: Any = pytest.importorskip("pandas")

UGLY = [
    "", " ", '"', '""', "'", ",", "a,b", "\t", "a\nb", "a\r\nb", "\r", "null", "NULL", "NaN", "NA", "None", "\\N", "\\",
    "-1", "007", "1e5", "true", "2023-11-14", "=1+1", "群组", "👩‍👩‍👧", "\u2028", "﻿x", "a'b\"c", "#", "x" * 500,
]  # fmt: skip
GROUPS = [f"g{number:03}" for number in range(len(UGLY))]
Row = tuple[Any, ...]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The groups in each format."""
    directory = tmp_path_factory.mktemp("outputs")
    universe = Universe(only_explicit=True)
    for number, (group_id, text) in enumerate(zip(GROUPS, UGLY, strict=True)):
        universe.add(group_id, groupName=text, introduction=UGLY[-number - 1], memberCount=number)
    universe.add("bare")
    universe.add("time", createTime=1_700_000_000_001, memberCount=2**53 - 1)
    universe.add("whole", createTime=1_700_000_000_000, strange={"a": [1, None, "x"]})
    async with Emulator(limit=None, universe=universe) as emulator, client_of(emulator) as client:
        for name in ("out.jsonl", "out.csv", "out.db", "out.parquet"):
            source = IterableSource([*GROUPS, "bare", "time", "whole"])
            path = directory / name
            await Job(client, source, open_sink(path), FailedIdsFile(path)).run()
        path = directory / "excel.csv"
        await Job(client, IterableSource(GROUPS), open_sink(path, "excel-csv"), FailedIdsFile(path)).run()
    return directory


@pytest.fixture(scope="module")
def expected(outputs: Path) -> list[Row]:
    """The rows as Python's own parser of JSON has them."""
    lines = (outputs / "out.jsonl").read_bytes().split(b"\n")
    rows = [_row(json.loads(line)) for line in lines if line]
    assert [row[0] for row in rows] == [*GROUPS, "bare", "time", "whole"]
    assert [row[1] for row in rows[: len(UGLY)]] == UGLY
    assert rows[-2][3] == datetime(2023, 11, 14, 22, 13, 20, 1000, UTC)
    assert rows[-2][4] == 2**53 - 1
    assert rows[-3][1:5] == (None, None, None, None)
    return rows


def _row(cells: dict[str, Any]) -> Row:
    """Cells as Python values: an absent one is None, a time is a datetime, and nested ones are parsed."""
    assert tuple(cells) == COLUMNS
    return tuple(_value(cells[name], COLUMN_KINDS[name]) for name in COLUMNS)


def _value(cell: Any, kind: str) -> Any:
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return None
    if kind == "time":
        if isinstance(cell, str):
            assert len(cell) == len("2023-11-14T22:13:20.000Z")
        return (datetime.fromisoformat(cell) if isinstance(cell, str) else cell).astimezone(UTC)
    if kind == "integer":
        assert isinstance(cell, int)
        return cell
    return json.loads(cell) if kind == "json" and isinstance(cell, str) else cell


def _rows(table: Iterator[Row] | list[Row]) -> list[Row]:
    return [_row(dict(zip(COLUMNS, row, strict=True))) for row in table]


DUCKDB_TYPES = {"text": "VARCHAR", "json": "JSON", "integer": "BIGINT", "time": "TIMESTAMP"}
PANDAS_TYPES = {"text": "str", "json": "str", "integer": "Int64"}


def duckdb_rows(query: str) -> list[Row]:
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        rows: list[Row] = database.execute(query).fetchall()
    place = COLUMNS.index("create_time")
    return _rows(
        [(*row[:place], row[place].replace(tzinfo=UTC) if row[place] else None, *row[place + 1 :]) for row in rows]
    )


def duckdb_jsonl(path: Path) -> list[Row]:
    types = {name: DUCKDB_TYPES[kind] for name, kind in COLUMN_KINDS.items()}
    return duckdb_rows(f"FROM read_json('{path}', format='newline_delimited', columns={types})")


def duckdb_csv(path: Path) -> list[Row]:
    types = {name: DUCKDB_TYPES[kind] for name, kind in COLUMN_KINDS.items()}
    return duckdb_rows(f"FROM read_csv('{path}', header=true, allow_quoted_nulls=false, columns={types})")


def duckdb_parquet(path: Path) -> list[Row]:
    return duckdb_rows(f"FROM '{path}'")


def polars_jsonl(path: Path) -> list[Row]:
    schema = {"create_time": pl.String, "member_count": pl.Int64}
    names = [name for name, kind in COLUMN_KINDS.items() if kind != "json"]
    table = pl.read_ndjson(path, schema_overrides=schema)
    lines = path.read_bytes().split(b"\n")
    nested = [json.loads(line) for line in lines if line]
    return [
        _row({name: flat[name] if name in names else whole[name] for name in COLUMNS})
        for flat, whole in zip(table.select(names).iter_rows(named=True), nested, strict=True)
    ]


def polars_csv(path: Path) -> list[Row]:
    types = {name: pl.Int64 if kind == "integer" else pl.String for name, kind in COLUMN_KINDS.items()}
    return _rows(list(pl.read_csv(path, schema=types).iter_rows()))


def polars_parquet(path: Path) -> list[Row]:
    table = pl.read_parquet(path)
    assert table.schema["create_time"] == pl.Datetime("ms", "UTC")
    return _rows(list(table.iter_rows()))


def pandas_jsonl(path: Path) -> list[Row]:
    table = pd.read_json(path, lines=True, dtype=False, dtype_backend="numpy_nullable")
    table = table.astype(object).where(table.notna(), None)
    return [
        _row(row | {"member_count": None if row["member_count"] is None else int(row["member_count"])})
        for row in table.to_dict("records")
    ]


def pandas_csv(path: Path) -> list[Row]:
    types = {name: PANDAS_TYPES[kind] for name, kind in COLUMN_KINDS.items() if kind in PANDAS_TYPES}
    table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values={"member_count": "", "create_time": ""})
    table["create_time"] = pd.to_datetime(table["create_time"])
    assert str(table["create_time"].dtype).endswith("UTC]")
    return _rows([tuple(row) for row in table.astype(object).itertuples(index=False)])


def pandas_parquet(path: Path) -> list[Row]:
    table = pd.read_parquet(path, dtype_backend="numpy_nullable")
    return _rows([tuple(row) for row in table.astype(object).itertuples(index=False)])


def sqlite_rows(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as database:
        rows: list[Row] = database.execute("SELECT * FROM groups ORDER BY rowid").fetchall()
        in_order = database.execute("SELECT group_id FROM groups WHERE create_time > '2023' ORDER BY create_time")
        assert [row[0] for row in in_order][-2:] == ["whole", "time"]
    return _rows(rows)


def pandas_sqlite(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as database:
        table = pd.read_sql("SELECT * FROM groups ORDER BY rowid", database, dtype_backend="numpy_nullable")
    return _rows([tuple(row) for row in table.astype(object).itertuples(index=False)])


@pytest.mark.skipif(shutil.which("ssconvert") is None, reason="needs Gnumeric")
def test_a_spreadsheet_has_the_texts_of_excel_csv_and_no_formula(outputs: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.xml"
    command = ["ssconvert", "-T", "Gnumeric_XmlIO:sax:0", str(outputs / "excel.csv"), str(sheet)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603  a program of the system
    cells = {
        (int(cell.attrib["Row"]), int(cell.attrib["Col"])): (cell.attrib.get("ValueType"), cell.text)
        for cell in ET.parse(sheet).iter("{http://www.gnumeric.org/v10.dtd}Cell")  # noqa: S314  our own file
    }
    a_text = "60"
    assert all(kind is not None for kind, _ in cells.values()), "a formula has no type of its own"
    assert [cells[0, column] for column in range(len(COLUMNS))] == [(a_text, name) for name in COLUMNS]
    assert [cells[row, 0][1] for row in range(1, len(UGLY) + 1)] == GROUPS
    changed = {text for row, text in enumerate(UGLY, 1) if cells.get((row, 1)) != (a_text, text)}
    assert changed == {"", "'", "a\r\nb", "\r", "007", "1e5", "true", "2023-11-14"}  # as the page says


READERS: list[tuple[Callable[[Path], list[Row]], str]] = [
    (duckdb_jsonl, "out.jsonl"),
    (duckdb_csv, "out.csv"),
    (duckdb_parquet, "out.parquet"),
    (polars_jsonl, "out.jsonl"),
    (polars_csv, "out.csv"),
    (polars_parquet, "out.parquet"),
    (pandas_jsonl, "out.jsonl"),
    (pandas_csv, "out.csv"),
    (pandas_parquet, "out.parquet"),
    (sqlite_rows, "out.db"),
    (pandas_sqlite, "out.db"),
]


@pytest.mark.parametrize(("read", "name"), READERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_reader_has_the_rows_that_were_written(
    read: Callable[[Path], list[Row]], name: str, outputs: Path, expected: list[Row]
) -> None:
    rows = read(outputs / name)
    if read is pandas_csv:  # has one value for an absent text and an empty one
        expected = [tuple("" if cell is None and COLUMN_KINDS[column] == "text" else cell
                          for column, cell in zip(COLUMNS, row, strict=True)) for row in expected]  # fmt: skip
    assert rows == expected

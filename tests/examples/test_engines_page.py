"""The programs of docs/engines.md run."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import environment, run

from rongcloud_groups.cli.emulator_process import emulator_process

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r"^## ([^\n]+)\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    with emulator_process("--no-tls", "--unknown=0.2", "--listed=1200") as address:
        yield environment(address.url, address.ca_file)


def script(block: str, tmp_path: Path) -> str:
    (tmp_path / "program.py").write_text(BLOCKS[block], encoding="utf-8")
    return str(tmp_path / "program.py")


def test_every_section_is_tried() -> None:
    assert set(BLOCKS) == {"Django", "Celery", "A notebook", "dlt", "Dagster"}


CELERY = """
app.conf.task_always_eager = True
print(len(group_names.delay([f"h{number}" for number in range(100)]).get()))
"""


def test_the_celery_task_runs(env: dict[str, str], tmp_path: Path) -> None:
    program = script("Celery", tmp_path)
    Path(program).write_text(BLOCKS["Celery"] + CELERY, encoding="utf-8")
    ended = run(program, env=env, command=[sys.executable], cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert 50 < int(ended.stdout) < 100


def test_the_notebook_shows_a_table(env: dict[str, str], tmp_path: Path) -> None:
    ended = run(script("A notebook", tmp_path), env=env, command=[sys.executable], cwd=tmp_path)
    assert (ended.code, ended.stderr) == (0, "")
    assert "member_count" in ended.stdout


def test_the_dlt_loop_loads_everything_and_ends(env: dict[str, str], tmp_path: Path) -> None:
    quiet = env | {"RUNTIME__DLTHUB_TELEMETRY": "false", "DLT_DATA_DIR": str(tmp_path / "dlt")}
    ended = run(script("dlt", tmp_path), env=quiet, command=[sys.executable], cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert "LOADED and contains no failed jobs" in ended.stdout


DAGSTER = """
result = dagster.materialize([groups])
print(result.success, result.asset_materializations_for_node("groups")[0].metadata["load"].value)
"""


def test_the_dagster_asset_materializes(env: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("dagster", reason="Dagster is not among the packages of dev: pip install dagster")
    program = script("Dagster", tmp_path)
    Path(program).write_text(BLOCKS["Dagster"] + DAGSTER, encoding="utf-8")
    quiet = env | {"RUNTIME__DLTHUB_TELEMETRY": "false", "DLT_DATA_DIR": str(tmp_path / "dlt")}
    ended = run(program, env=quiet | {"DAGSTER_HOME": str(tmp_path)}, command=[sys.executable], cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith("True")
    assert "contains no failed jobs" in ended.stdout

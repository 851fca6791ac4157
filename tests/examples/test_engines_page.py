"""The programs of docs/engines.md run."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from support.command_line import environment, run

from rongcloud_groups.cli.emulator_process import emulator_process

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r"^## ([^\n]+)\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def env() -> Iterator[dict[str, str]]:
    with emulator_process("--no-tls", "--unknown=0.2", "--listed=1200") as address:
        yield environment(address.url, address.ca_file)


@pytest.fixture
def in_env(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        if name.startswith(("RONGCLOUD_", "SSL_CERT_FILE")):
            monkeypatch.setenv(name, value)


def names_of(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(BLOCKS[block], "engines.md", "exec"), names)  # noqa: S102  our own text
    return names


def script(block: str, tmp_path: Path) -> str:
    (tmp_path / "program.py").write_text(BLOCKS[block], encoding="utf-8")
    return str(tmp_path / "program.py")


def test_every_section_is_tried() -> None:
    assert set(BLOCKS) == {"FastAPI", "Django", "Celery", "A notebook", "dlt", "Dagster"}


@pytest.mark.usefixtures("in_env")
def test_the_fastapi_route_answers_with_its_statuses() -> None:
    with TestClient(names_of("FastAPI")["app"]) as browser:
        answers = {
            group_id: browser.get(f"/groups/{group_id}")
            for group_id in (*(f"h{number}" for number in range(20)), "a,b")
        }
    assert answers.pop("a,b").status_code == 400
    assert {answer.status_code for answer in answers.values()} == {200, 404}
    assert all(answer.json()["name"] for answer in answers.values() if answer.status_code == 200)


DJANGO = """
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
import django
django.setup()
from django.test import Client
from django.urls import path
urlpatterns = [path("groups/<group_id>", group)]
print(sorted({Client().get(f"/groups/h{number}").status_code for number in range(20)}))
"""

CELERY = """
app.conf.task_always_eager = True
print(len(group_names.delay([f"h{number}" for number in range(100)]).get()))
"""


@pytest.mark.parametrize(("block", "more", "printed"), [("Django", DJANGO, "[200, 404]\n"), ("Celery", CELERY, None)])
def test_code_that_does_not_await_runs_in_a_process(
    block: str, more: str, printed: str | None, env: dict[str, str], tmp_path: Path
) -> None:
    program = script(block, tmp_path)
    Path(program).write_text(BLOCKS[block] + more, encoding="utf-8")
    ended = run(program, env=env, command=[sys.executable], cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    if printed is not None:
        assert ended.stdout == printed
    else:
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

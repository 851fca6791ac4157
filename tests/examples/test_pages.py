"""The pages in docs say what is so."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import PAGES, ROOT

from rongcloud_groups import REGIONS, Event, ServiceError, Stats, errors

LOGGED = "debug|info|warning|error|exception|log"


@pytest.mark.parametrize("page", [*PAGES.values(), ROOT / "docs" / "README.md"], ids=str)
def test_links_lead_to_pages_and_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:examples|benchmarks|tests)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path


def test_the_tests_of_the_page_on_testing_pass(tmp_path: Path) -> None:
    page = PAGES["testing"].read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for number, block in enumerate(blocks):
        (tmp_path / f"test_{number}.py").write_text(block, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)  # noqa: S603  ours
    assert f"{len(blocks) + 1} passed" in ended.stdout, ended.stdout


def test_every_error_is_explained() -> None:
    page = PAGES["errors"].read_text(encoding="utf-8")
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    for each in classes:
        assert f"| `{each.__name__}` |" in page or each is errors.RongCloudError, each.__name__
    codes = {int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE) for code in cell.split(",")}
    assert codes == {1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1050}
    assert issubclass(errors.ParameterError, ServiceError)


def test_every_event_sum_and_log_line_is_described() -> None:
    page = PAGES["observability"].read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page, re.MULTILINE))
    for event in Event.__subclasses__():
        assert re.findall(r"`(\w+)`", rows[event.__name__]) == list(event.__struct_fields__), event
    for field in Stats.__struct_fields__:
        assert f"`{field}`" in page, field
    for line in logged_lines():
        longest = max(re.split(r"%[-+.\d]*[a-z]", line), key=len).split(":")[0].strip()
        assert longest in page, line


def logged_lines() -> set[str]:
    """The messages that the library's calls of a logger have, but the emulator's and the command's."""
    lines = set()
    for path in (ROOT / "src" / "rongcloud_groups").rglob("*.py"):
        if {"emulator", "cli"}.isdisjoint(path.parts):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and re.search(rf"logger\.({LOGGED})$", ast.unparse(call.func)):
                    texts = [part.value for part in call.args if isinstance(part, ast.Constant)]
                    lines |= {text for text in texts if isinstance(text, str) and text != "%s"}
    return lines


def test_every_region_is_named() -> None:
    page = PAGES["getting-started"].read_text(encoding="utf-8")
    for region in REGIONS:
        assert f"`{region}`" in page

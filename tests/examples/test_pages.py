"""The pages in docs say what is so."""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.pages import CONTRIBUTING, PAGES, ROOT, Block

from rongcloud_groups import REGIONS, Event, ServiceError, Stats, errors
from rongcloud_groups.emulator import Emulator
from rongcloud_groups.limiters.schedule import PATH_JITTER, Pacing, Window

LOGGED = "debug|info|warning|error|exception|log"


@pytest.mark.parametrize("page", [*PAGES.values(), ROOT / "docs" / "README.md"], ids=str)
def test_links_lead_to_pages_and_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:examples|benchmarks|tests)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path


TITLE = """
from rongcloud_groups import RongCloudError

async def title(client, group_id):
    try:
        profile = await client.get(group_id)
    except RongCloudError:
        return ""
    return f"{profile.group_name} ({profile.member_count})"

"""
"""What the tests in the docstring of the pytest plugin test."""


@pytest.mark.runs(
    "testing/The service inside a test/python",
    "testing/respx, pytest-httpx2 and other mocks/python",
    "pytest_plugin.py/indented",
)
def test_the_tests_of_the_page_on_testing_pass(blocks: list[Block], tmp_path: Path) -> None:
    for number, block in enumerate(blocks):
        plugin = "pytest_plugin" in block.name
        (tmp_path / f"test_{number}.py").write_text(TITLE * plugin + block.text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)  # noqa: S603  ours
    assert "5 passed" in ended.stdout, ended.stdout


@pytest.mark.runs("server.py/Emulator/indented")
async def test_the_emulator_of_its_docstring_counts_requests(blocks: list[Block]) -> None:
    get = 'assert (await client.get("/_emulator/report")).status_code == 200'
    program = blocks[0].text.replace("...", get)
    names: dict[str, Any] = {"Emulator": Emulator, "httpx": httpx}
    exec(f"async def use():\n{textwrap.indent(program, '    ')}", names)  # noqa: S102  our own text
    await names["use"]()


@pytest.mark.runs("errors.py/indented")
def test_the_tree_of_errors_is_that_of_the_classes(blocks: list[Block]) -> None:
    parents = [errors.RongCloudError]
    drawn = {errors.RongCloudError}
    first, *lines = blocks[0].text.splitlines()
    assert first == errors.RongCloudError.__name__
    for line in lines:
        name = line.strip("│├└─ ").split()[0]
        error = getattr(errors, name)
        parents[line.index(name) // 4 :] = [error]
        assert error.__bases__[0] is parents[-2]
        drawn.add(error)
    assert drawn == {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}


@pytest.mark.runs("limits/The law/indented", "schedule.py/indented")
def test_the_gap_of_the_law_is_the_one_that_is_kept(blocks: list[Block]) -> None:
    page, module = (block.text.strip() for block in blocks)
    assert page == module
    formula = page.removeprefix("gap = ")
    gap = eval(formula.replace("2 L", "2 * L"), {"W": 1.0, "N": 100, "J": 0.007, "S": 0.002, "L": 0.0})  # noqa: S307  ours
    assert gap == pytest.approx(Pacing(Window.of(100), jitter=PATH_JITTER).gap(0))
    assert f"the gap is {gap * 1000:.2f} ms: {1 / gap:.1f} requests per second" in " ".join(
        PAGES["limits"].read_text(encoding="utf-8").split()
    )


@pytest.mark.runs("architecture/Architecture/indented")
def test_the_picture_of_the_architecture_has_the_words_of_its_text(blocks: list[Block]) -> None:
    drawn = set(re.findall(r"[a-z]{3,}", blocks[0].text))
    text = PAGES["architecture"].read_text(encoding="utf-8").replace(blocks[0].text, "")
    assert {word for word in drawn if word.removesuffix("s") not in text} == set()


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


@pytest.mark.parametrize("page", [PAGES["architecture"], CONTRIBUTING], ids=lambda path: str(path.name))
def test_the_modules_and_classes_of_the_code_exist(page: Path) -> None:
    package = ROOT / "src" / "rongcloud_groups"
    text = page.read_text(encoding="utf-8")
    for path, name in re.findall(r"`([a-z_/]+/[a-z_]*(?:\.py)?)`(?:, `([A-Z][\w.]+)`)?", text):
        there = [root / path for root in (package, package / "bulk", ROOT) if (root / path).exists()]
        assert there, path
        for part in filter(None, name.split(".")):
            assert re.search(rf"\b(?:class|def) {part}\b", there[0].read_text(encoding="utf-8")), (path, part)


def test_every_region_is_named() -> None:
    page = PAGES["getting-started"].read_text(encoding="utf-8")
    for region in REGIONS:
        assert f"`{region}`" in page

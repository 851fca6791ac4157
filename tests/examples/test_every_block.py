"""Every block of code that readers copy is run by a test, or by CI where it sets up an environment."""

import ast
import os
import re
import sys
from importlib.metadata import distribution, metadata
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from support.pages import CONTRIBUTING, PAGES, ROOT, WHOLE, Block, all_blocks
from support.set_up_lines import lines_of
from support.shell import readers_environment, run_lines

CI = ROOT / ".ci" / "run"


def test_each_block_is_run_by_a_test() -> None:
    names = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.runs":
                names |= {ast.literal_eval(name) for name in call.args}
    assert names == all_blocks().keys()


@pytest.mark.parametrize("path", [*PAGES.values(), CONTRIBUTING, *WHOLE.values()], ids=lambda path: str(path.name))
def test_each_extra_that_a_line_installs_is_one_of_the_package(path: Path) -> None:
    extras = set(metadata("rongcloud-groups").get_all("Provides-Extra") or ())
    named = re.findall(r"(?:rongcloud-groups|[\s'\"]\.)\[([\w,-]+)\]", path.read_text(encoding="utf-8"))
    assert {extra for each in named for extra in each.split(",")} <= extras


@pytest.mark.runs(
    "README/Try it/indented",
    "README/rongcloud-groups/indented",
    "getting-started/Install/console",
    "observability/Metrics with Prometheus/console",
    "observability/Metrics and spans over OTLP/console",
)
def test_ci_runs_the_lines_that_set_up_an_environment(blocks: list[Block]) -> None:
    clone, *installs = blocks
    assert "tests/support/set_up_lines.py" in CI.read_text(encoding="utf-8")
    script = list(lines_of(all_blocks()))
    demo, tests = clone.commands
    assert {demo, *(line for block in installs for line in block.commands)} <= set(script)
    for line in script:
        if line.startswith("pip install "):
            for each in (word for word in line.split()[2:] if not word.startswith("-")):
                distribution(Requirement(each.strip("'")).name)  # is there, so a name that is misspelt is noticed
    assert tests == ".venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest"


@pytest.mark.runs("CONTRIBUTING/Contributing/indented")
def test_the_commands_of_contributors_run(blocks: list[Block]) -> None:
    install, everything, one, benchmark, ci = (line.partition(" #")[0].strip() for line in blocks[0].commands)
    assert install.endswith(".venv/bin/pip install -e '.[dev]'")
    assert (ROOT / ci) == CI
    assert os.access(CI, os.X_OK)
    env = readers_environment() | {"PYTEST_ADDOPTS": "-p no:cacheprovider"}
    assert one.startswith(f"{everything} ")
    commands = [one, f"{benchmark} --help"]
    lines = [command.replace(".venv/bin/", f"{Path(sys.executable).parent}/") for command in commands]
    ended = run_lines(*lines, env=env, here=ROOT)
    assert ended.code == 0, ended
    assert re.search(r"\b\d+ passed", ended.stdout), ended
    assert benchmark.split()[-2] in ended.stdout
    assert "--quick" in ended.stdout


IN_CI = {
    ".ci/run": "",
    "python -m build": "python -m build",
    "python -m twine check --strict dist/*": "twine check --strict dist-ci/*",
    "python -m sphinx -W --keep-going docs site": "sphinx-build -q -W --keep-going docs",
}
"""The commands of workflows, and what `.ci/run` has for them."""


@pytest.mark.runs("ci.yml", "docs.yml", "release.yml")
def test_the_workflows_run_what_ci_runs(blocks: list[Block]) -> None:
    ci = " ".join(CI.read_text(encoding="utf-8").split())
    for block in blocks:
        workflow = yaml.safe_load(block.text)
        assert workflow.keys() == {"name", True, "permissions", "jobs"}  # YAML takes the key `on` for a truth value
        for job in workflow["jobs"].values():
            assert set(job.get("needs", "").split()) <= workflow["jobs"].keys()
            for step in job["steps"]:
                assert step.keys() <= {"uses", "with"} or step.keys() == {"run"}
                assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", step.get("uses", "a/b@v1"))
                command = step.get("run", ".ci/run")
                assert command.startswith("python -m pip install ") or IN_CI[command] in ci

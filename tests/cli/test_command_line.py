import importlib.metadata
import json
import sys
from pathlib import Path
from typing import get_args

import pytest
from support.command_line import environment, run, run_python, without

from rongcloud_groups.bulk import Format
from rongcloud_groups.cli.app import exit_code
from rongcloud_groups.cli.options import OutputFormat


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frob"], 'Unknown command "frob"'),
        (["get", "--jsn", "g1"], "Did you mean --json?"),
        (["emulate", "--window", "monthly"], "sliding"),
        (["emulate", "--port", "many"], "--port"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_ends_with_2(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments) == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert words in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["get", "--help"], ["emulate", "-h"], ["demo", "--help"]])
def test_help_goes_to_stdout(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments) == 0
    stdout, stderr = capfd.readouterr()
    assert "Usage: rongcloud-groups" in stdout
    assert stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [["sync", "--report", "json", "--frob"], ["sync", "--report=json", "a", "b"], ["check", "--json", "-x"]],
)
def test_a_wrong_command_line_is_json_where_stderr_is(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments) == 2
    assert json.loads(capfd.readouterr().err)["exit_code"] == 2


def test_an_argument_too_many_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["sync", "a.txt", "b.txt", "-o", "c.jsonl"]) == 2
    assert "Unexpected argument 'b.txt'" in capfd.readouterr().err


def test_the_version_is_that_of_the_installed_package(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == 0
    assert capfd.readouterr().out.strip() == importlib.metadata.version("rongcloud-groups")


def test_help_describes_each_command_and_how_it_is_called(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--help"]) == 0
    text = " ".join(capfd.readouterr().out.replace("│", " ").split())
    for words in ("get Look up groups", "sync Look up every ID", "check Ask", "demo Look up", "emulate Run"):
        assert words in text
    assert exit_code(["sync", "--help"]) == 0
    assert capfd.readouterr().out.startswith("Usage: rongcloud-groups sync [OPTIONS] IDS -o OUT\n")


def test_the_formats_that_help_lists_are_those_of_the_sinks() -> None:
    assert get_args(OutputFormat) == get_args(Format)


def test_python_runs_the_package_as_the_command() -> None:
    ended = run("-m", "rongcloud_groups", "--version", env=environment(), command=(sys.executable,))
    assert (ended.code, ended.stderr) == (0, "")


def test_completion_is_installed_for_a_shell(tmp_path: Path) -> None:
    ended = run("--install-completion", "--shell", "bash", env=environment(HOME=str(tmp_path)))
    assert ended.code == 0, ended.stderr
    assert any("rongcloud" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_windows_is_refused_in_one_line() -> None:
    code = "import sys; from rongcloud_groups.cli import main; sys.platform = 'win32'; main()"
    ended = run_python(code, env=environment())
    assert ended.code == 2
    assert ended.stderr == "rongcloud-groups: error: this command runs on Linux and macOS; on Windows, run it in WSL\n"


@pytest.mark.parametrize("module", ["cyclopts", "rich"])
def test_without_its_extra_the_command_names_it(module: str) -> None:
    ended = run_python(without(module, "get", "--help"), env=environment())
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "pip install 'rongcloud-groups[cli]'" in ended.stderr


def test_another_module_that_is_missing_is_not_taken_for_the_extra() -> None:
    ended = run_python(without("rongcloud_groups.cli.get", "get", "g1"), env=environment())
    assert ended.code == 1
    assert "ModuleNotFoundError" in ended.stderr

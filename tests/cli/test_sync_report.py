"""What `sync` says on stderr: its report, its errors, its progress."""

import asyncio
import json
from pathlib import Path

import pytest
from support.bulk_jobs import ids, names_in, sync, sync_on_terminal, written
from support.command_line import COMMAND, run


async def test_a_report_in_json_is_the_last_line_and_all_of_stderr_is_json(
    variables: dict[str, str], here: Path
) -> None:
    written(here / "ids.txt", *ids(5000))
    variables["RONGCLOUD_RATE"] = "50"
    ended = await sync("ids.txt", "-o", "out.jsonl", "--report", "json", "--progress", "json", env=variables, here=here)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert {line["message_type"] for line in lines[:-1]} == {"status"}
    assert 0 < lines[0]["records"] < 5000
    assert lines[0]["total"] == 5000
    summary = lines[-1]
    assert summary["message_type"] == "summary"
    assert (summary["complete"], summary["records"], summary["requests"]) == (True, 5000, 100)
    assert (summary["output"], summary["row_schema_version"]) == ("out.jsonl", 1)


async def test_a_job_continues_when_its_progress_has_no_reader(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(300))
    variables["RONGCLOUD_RATE"] = "4"
    line = f'set -o pipefail; "{COMMAND}" sync ids.txt -o out.jsonl --progress json 2>&1 | head -n 1'
    ended = await asyncio.to_thread(run, "-c", line, env=variables, command=("bash",), cwd=here)
    assert ended.code == 0
    assert json.loads(ended.stdout)["message_type"] == "status"
    assert len(names_in(here / "out.jsonl")) > 200


@pytest.mark.parametrize("arguments", [["-o", "-"], ["-o", "out.jsonl"], ["-o", "out.jsonl", "--max-time", "soon"]])
async def test_with_a_report_in_json_all_of_stderr_is_json(
    arguments: list[str], variables: dict[str, str], here: Path
) -> None:
    written(here / "ids.txt", "x1", "no good")
    ended = await sync("ids.txt", *arguments, "--report", "json", env=variables, here=here)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    kinds = [line["message_type"] for line in lines]
    if arguments[-1] == "soon":
        assert (kinds, lines[0]["exit_code"]) == (["error"], 2)
    elif arguments[-1] == "-":
        assert kinds == ["failed", "summary"]
        assert (lines[0]["group_id"], lines[0]["error"]) == ("no good", "InvalidGroupId")
    else:
        assert kinds == ["summary"]


async def test_an_id_cannot_control_the_terminal(variables: dict[str, str], here: Path) -> None:
    ended = await sync("-", "-o", "-", env=variables, here=here, stdin=b"g\x1b[31mred\n")
    assert ended.code == 3
    assert "g\N{REPLACEMENT CHARACTER}[31mred" in ended.stderr
    assert "\x1b" not in ended.stderr


async def test_an_error_in_json_says_its_exit_code(variables: dict[str, str], here: Path) -> None:
    ended = await sync("absent.txt", "-o", "out.jsonl", "--report", "json", env=variables, here=here)
    assert json.loads(ended.stderr) == {
        "message_type": "error",
        "message": "cannot read absent.txt: No such file or directory",
        "exit_code": 2,
    }


async def test_a_traceback_is_shown_only_for_debugging(variables: dict[str, str], here: Path) -> None:
    ended = await sync("absent.txt", "-o", "out.jsonl", "--debug", env=variables, here=here)
    assert ended.code == 2
    assert "Traceback" in ended.stderr


async def test_the_secret_is_nowhere(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(100))
    ended = await sync("ids.txt", "-o", "out.jsonl", "--debug", env=variables, here=here)
    assert variables["RONGCLOUD_APP_SECRET"] not in ended.stderr
    assert variables["RONGCLOUD_APP_SECRET"] not in (here / "out.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("columns", [80, 120])
async def test_a_terminal_shows_a_bar_that_fits_and_is_gone_in_the_end(
    columns: int, variables: dict[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    written(here / "ids.txt", *ids(4000))
    variables["RONGCLOUD_RATE"] = "50"
    shown = await sync_on_terminal("ids.txt", "-o", "out.jsonl", env=variables, columns=columns)
    assert shown.code == 0
    assert "of 4,000" in shown.screen
    assert "IDs/s" in shown.screen
    assert "budget" in shown.screen
    assert shown.screen.splitlines()[-1].endswith("done: out.jsonl; missing IDs: out.jsonl.missing.txt")


async def test_a_terminal_without_colour_has_none(
    variables: dict[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    written(here / "ids.txt", *ids(2000))
    variables |= {"RONGCLOUD_RATE": "40", "NO_COLOR": "1"}
    shown = await sync_on_terminal("ids.txt", "-o", "out.jsonl", env=variables)
    assert "of 2,000" in shown.screen
    assert "\x1b[32m" not in shown.screen
    shown = await sync_on_terminal("ids.txt", "-o", "out.jsonl", env=variables | {"TERM": "dumb"})
    assert "\x1b" not in shown.screen

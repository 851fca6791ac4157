import asyncio
import json
import os
from pathlib import Path

import pytest
from support.bulk_jobs import files_in, ids, names_in, rows_in, sync, sync_on, written
from support.command_line import COMMAND, environment, run, run_on_terminal

from rongcloud_groups.cli.app import exit_code
from rongcloud_groups.emulator import Emulator, Faults


@pytest.fixture
def unserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a command whose service does not answer."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    return tmp_path


async def test_a_file_of_ids_becomes_a_file_of_rows(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(300), *ids(20), "no good")
    ended = await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)
    assert (ended.code, ended.stdout) == (3, "")
    found = len(names_in(here / "out.jsonl"))
    first, second, third = ended.stderr.splitlines()
    assert first == f"321 IDs, 20 of them duplicates: {found} found, {300 - found} missing, 1 failed"
    assert second.startswith("6 requests in ")
    assert third == ("done: out.jsonl; failed IDs: out.jsonl.failed.jsonl; missing IDs: out.jsonl.missing.txt")
    written(here / "id.txt", "g1")
    ended = await sync("id.txt", "-o", "out.csv", env=variables, here=here)
    assert ended.stderr.startswith("1 ID, 0 of them duplicates: 1 found, 0 missing, 0 failed\n1 request in ")


async def test_without_failures_the_exit_code_is_0_and_missing_groups_count_only_if_asked(
    variables: dict[str, str], here: Path
) -> None:
    written(here / "ids.txt", *ids(100))
    assert (await sync("ids.txt", "-o", "out.csv", env=variables, here=here)).code == 0
    assert (await sync("ids.txt", "-o", "out.csv", "--fail-on-missing", env=variables, here=here)).code == 3


async def test_rows_go_to_stdout_and_everything_else_to_stderr(variables: dict[str, str], here: Path) -> None:
    ended = await sync("-", "-o", "-", env=variables, here=here, stdin=b"x1\nno good\nx0\n")
    assert [json.loads(line)["group_id"] for line in ended.stdout.splitlines()] == ["x1", "x0"]
    assert ended.stderr.startswith("failed: no good: ")
    assert ended.code == 3
    ended = await sync(
        "-", "-o", "-", "--format", "csv", "--column", "id", env=variables, here=here, stdin=b"n,id\n1,x1\n"
    )
    assert [line.split(",")[0] for line in ended.stdout.splitlines()] == ["group_id", "x1"]
    ended = await sync("-", "-o", "-", "--field", "id", env=variables, here=here, stdin=b'{"id":"x1"}\n')
    assert json.loads(ended.stdout)["group_id"] == "x1"


async def test_all_groups_of_the_app_go_into_a_database(variables: dict[str, str], here: Path) -> None:
    ended = await sync("--all", "-o", "out.sqlite", "--report", "json", env=variables, here=here)
    assert ended.code == 0, ended.stderr
    assert names_in((here / "out.sqlite").rename(here / "out.db")) == [f"g{number}" for number in range(1500)]
    later = await sync("--all", "--since", "2100-01-01", "-o", "new.jsonl", env=variables, here=here)
    assert later.code == 0
    assert rows_in(here / "new.jsonl") == []


async def test_failed_ids_are_retried_into_the_same_output(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", *ids(60))
    emulator.service.faults = Faults(poison={"x3"})
    assert (await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)).code == 3
    before = names_in(here / "out.jsonl")
    emulator.service.faults = Faults()
    ended = await sync("--retry-failed", "out.jsonl.failed.jsonl", "-o", "out.jsonl", env=variables, here=here)
    assert ended.code == 0
    assert names_in(here / "out.jsonl") == [*before, "x3"]
    assert files_in(here) == ["ids.txt", "out.jsonl", "out.jsonl.missing.txt"]


async def test_a_dry_run_counts_tries_the_credentials_and_writes_nothing(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    written(here / "ids.txt", *ids(120), "x1", "no good")
    variables["RONGCLOUD_RATE"] = "2"
    ended = await sync("ids.txt", "--dry-run", env=variables, here=here)
    assert ended.code == 0
    assert ended.stderr.splitlines() == [
        "122 IDs, 1 of them duplicates, 1 invalid",
        "3 requests, at least 2 s",
        "credentials accepted",
    ]
    assert emulator.report().batch_requests == 1
    assert files_in(here) == ["ids.txt"]
    ended = await sync("ids.txt", "--dry-run", "--report", "json", env=variables, here=here)
    assert json.loads(ended.stderr)["requests"] == 3
    ended = await sync("--all", "--dry-run", "-o", "rows.jsonl", env=variables, here=here)
    assert "credentials accepted" in ended.stderr
    ended = await sync("-", "--dry-run", env=variables, here=here, stdin=b"no good\n")
    assert "credentials not tried" in ended.stderr
    emulator.service.locked = True
    assert (await sync("ids.txt", "--dry-run", env=variables, here=here)).code == 4


@pytest.mark.parametrize("on", ["pipe", "terminal"])
async def test_a_fault_of_a_file_is_reported_with_its_exit_code(
    on: str, variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    (here / "latin.txt").write_bytes(b"g1\n\xff\n")
    written(here / "ids.csv", "a,b", "1,2")
    written(here / "ids.txt", "g1")
    for arguments, words in (
        (["latin.txt", "-o", "out.jsonl"], "latin.txt, line 2: not UTF-8"),
        (["ids.csv", "-o", "out.jsonl"], "has no column 'group_id'; it has 'a', 'b'; choose one with --column"),
        (["ids.txt", "-o", "nowhere/out.jsonl"], "cannot write nowhere/out.jsonl: there is no directory nowhere"),
    ):
        code, printed = await sync_on(on, *arguments, env=variables, here=here)
        assert code == 2
        assert words in printed
        assert "Traceback" not in printed
    assert emulator.report().batch_requests == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ids.txt", "-o", "out.unknown"], "does not tell a format; give --format"),
        (["ids.txt"], "give an output: -o FILE"),
        (["absent.txt", "-o", "out.jsonl"], "cannot read absent.txt: No such file"),
        (["ids.txt", "--all", "-o", "out.jsonl"], "give one of"),
        (["ids.txt", "--since", "2024-01-01", "-o", "out.jsonl"], "--since goes with --all"),
        (["ids.txt", "-o", "out.jsonl", "--max-time", "soon"], "--max-time 'soon' is not a time"),
        (["ids.txt", "-o", "out.jsonl", "--format", "xml"], "--format"),
        ([], "Usage"),
    ],
)
def test_a_fault_of_the_arguments_is_reported_before_the_first_request(
    arguments: list[str], words: str, unserved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written(unserved / "ids.txt", "g1")
    assert exit_code(["sync", *arguments]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert files_in(unserved) == ["ids.txt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ids.csv", "-o", "ids.csv"], "ids.csv is the input and the output"),
        (["link.csv", "-o", "ids.csv"], "link.csv is the input and the output"),
        (["out.csv.failed.jsonl", "-o", "out.csv"], "retry them with --retry-failed"),
        (["ids.csv", "-o", "pipe", "--format", "csv"], "it is no regular file; write to stdout"),
        (["ids.csv", "-o", "/dev/null", "--format", "csv"], "it is no regular file; write to stdout"),
        (["ids.csv", "-o", "to-pipe.csv"], "it is no regular file"),
        (["ids.csv", "-o", "loop.csv"], "Too many levels of symbolic links"),
        (["ids.csv", "-o", ".", "--format", "csv"], "cannot write .: it is a directory"),
        (["ids.csv", "-o", "out.csv", "--missing", "pipe"], "cannot write pipe: it is no regular file"),
        (["ids.csv", "-o", "out.csv", "--missing", "."], "cannot write .: it is a directory"),
        (["ids.csv", "-o", "out.csv", "--missing", "no/list"], "there is no directory no"),
        (["ids.csv", "-o", "out.csv", "--missing", "ids.csv"], "is the list of missing IDs and another file too"),
        (["ids.csv", "-o", "out.csv", "--missing", "out.csv.partial"], "and another file too"),
        (["ids.csv", "-o", "out.csv", "--missing", "out.csv.failed.jsonl"], "and another file too"),
        (["--retry-failed", "some.jsonl", "-o", "ids.csv"], "ids.csv exists, and some.jsonl is not its own list"),
    ],
)
def test_no_file_is_replaced_that_is_still_needed(
    arguments: list[str], words: str, unserved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written(unserved / "ids.csv", "group_id", "g1")
    written(unserved / "some.jsonl", '{"group_id":"g1"}')
    written(unserved / "out.csv.failed.jsonl", '{"group_id":"g1"}')
    (unserved / "link.csv").symlink_to("ids.csv")
    (unserved / "loop.csv").symlink_to("loop.csv")
    os.mkfifo(unserved / "pipe")
    (unserved / "to-pipe.csv").symlink_to("pipe")
    before = files_in(unserved)
    assert exit_code(["sync", *arguments]) == 2
    assert words in capfd.readouterr().err
    assert files_in(unserved) == before


async def test_where_the_output_is_a_link_what_it_leads_to_is_replaced(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", "x1")
    (here / "store").mkdir()
    (here / "out.jsonl").symlink_to("store/rows.jsonl")
    assert (await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)).code == 0
    assert (here / "out.jsonl").is_symlink()
    assert names_in(here / "store" / "rows.jsonl") == ["x1"]


async def test_a_file_name_may_be_no_unicode_text(variables: dict[str, str], here: Path) -> None:
    name = os.fsdecode(b"\xff")
    written(here / f"{name}.txt", "x1", "no good")
    ended = await sync(f"{name}.txt", "-o", f"{name}.csv", "--report", "json", env=variables, here=here)
    assert json.loads(ended.stderr)["failed_file"] == f"{name}.csv.failed.jsonl"
    ended = await sync(f"{name}.json", "-o", "out.csv", "--report", "json", env=variables, here=here)
    assert json.loads(ended.stderr)["message"] == f"cannot read {name}.json: No such file or directory"


async def test_ids_are_typed_on_a_terminal(
    variables: dict[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    shown = await asyncio.to_thread(run_on_terminal, "sync", "-", "-o", "out.jsonl", env=variables, typed=b"x1\n\x04")
    assert (shown.code, names_in(here / "out.jsonl")) == (0, ["x1"])
    assert "Ctrl-D" in shown.screen


async def test_a_pipe_that_has_a_name_is_read_once(variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", *ids(300))
    for command in ("<(cat ids.txt)", "/dev/stdin < <(cat ids.txt)", "/dev/stdin < ids.txt"):
        line = f'"{COMMAND}" sync -o out.jsonl {command}'
        ended = await asyncio.to_thread(run, "-c", line, env=variables, command=("bash",), cwd=here)
        assert ended.code == 0, ended.stderr
        assert len(names_in(here / "out.jsonl")) > 200
        (here / "out.jsonl").unlink()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_a_daemon_without_standard_streams_can_run_it(closed: str, variables: dict[str, str], here: Path) -> None:
    written(here / "ids.txt", "x1", "x3")
    line = f'"{COMMAND}" sync ids.txt -o out.jsonl {closed}'
    ended = await asyncio.to_thread(run, "-c", line, env=variables, command=("bash",), cwd=here)
    assert ended.code == 0, ended.stderr
    assert "rror" not in ended.stderr
    assert names_in(here / "out.jsonl") == ["x1", "x3"]


async def test_groups_that_the_listing_gives_without_a_readable_id_are_counted(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    emulator.service.universe.add("two\nlines")
    emulator.service.universe.add("fine")
    ended = await sync("--all", "-o", "out.jsonl", env=variables, here=here)
    assert "without an ID that can be looked up: 1" in ended.stderr
    assert names_in(here / "out.jsonl")[-1] == "fine"


async def test_missing_credentials_are_named(variables: dict[str, str], here: Path) -> None:
    del variables["RONGCLOUD_APP_SECRET"]
    written(here / "ids.txt", "g1")
    ended = await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)
    assert ended.code == 2
    assert "RONGCLOUD_APP_SECRET" in ended.stderr


async def test_an_app_that_is_not_accepted_is_exit_code_4(
    variables: dict[str, str], emulator: Emulator, here: Path
) -> None:
    emulator.service.enabled = False
    written(here / "ids.txt", *ids(100))
    ended = await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)
    assert ended.code == 4
    assert "not enabled" in ended.stderr
    assert "the same command resumes there" in ended.stderr
    emulator.service.enabled = True
    assert (await sync("ids.txt", "-o", "out.jsonl", env=variables, here=here)).code == 0

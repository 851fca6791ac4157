import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from support.bulk_jobs import until
from support.command_line import COMMAND, TIMEOUT, Ended, OnTerminal, environment, run, run_on_terminal

from rongcloud_groups import GroupProfile, InvalidGroupId
from rongcloud_groups._protocol.requests import validated_group_id
from rongcloud_groups.bulk import Counts, Failure, Report
from rongcloud_groups.cli import demo_run
from rongcloud_groups.cli.app import exit_code
from rongcloud_groups.cli.demo_run import DISTINCT, INVALID, LINES, Outcome, contradictions, demo_ids
from rongcloud_groups.emulator.server import Report as Seen

NUMBER = re.compile(r"^(\w[\w ]+?)  +([\d,.]+)  ", re.MULTILINE)


class Demo:
    """One run of the demo, in a folder of its own."""

    def __init__(self, ended: Ended, directory: Path) -> None:
        self.ended = ended
        self.numbers = {name: float(number.replace(",", "")) for name, number in NUMBER.findall(ended.stdout)}
        self.lines = (directory / "group-ids.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        profiles = (directory / "profiles.jsonl").read_bytes().splitlines()
        self.group_ids = Counter(msgspec.json.decode(line, type=GroupProfile).group_id for line in profiles)
        self.files = sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def piped(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    directory = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return Demo(run("demo", "--directory", str(directory), env=without_credentials()), directory)


@pytest.fixture(scope="module")
def on_terminal(tmp_path_factory: pytest.TempPathFactory) -> OnTerminal:
    directory = tmp_path_factory.mktemp("terminal")
    return run_on_terminal("demo", "--directory", str(directory), env=without_credentials())


def without_credentials() -> dict[str, str]:
    return environment(RONGCLOUD_APP_KEY=None, RONGCLOUD_APP_SECRET=None)


def test_it_needs_no_credentials_and_ends_with_0(piped: Demo) -> None:
    assert piped.ended.code == 0, piped.ended.stderr
    assert piped.files == ["group-ids.txt", "profiles.jsonl"]


def test_its_ids_have_duplicates_and_invalid_ones(piped: Demo) -> None:
    assert len(piped.lines) == piped.numbers["lines"] == 20_000
    assert len(set(piped.lines)) == piped.numbers["distinct IDs"] == 19_500


def test_every_distinct_id_is_found_missing_or_failed(piped: Demo) -> None:
    numbers = piped.numbers
    assert numbers["found"] + numbers["missing"] + numbers["failed"] == numbers["distinct IDs"]
    assert numbers["missing"] > 0
    assert numbers["failed"] == len(INVALID)


def test_each_profile_is_in_the_file_once(piped: Demo) -> None:
    assert len(piped.group_ids) == piped.group_ids.total() == piped.numbers["found"]
    assert piped.group_ids.keys() < set(piped.lines)


def test_the_emulator_counted_full_requests_and_no_second_over_the_limit(piped: Demo) -> None:
    fewest = -(-(DISTINCT - len(INVALID)) // 50)
    assert fewest <= piped.numbers["requests"] <= 1.05 * fewest  # a pause of the machine may leave a request short
    assert 1 < piped.numbers["worst second"] <= 100


def test_where_stderr_is_no_terminal_its_progress_is_lines(piped: Demo) -> None:
    lines = piped.ended.stderr.splitlines()
    assert 3 <= len(lines) < piped.numbers["requests"] / 4
    done = [int(line.split(" of 20,000 IDs, ")[0].replace(",", "")) for line in lines]
    assert done == sorted(set(done))


def test_a_terminal_shows_a_bar_that_fits(on_terminal: OnTerminal) -> None:
    assert on_terminal.code == 0, on_terminal.screen
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", on_terminal.screen)
    lines = re.split(r"[\r\n]", text)
    bars = [line for line in lines if "━" in line]
    assert len(bars) > 5
    assert all(len(line) <= 80 for line in lines if line in bars or "budget" in line)
    assert re.match(r"[\d,]+ of 20,000 +━", bars[-1])
    assert any("found 1" in line and "budget" in line for line in lines)
    assert "worst second" in text


async def test_ctrl_c_ends_it_and_its_emulator_and_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        COMMAND, "demo", cwd=tmp_path, env=without_credentials(), stdout=-1, stderr=-1, start_new_session=True
    )
    assert process.stderr is not None
    progress = await asyncio.wait_for(process.stderr.readline(), TIMEOUT)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert (process.returncode, stdout, stderr) == (130, b"", b"")
    assert b" of 20,000 IDs" in progress
    assert not (tmp_path / "demo" / "profiles.jsonl").exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


async def test_sigterm_to_it_alone_ends_its_emulator_as_well(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        COMMAND, "demo", cwd=tmp_path, env=without_credentials(), stdout=-1, stderr=-1, start_new_session=True
    )
    assert process.stderr is not None
    await asyncio.wait_for(process.stderr.readline(), TIMEOUT)
    process.terminate()
    await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert process.returncode == 143
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


async def test_its_emulator_ends_with_it_even_if_it_is_killed(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        COMMAND, "demo", cwd=tmp_path, env=without_credentials(), stdout=-1, stderr=-1, start_new_session=True
    )
    assert process.stderr is not None
    await asyncio.wait_for(process.stderr.readline(), TIMEOUT)
    process.kill()
    await asyncio.wait_for(process.communicate(), TIMEOUT)
    await until(lambda: not processes_in_group(process.pid))


def processes_in_group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


# When it does not add up


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(demo_run, "demo_ids", lambda: ["g1", "g2", "g1", "poisoned", *INVALID])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_small_one_adds_up_and_asks_no_proxy(
    small: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert exit_code(["demo"]) == 0
    assert "in demo/group-ids.txt" in capfd.readouterr().out
    assert (small / "demo" / "profiles.jsonl").exists()


def test_an_id_that_fails_at_the_service_ends_it_with_1(
    small: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_run, "_EMULATOR", ["--unknown=0", "--fault=poison=poisoned"])
    assert exit_code(["demo", "--directory", str(small)]) == 1
    stdout, stderr = capfd.readouterr()
    assert "'poisoned' failed: " in stderr
    assert f"{len(INVALID)} of them invalid" in stdout


def test_an_emulator_that_does_not_start_is_an_error(
    small: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_run, "_EMULATOR", ["--fault=gremlins"])
    assert exit_code(["demo", "--directory", str(small)]) == 1
    assert "the emulator did not start: " in capfd.readouterr().err


def test_a_file_of_ids_that_is_not_its_own_is_left_alone(small: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (small / "group-ids.txt").write_text("mine\n")
    assert exit_code(["demo", "--directory", str(small)]) == 2
    assert "group-ids.txt is not the demo's" in capfd.readouterr().err
    assert (small / "group-ids.txt").read_text() == "mine\n"


def test_a_folder_that_cannot_be_made_is_an_error(small: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (small / "file").touch()
    assert exit_code(["demo", "--directory", str(small / "file")]) == 1
    assert "File exists" in capfd.readouterr().err


def refused(*group_ids: str) -> list[Failure]:
    return [Failure(group_id, "InvalidGroupId", None, "it has a comma in it", 0) for group_id in group_ids]


def outcome(
    *,
    found: int = 2,
    missing: int = 2,
    written: str = "ab",
    failed: Sequence[Failure] = tuple(refused(*INVALID)),
    worst_second: int = 1,
) -> Outcome:
    counts = Counts(records=20, duplicates=1, found=found, missing=missing, failed=len(failed))
    seen = msgspec.convert(
        {field: {} for field in ("requests", "codes", "faults", "http_versions")}
        | {
            field: 1
            for field in Seen.__struct_fields__
            if field not in {"requests", "codes", "faults", "http_versions"}
        }
        | {"worst_second": worst_second},
        Seen,
    )
    return Outcome(
        distinct=4 + len(INVALID),
        written=Counter(written),
        failed=list(failed),
        report=Report(complete=True, counts=counts, resumed_from=0, seconds=1.0, requests=1),
        seen=seen,
    )


GONE = Failure("z", "TransportError", None, "gone", 5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (outcome(missing=1), ["9 IDs are found, missing or failed; it should be all 10"]),
        (outcome(missing=8, failed=[]), ["0 IDs were refused as invalid; it should be the 6 that are"]),
        (outcome(written="aab"), ["3 profiles are in the file; it should be the 2 found"]),
        (outcome(written="a"), ["1 profiles are in the file; it should be the 2 found"]),
        (outcome(worst_second=101), ["101 requests came in one second; the service allows 100"]),
        (outcome(failed=[*refused(*INVALID), GONE], missing=1), ["'z' failed: gone"]),
        (outcome(worst_second=100), []),
    ],
)
def test_contradictions_in_an_outcome_are_named(wrong: Outcome, words: list[str]) -> None:
    assert contradictions(wrong) == words


def test_the_invalid_ids_are_all_that_cannot_be_asked_for() -> None:
    lines = demo_ids()
    assert (len(lines), len(set(lines))) == (LINES, DISTINCT)
    for line in set(lines) - set(INVALID):
        validated_group_id(line)
    for line in INVALID:
        with pytest.raises(InvalidGroupId):
            validated_group_id(line)

import asyncio
import json
import signal
import socket
from pathlib import Path

import pytest
from support.command_line import COMMAND, environment, profiles_in, run, run_python, without
from support.command_process import ended, started

from rongcloud_groups.cli.app import exit_code


@pytest.mark.parametrize("command", ["emulate", "demo"])
def test_without_its_extra_the_emulator_names_it(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run_python(without("trustme", command), env=environment())
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "pip install 'rongcloud-groups[emulator]'" in ended.stderr


async def test_emulate_prints_what_get_needs_and_a_report_at_the_end(groups_file: Path) -> None:
    process = await started(
        "emulate", "--groups", str(groups_file), "--rate", "50", "--window", "bucket", "--fault", "slow-body=100%",
        env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    lines = (await process.stdout.read()).decode().splitlines()  # it closes stdout once it listens
    variables: dict[str, str | None] = {}
    for line in lines:
        name, _, value = line.removeprefix("export ").partition("=")
        variables[name] = value
    assert [line.split()[0] for line in lines] == ["export"] * 5
    assert int(variables.pop("RONGCLOUD_EMULATOR_PID") or 0) == process.pid
    url, ca_file = variables.pop("RONGCLOUD_BASE_URL"), variables.pop("SSL_CERT_FILE")
    got = await asyncio.to_thread(run, "get", "g1", "unknown", env=environment(url, ca_file, **variables))
    assert (got.code, got.stderr) == (0, "no such group: unknown\n")
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = await ended(process)
    assert (code, stdout) == (0, "")
    listens, report_line = stderr.splitlines()
    assert listens == f"the emulator listens at {url}; Ctrl-C ends it"
    report = json.loads(report_line)
    assert report["batch_requests"] == 1
    assert report["faults"] == {"slow-body": 1}


def test_a_shell_evaluates_what_emulate_prints() -> None:
    line = f"""
        eval "$("{COMMAND}" emulate &)"
        "{COMMAND}" get g1; kill "$RONGCLOUD_EMULATOR_PID"
    """
    ended = run("-c", line, env=environment(RONGCLOUD_APP_KEY=None, RONGCLOUD_APP_SECRET=None), command=("sh",))
    assert profiles_in(ended.stdout)[0].group_id == "g1"


def test_emulate_says_which_port_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert exit_code(["emulate", "--port", str(port)]) == 1
    stderr = capfd.readouterr().err
    assert "in use" in stderr
    assert str(port) in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("port", "99999", "give 0 to 65535"), ("latency", "nan", "give 0 or more"), ("unknown", "7.0", "give 0 to 1")],
)
def test_emulate_names_a_number_that_is_out_of_its_range(
    option: str, value: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["emulate", f"--{option}", value]) == 2
    assert capfd.readouterr().err == f"rongcloud-groups: error: --{option} is {value}; {words}\n"


def test_emulate_lists_the_faults_where_it_knows_none_of_that_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["emulate", "--fault", "gremlins=1%"]) == 2
    stderr = capfd.readouterr().err
    assert stderr.startswith("rongcloud-groups: error: 'gremlins=1%' is not a fault.")
    assert "\n  rst=SHARE: the stream is reset" in stderr


def test_emulate_names_the_line_that_is_no_group(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    groups = tmp_path / "groups.jsonl"
    groups.write_text('{"groupId": "g1"}\n{"name": "no ID"}\n')
    assert exit_code(["emulate", "--groups", str(groups)]) == 2
    assert f"{groups}, line 2: groupId is missing" in capfd.readouterr().err

import asyncio
import json
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from cyclopts import App
from support.service_requests import V1_BATCH, form, signed

from rongcloud_groups.cli.emulate import emulate
from rongcloud_groups.emulator import Emulator, serve
from rongcloud_groups.emulator.__main__ import main
from rongcloud_groups.emulator.program import Address


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[tuple[dict[str, Any], asyncio.subprocess.Process]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rongcloud_groups.emulator", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(await process.stdout.readline()), process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def stop(process: asyncio.subprocess.Process, by: signal.Signals) -> dict[str, Any]:
    process.send_signal(by)
    rest, errors = await process.communicate()
    assert (process.returncode, rest) == (0, b"")
    report = json.loads(errors)
    assert isinstance(report, dict)
    return report


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
async def test_another_program_starts_it_uses_it_and_stops_it(by: signal.Signals) -> None:
    async with program("--port", "0", "--rate", "0", "--fault", "error-500=100%") as (address, process):
        trust = ssl.create_default_context(cafile=address["ca_file"])
        async with httpx.AsyncClient(http2=True, verify=trust, base_url=address["url"]) as client:
            headers = signed(app_key=address["app_key"], app_secret=address["app_secret"])
            response = await client.post(V1_BATCH, content=form(["a"]), headers=headers)
        assert (response.http_version, response.status_code) == ("HTTP/2", 500)
        report = await stop(process, by)
        assert report["faults"] == {"error-500": 1}
    assert not await anyio.Path(address["ca_file"]).exists()


async def test_options_reach_the_service(tmp_path: Path) -> None:
    groups = tmp_path / "groups.jsonl"
    groups.write_text('{"groupId": "only"}\n')
    options = ["--no-tls", "--groups", str(groups), "--rate", "2", "--retry-after", "3", "--other", "0.001"]
    async with program(*options) as (address, process):
        assert address["ca_file"] is None
        async with httpx.AsyncClient(base_url=address["url"]) as client:
            responses = [await client.post(V1_BATCH, content=form(["only", "g0"]), headers=signed()) for _ in range(2)]
        assert responses[0].json()["profiles"] == [{"groupId": "only"}]
        assert responses[1].headers["retry-after"] == "3"
        assert (await stop(process, signal.SIGTERM))["refused"] == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--fault", "nonsense"], "'nonsense' is not a fault"),
        (["--groups", "/nowhere/groups.jsonl"], "No such file"),
        (["--window", "round"], "invalid choice"),
    ],
)
def test_a_wrong_option_is_explained(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err


async def test_it_prints_its_address_and_the_report_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator = Emulator()
    ca_file = tmp_path / "ca.pem"
    serving = asyncio.create_task(serve(emulator, ca_file=ca_file))
    while not (printed := capsys.readouterr().out):  # noqa: ASYNC110  what it prints is the only sign
        await asyncio.sleep(0)
    assert json.loads(printed) == {
        "url": emulator.url,
        "app_key": emulator.app_key,
        "app_secret": emulator.app_secret,
        "ca_file": str(ca_file),
    }
    assert ca_file.read_bytes() == emulator.ca_pem
    os.kill(os.getpid(), signal.SIGTERM)
    report = await serving
    assert report == emulator.report()
    assert json.loads(capsys.readouterr().err)["batch_requests"] == 0
    assert ca_file.exists()


async def test_a_certificate_file_that_was_not_asked_for_is_removed_at_the_end() -> None:
    started: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
    emulator = Emulator()
    serving = asyncio.create_task(serve(emulator, started=started.set_result))
    ca_file = anyio.Path((await started).ca_file or "")
    assert await ca_file.read_bytes() == emulator.ca_pem
    os.kill(os.getpid(), signal.SIGINT)
    await serving
    assert not await ca_file.exists()


def test_both_command_lines_have_the_same_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    program = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out)) - {"--help"}
    command = {
        name for argument in App(default_command=emulate).assemble_argument_collection() for name in argument.names
    }
    assert program == command - {"*", "--debug"}

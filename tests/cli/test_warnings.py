"""A warning of the client or its limiter reaches the terminal and the report, with how often it was repeated."""

import asyncio
import json
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from support.bulk_jobs import ids, written
from support.command_line import environment, run

from rongcloud_groups.cli import console
from rongcloud_groups.cli.console import Warnings
from rongcloud_groups.emulator import Emulator, Faults

COMMANDS = {
    "get": ["get", "g1"],
    "check": ["check", "--json"],
    "sync": ["sync", "ids.txt", "-o", "-", "--report", "json"],
}


async def warned(command: str, variables: dict[str, str], here: Path) -> list[str]:
    """The warnings that a command shows; those of the JSON report are the same ones."""
    written(here / "ids.txt", *ids(200))
    ended = await asyncio.to_thread(run, *COMMANDS[command], env=variables, cwd=here)
    assert ended.code == 0, ended.stderr
    if command == "get":
        start = "rongcloud-groups: warning: "
        return [line.removeprefix(start) for line in ended.stderr.splitlines() if line.startswith(start)]
    if command == "check":
        return [problem["problem"] for problem in json.loads(ended.stdout)["problems"]]
    *messages, summary = map(json.loads, ended.stderr.splitlines())
    assert summary["warnings"] == [each["message"] for each in messages if each["message_type"] == "warning"]
    return list(summary["warnings"])


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_limiter_that_cannot_be_reached(command: str, variables: dict[str, str], here: Path) -> None:
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))  # taken, and not listening
        variables["RONGCLOUD_LIMITER"] = f"redis://127.0.0.1:{unserved.getsockname()[1]}"
        [warning] = await warned(command, variables, here)
    assert warning.startswith("Redis at 127.0.0.1")


@pytest.mark.parametrize("command", ["get", "sync"])
async def test_a_switch_to_the_backup_host(command: str, emulator: Emulator, here: Path) -> None:
    async with Emulator(limit=None, faults=Faults(share={"error-500": 1.0})) as broken:
        (here / "ca.pem").write_bytes(broken.ca_pem + emulator.ca_pem)
        variables = environment(f"{broken.url},{emulator.url}", here / "ca.pem")
        [warning] = await warned(command, variables, here)
    assert warning.startswith("requests go to 127.0.0.1")
    assert "instead of 127.0.0.1" in warning


@pytest.mark.parametrize("command", ["get", "sync"])
async def test_throttling(command: str, variables: dict[str, str], emulator: Emulator, here: Path) -> None:
    emulator.service.faults = Faults(at={1: "429"})
    [warning] = await warned(command, variables, here)
    assert "429" in warning or "rate" in warning


def test_a_warning_that_is_repeated_is_shown_again_after_a_while_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def say(text: str, fields: dict[str, Any]) -> None:
        assert fields["message"] in text
        shown.append(text)

    now = 1000.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)  # type: ignore[attr-defined]
    warnings = Warnings(say)
    logger = logging.getLogger("of this test")
    logger.addHandler(warnings)
    monkeypatch.setattr(logger, "propagate", False)
    for number in range(5):
        logger.warning("host %s is slow", number)
    logger.warning("another kind")
    assert shown == ["warning: host 0 is slow", "warning: another kind"]
    now += 11
    logger.warning("host %s is slow", 5)
    logger.warning("host %s is slow", 6)
    logger.warning("host %s is slow", 7)
    warnings.show_held_back()
    warnings.show_held_back()
    assert shown[2:] == [
        "warning: host 5 is slow (and 4 more of these)",
        "warning: host 7 is slow (and 1 more of these)",
    ]
    assert [f"warning: {each}" for each in warnings.kept] == shown

"""Both clients in a real notebook kernel, left open as it is restarted and shut down."""

import os
import sys
from pathlib import Path

import pytest
from support.emulators import emulator_process

pytest.importorskip("ipykernel", reason="ipykernel is not among the packages of dev: pip install ipykernel")
manager = pytest.importorskip("jupyter_client.manager")

CELLS = {
    # ipykernel stops its loop from another thread, which the debug mode of -X dev refuses
    "import asyncio; asyncio.get_running_loop().set_debug(False)": None,
    "from rongcloud_groups import GroupClient; from rongcloud_groups.blocking import shared": None,
    "limiter = 'file:budget'; len(shared(limiter=limiter).get_many(['g1', 'g2']))": "2",
    "async with GroupClient.from_env(limiter=limiter) as client: n = len(await client.get_many(['g1']))": None,
    "n": "1",
    "client = await GroupClient.from_env(limiter=limiter).open(); len(await client.get_many(['g3']))": "1",
    "parts = shared(limiter=limiter).stream(['g4'] * 5000); len(next(parts))": "1",
}


@pytest.mark.timeout(180)
def test_a_kernel_with_open_clients_restarts_and_ends_without_a_word(tmp_path: Path) -> None:
    kernel = manager.KernelManager(kernel_name="python3")
    # ipykernel itself has a PendingDeprecationWarning when it ends.
    warnings = ["-X", "dev", "-W", "error", "-W", "ignore::PendingDeprecationWarning"]
    kernel.kernel_spec.argv = [sys.executable, *warnings, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    said: list[tuple[str, str]] = []

    def output(message: dict[str, object]) -> None:
        content = message["content"]
        assert isinstance(content, dict)
        match message["msg_type"]:
            case "execute_result":
                said.append(("result", content["data"]["text/plain"]))
            case "stream" | "error":
                said.append(("words", str(content)))

    def run_cells() -> None:
        channel = kernel.client()
        channel.start_channels()
        channel.wait_for_ready(60)
        for cell in CELLS:
            channel.execute_interactive(cell, timeout=100, output_hook=output)
        channel.stop_channels()

    with (tmp_path / "log").open("w") as log, emulator_process("--no-tls", "--unknown", "0") as address:
        env = os.environ | {
            "RONGCLOUD_BASE_URL": address.url,
            "RONGCLOUD_APP_KEY": address.app_key,
            "RONGCLOUD_APP_SECRET": address.app_secret,
        }
        kernel.start_kernel(env=env, cwd=str(tmp_path), stdout=log, stderr=log)
        run_cells()
        kernel.restart_kernel(now=False)
        run_cells()
        kernel.shutdown_kernel(now=False)
    assert said == [("result", result) for result in CELLS.values() if result] * 2
    words = [line for line in (tmp_path / "log").read_text().splitlines() if "over TCP without encryption" not in line]
    assert [line for line in words if not line.startswith("Executing <")] == []

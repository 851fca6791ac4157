"""The page on containers: `sync` runs where only its output's directory can be written, without HOME."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import COMMAND, environment

from rongcloud_groups.cli.emulator_process import emulator_process

SCRIPT = """
mount --bind "$HERE" "$HERE" && mount -o remount,ro,bind / && mount -o remount,rw,bind "$HERE" || exit 99
touch /written 2>/dev/null && exit 98
cd "$HERE" && unset HOME XDG_RUNTIME_DIR TMPDIR && exec "$PYTHON" "$COMMAND" sync --all -o groups.csv
"""


def test_sync_runs_on_a_read_only_file_system_without_home(tmp_path: Path) -> None:
    with emulator_process("--no-tls", "--listed", "100", "--unknown", "0") as address:
        env = environment(address.url) | {"HERE": str(tmp_path), "PYTHON": sys.executable, "COMMAND": COMMAND}
        ended = subprocess.run(  # noqa: S603  our own command
            ["unshare", "--mount", "sh", "-c", SCRIPT],  # noqa: S607  the system's
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
    if ended.returncode in {1, 99} and ("not permitted" in ended.stderr or "permission denied" in ended.stderr):
        pytest.skip("mounts need more rights than this user has")
    assert ended.returncode == 0, ended
    with (tmp_path / "groups.csv").open(newline="", encoding="utf-8") as rows:
        assert len(list(csv.DictReader(rows))) == 100

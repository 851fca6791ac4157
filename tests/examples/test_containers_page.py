"""The image of examples/Dockerfile, without Docker: its commands run in a copy of this system, in their own mounts."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.emulators import emulator_process
from support.pages import Block
from support.shell import readers_environment

IMAGE = """
cd "$HERE" && mount -t tmpfs tmpfs . && cd "$HERE" && mkdir upper work root || exit 99
mount -t overlay overlay -o "lowerdir=/,upperdir=$HERE/upper,workdir=$HERE/work" root || exit 99
mount --rbind /proc root/proc && mount --rbind /dev root/dev || exit 99
for directory in $OPENED; do chmod a+x "root$directory" || exit 98; done
chroot root sh -euc "$BUILD" >&2 || exit 97
mount --bind root/data root/data && mount -o remount,ro,bind root || exit 99
exec chroot --userspec="$USER" root env --chdir="$WORKDIR" -u HOME -u XDG_RUNTIME_DIR -u TMPDIR sh -c "$RUN"
"""
"""Builds the image and runs it, without HOME, on a file system that is read-only but for the volume."""


def run_image(dockerfile: str, run: str, env: dict[str, str], here: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in what the instructions make of this system; the package is installed there."""
    steps = [step for step in arguments_of(dockerfile, "RUN") if not step.startswith("pip install")]
    (user,), (workdir,) = arguments_of(dockerfile, "USER"), arguments_of(dockerfile, "WORKDIR")
    python = Path(sys.executable)
    opened = {*map(str, python.parents), *map(str, python.resolve().parents)}
    image = {"HERE": str(here), "BUILD": " && ".join(steps), "USER": user, "WORKDIR": workdir, "RUN": run}
    ended = subprocess.run(  # noqa: S603  our own commands
        ["unshare", "--mount", "sh", "-c", IMAGE],  # noqa: S607  the system's
        env=env | image | {"OPENED": " ".join(sorted(opened))},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    if ended.returncode in {1, 99} and re.search("not permitted|permission denied", ended.stderr):
        pytest.skip("mounts need more rights than this user has")
    return ended


def arguments_of(dockerfile: str, instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.+)$", dockerfile, re.MULTILINE)


@pytest.mark.runs("Dockerfile")
def test_the_image_syncs_on_a_read_only_file_system_without_root_or_home(blocks: list[Block], tmp_path: Path) -> None:
    dockerfile = blocks[0].text
    instructions = [line.split()[0] for line in dockerfile.splitlines() if not line.startswith("#")]
    assert instructions == ["FROM", "RUN", "RUN", "USER", "VOLUME", "WORKDIR", "ENTRYPOINT", "CMD"]
    assert arguments_of(dockerfile, "VOLUME") == arguments_of(dockerfile, "WORKDIR")
    entrypoint, command = (json.loads(arguments_of(dockerfile, each)[0]) for each in ("ENTRYPOINT", "CMD"))
    job = shlex.join([*entrypoint, *command])
    run = f"id -u && {job} && ! touch /written 2>/dev/null && {job.replace('parquet', 'csv')} && cat groups.csv"
    with emulator_process("--no-tls", "--listed", "100", "--unknown", "0") as address:
        ended = run_image(dockerfile, run, readers_environment(address), tmp_path)
    assert ended.returncode == 0, ended
    user, *rows = ended.stdout.splitlines()
    assert int(user) >= 1000
    assert len(list(csv.DictReader(rows))) == 100

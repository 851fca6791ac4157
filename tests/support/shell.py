"""A reader's shell: what a page's commands run in."""

import os
import sys
import sysconfig
from pathlib import Path

from support.command_line import Ended, environment, run

from rongcloud_groups.emulator.program import Address

_BASH = ("bash", "-euo", "pipefail", "-c")
AT_ITS_END = "trap 'kill $RONGCLOUD_EMULATOR_PID $(jobs -p)' EXIT"
"""A line that ends what the later lines leave running."""


def readers_environment(address: Address | None = None, **changes: str | None) -> dict[str, str]:
    """The variables of a reader whose service is at the address, and who has installed what the pages say."""
    env = environment(address.url, address.ca_file, **changes) if address else environment(**changes)
    directories = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return env | {"PATH": os.pathsep.join(directories)}


def command_of(*lines: str) -> list[str]:
    """The command that runs the lines in one shell, which ends at the first that fails; CI runs those that install."""
    return [*_BASH, "\n".join(line for line in lines if not line.startswith("pip install "))]


def run_lines(*lines: str, env: dict[str, str], here: Path) -> Ended:
    """Run the lines in one shell, in a directory; what they start in the background has to end too."""
    return run(command=command_of(*lines), env=env, cwd=here)

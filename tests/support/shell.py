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
    """The variables of a reader whose service is at the address.

    This environment has all packages that the pages install, so pip finds that a line's packages are there; it asks no
    index and installs nothing.
    """
    env = environment(address.url, address.ca_file, **changes) if address else environment(**changes)
    directories = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return env | {"PATH": os.pathsep.join(directories), "PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1"}


def command_of(*lines: str) -> list[str]:
    """The command that runs the lines in one shell, which ends at the first that fails."""
    return [*_BASH, "\n".join(lines)]


def run_lines(*lines: str, env: dict[str, str], here: Path) -> Ended:
    """Run the lines in one shell, in a directory; what they start in the background has to end too."""
    return run(command=command_of(*lines), env=env, cwd=here)

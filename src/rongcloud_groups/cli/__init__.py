"""The command ``rongcloud-groups``: parse, call, print. It needs the extra ``cli``."""

import os
import sys


def main() -> None:
    """Run the command with the process's arguments, and end the process with its exit code."""
    _open_standard_streams()
    try:
        from rongcloud_groups.cli.app import exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"cyclopts", "rich"}:
            raise
        sys.stderr.write("rongcloud-groups: error: the command needs its extra: pip install 'rongcloud-groups[cli]'\n")
        sys.exit(2)
    sys.exit(exit_code())


def _open_standard_streams() -> None:
    """A daemon may start a process without them; then a file that is opened later would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  open as long as the process

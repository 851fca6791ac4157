"""The command ``rongcloud-groups``: parse, call, print. It needs the extra ``cli``."""

import sys


def main() -> None:
    """Run the command with the process's arguments, and end the process with its exit code."""
    try:
        from rongcloud_groups.cli.app import exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"cyclopts", "rich"}:
            raise
        sys.stderr.write("rongcloud-groups: error: the command needs its extra: pip install 'rongcloud-groups[cli]'\n")
        sys.exit(2)
    sys.exit(exit_code())

"""The command ``rongcloud-groups``: parse, call, print. It needs the extra ``cli``."""

import os
import sys


def main() -> None:
    """Run the command with the process's arguments, and end the process with its exit code."""
    _prepare_standard_streams()
    try:
        sys.exit(_exit_code())
    except KeyboardInterrupt:
        sys.exit(130)


def _exit_code() -> int:
    if sys.platform == "win32":
        return _refused("this command runs on Linux and macOS; on Windows, run it in WSL")
    try:
        from rongcloud_groups.cli.app import exit_code

        return exit_code()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"cyclopts", "rich"}:
            raise
        from rongcloud_groups._validation import extra_needed

        return _refused(extra_needed("the command", "cli"))


def _refused(message: str) -> int:
    sys.stderr.write(f"rongcloud-groups: error: {message}\n")
    return 2


def _prepare_standard_streams() -> None:
    """Open those a daemon's child may lack, else a file would get their numbers; replace unprintable characters."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  open as long as the process
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]

"""The command ``rongcloud-groups``: parse, call, print. It needs the extra ``cli``."""

import os
import sys


def main() -> None:
    """Run the command with the process's arguments, and end the process with its exit code."""
    _prepare_standard_streams()
    refusal = "this command runs on Linux and macOS; on Windows, run it in WSL"
    try:
        if sys.platform != "win32":
            from rongcloud_groups.cli.app import exit_code

            sys.exit(exit_code())
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"cyclopts", "rich"}:
            raise
        from rongcloud_groups._validation import extra_needed

        refusal = extra_needed("the command", "cli")
    sys.stderr.write(f"rongcloud-groups: error: {refusal}\n")
    sys.exit(2)


def _prepare_standard_streams() -> None:
    """Open those a daemon's child may lack, else a file would get their numbers; replace unprintable characters."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  open as long as the process
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]

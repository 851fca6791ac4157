"""``rongcloud-groups demo``: 20,000 lines of IDs at the real rate, against the emulator, which counts its requests."""

from pathlib import Path

from rongcloud_groups.cli.exit import Context, run_command
from rongcloud_groups.cli.options import Flag


def demo(*, directory: Path = Path("demo"), debug: Flag = False) -> int:
    """Look up 20,000 lines of IDs against the emulator, in about five seconds; no account is needed.

    It writes the file of IDs, with duplicates, unknown and invalid ones, and the file of the profiles.
    The exit code is 0 only if every ID is accounted for and the emulator counted no second with more than
    100 requests.

    Args:
        directory: Where the two files go.
        debug: Log what happens, and show the traceback of an error.
    """

    def work(context: Context) -> int:
        from rongcloud_groups.cli.demo_run import run

        return run(directory, context)

    return run_command(work, debug=debug)

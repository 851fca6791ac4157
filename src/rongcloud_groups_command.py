"""Where the installed command starts, so that Ctrl-C ends it without a traceback while the package is imported.

It stands beside the package because importing anything inside imports the package itself.
"""

import signal


def main() -> None:
    """Run the command; until it handles signals, SIGINT ends the process as SIGTERM does."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rongcloud_groups.cli import main as run

    run()

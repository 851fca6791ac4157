"""What commands there are, and what the command line says."""

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from rongcloud_groups.cli.check import check
from rongcloud_groups.cli.demo import demo
from rongcloud_groups.cli.emulate import emulate
from rongcloud_groups.cli.exit import ExitCode, ShowHelp, no_traceback_at_exit, print_error
from rongcloud_groups.cli.get import get
from rongcloud_groups.cli.sync import sync

app = App(
    "rongcloud-groups",
    help="""Look up RongCloud / Nexconn group profiles by ID.

    Exit codes: 0 done; 1 error; 2 usage or configuration; 3 done, but some IDs failed; 4 credentials not accepted or
    service not enabled; 130 and 143 ended by a signal.
    """,
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command(get, sort_key=1)
app.command(emulate, sort_key=2)
app.command(demo, sort_key=3)
app.command(sync, sort_key=4)
app.command(check, sort_key=5)


def exit_code(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line's, without the program's name; None takes those of the process.
    """
    try:
        return int(app(sys.argv[1:] if arguments is None else arguments) or ExitCode.DONE)
    except CycloptsError as error:
        print_error(f"{error} See rongcloud-groups --help.")
        return ExitCode.USAGE
    except ShowHelp as of:
        app.help_print([str(of)], console=Console(stderr=True))
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    finally:
        no_traceback_at_exit()

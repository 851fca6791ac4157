"""The commands, and the parsing of the command line."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, UnusedCliTokensError

from rongcloud_groups import __version__
from rongcloud_groups.cli.check import check
from rongcloud_groups.cli.console import discard
from rongcloud_groups.cli.demo import demo
from rongcloud_groups.cli.emulate import emulate
from rongcloud_groups.cli.exit import ExitCode, ShowHelp, error_message, print_error
from rongcloud_groups.cli.get import get
from rongcloud_groups.cli.sync import sync

if TYPE_CHECKING:
    from rich.console import Console

_JSON = ("--json", "--report=json", "--progress=json")

app = App(
    "rongcloud-groups",
    help="""Look up RongCloud / Nexconn group profiles by ID.

    Exit codes: 0 done; 1 error; 2 usage or configuration; 3 done, but some IDs failed; 4 credentials not accepted or
    service not enabled; 5 stopped by --max-time; 130 and 143 ended by a signal; 141 the reader of stdout has gone.
    """,
    version=__version__,
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command(get, sort_key=1, usage="Usage: rongcloud-groups get [OPTIONS] ID...")
app.command(sync, sort_key=2, usage="Usage: rongcloud-groups sync [OPTIONS] IDS -o OUT")
app.command(check, sort_key=3, usage="Usage: rongcloud-groups check [OPTIONS]")
app.command(demo, sort_key=4, usage="Usage: rongcloud-groups demo [OPTIONS]")
app.command(emulate, sort_key=5, usage="Usage: rongcloud-groups emulate [OPTIONS]")
app.register_install_completion_command(sort_key=6)


def exit_code(arguments: Sequence[str] | None = None) -> int:
    """Run the command of these arguments; None takes the process's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"--help", "-h"} & {*arguments}:
        app.console = _help_console()
    try:
        return int(app(arguments) or ExitCode.DONE)
    except CycloptsError as error:
        message = " ".join(str(error).split())
        if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
            message = f"Unexpected argument {error.unused_tokens[0]!r}."
        in_json = any(option in " ".join(arguments).replace(" json", "=json") for option in _JSON)
        print_error(f"{message} See rongcloud-groups --help.", exit_code=ExitCode.USAGE, in_json=in_json)
        return ExitCode.USAGE
    except ShowHelp as command:
        app.help_print([str(command)], console=_help_console(stderr=True))
        return ExitCode.USAGE
    except OSError as error:  # help or the version cannot be written
        print_error(error_message(error))
        return ExitCode.ERROR
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # else the interpreter tries once more at its exit, and prints a traceback
            discard(sys.stdout.fileno())


def _help_console(*, stderr: bool = False) -> "Console":
    """Without colours: none is readable on all dark and all light terminals."""
    from rich.console import Console
    from rich.theme import Theme

    plain = dict.fromkeys(("cyclopts.choices", "cyclopts.default"), "none")
    return Console(stderr=stderr, theme=Theme(plain | {"cyclopts.name": "bold"}))

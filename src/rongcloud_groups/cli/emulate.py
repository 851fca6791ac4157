"""``rongcloud-groups emulate``: the service on loopback, for a first look and for tests."""

import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rongcloud_groups._tables.output import write_rows
from rongcloud_groups.cli.console import discard, tell
from rongcloud_groups.cli.exit import Context, ExitCode, run_command
from rongcloud_groups.cli.options import Flag
from rongcloud_groups.emulator.options import EmulatorOptions
from rongcloud_groups.errors import ConfigError

if TYPE_CHECKING:  # it imports packages of an extra
    from rongcloud_groups.emulator.program import Address


def emulate(
    options: Annotated[EmulatorOptions, Parameter(name="*", negative_iterable=())] = EmulatorOptions(),  # noqa: B008  it is frozen
    *,
    debug: Flag = False,
) -> int:
    """Run the service on this machine until Ctrl-C.

    It prints export lines for a shell to stdout, which it then closes, and a report to stderr at the end. In a script:

        eval "$(rongcloud-groups emulate &)"
        rongcloud-groups get g1
        kill $RONGCLOUD_EMULATOR_PID

    Args:
        options: see `EmulatorOptions`.
        debug: Show the traceback of an error.
    """

    def work(context: Context) -> int:
        from rongcloud_groups.emulator.program import build, serve

        try:
            emulator = build(options)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
        context.run(serve(emulator, ca_file=options.ca_file, started=_export))
        return ExitCode.DONE

    return run_command(work, debug=debug)


def _export(address: "Address") -> None:
    """Write export lines to stdout and close it, so that a shell that evaluates them does not wait for the end."""
    variables = {
        "RONGCLOUD_BASE_URL": address.url,
        "RONGCLOUD_APP_KEY": address.app_key,
        "RONGCLOUD_APP_SECRET": address.app_secret,
        "SSL_CERT_FILE": address.ca_file,
        "RONGCLOUD_EMULATOR_PID": str(os.getpid()),
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items() if value is not None]
    write_rows("".join(lines).encode())
    discard(sys.stdout.fileno())
    tell(f"the emulator listens at {address.url}; Ctrl-C ends it")

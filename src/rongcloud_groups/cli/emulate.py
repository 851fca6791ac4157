"""``rongcloud-groups emulate``: the service on loopback, for a first look and for tests."""

from typing import Annotated

from cyclopts import Parameter

from rongcloud_groups.cli.exit import Context, ExitCode, Flag, run_command
from rongcloud_groups.emulator.options import EmulatorOptions
from rongcloud_groups.errors import ConfigError


def emulate(
    options: Annotated[EmulatorOptions, Parameter(name="*", negative_iterable=())] = EmulatorOptions(),  # noqa: B008  it is frozen
    *,
    debug: Flag = False,
) -> int:
    """Run the service on this machine until Ctrl-C; print the environment variables to set, and a report at the end.

    Args:
        options: see `EmulatorOptions`.
        debug: Show the traceback of an error.
    """

    def work(context: Context) -> int:
        require_emulator()
        from rongcloud_groups.emulator.program import serve

        try:
            emulator = options.build()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        context.interruption.run(serve(emulator, ca_file=options.ca_file))
        return ExitCode.DONE

    return run_command(work, debug=debug)


def require_emulator() -> None:
    """Do nothing where the emulator can run.

    Raises:
        ConfigError: what it needs is not installed.
    """
    try:
        import trustme  # noqa: F401  to see whether it is there
    except ModuleNotFoundError:
        raise ConfigError("the emulator needs its extra: pip install 'rongcloud-groups[emulator]'") from None

"""How a command ends: its result, an error or a signal becomes an exit code, and an error one message on stderr."""

import errno
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from rongcloud_groups._tables.output import printable
from rongcloud_groups.cli.console import Messages, Warnings, discard, one_line
from rongcloud_groups.cli.signals import Interruption
from rongcloud_groups.errors import AuthenticationError, ConfigError, RongCloudError, ServiceNotEnabled

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


class ExitCode(IntEnum):
    """The exit codes of all commands."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    SOME_FAILED = 3
    NOT_ACCEPTED = 4
    STOPPED = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141  # as a shell shows a program that SIGPIPE ended


class ShowHelp(Exception):  # noqa: N818  a way to end, not an error
    """A command was called without the arguments it needs: print its help to stderr and exit with `ExitCode.USAGE`."""


class Context(NamedTuple):
    """The context in which a command runs."""

    interruption: Interruption
    warnings: Warnings


def run_command(work: Callable[[Context], int], *, debug: bool, in_json: bool = False) -> int:
    """Do a command's work; return its exit code, or that of the error or signal that ended it."""
    interruption = Interruption()
    with _logged(Warnings(Messages(in_json=in_json)), debug=debug) as warnings, interruption.by_signals():
        try:
            code = work(Context(interruption, warnings))
            sys.stdout.flush()
        except KeyboardInterrupt:
            return interruption.exit_code or ExitCode.INTERRUPTED
        except BrokenPipeError:
            return ExitCode.PIPE_CLOSED
        except Exception as error:  # noqa: BLE001  every error becomes a message and an exit code
            if debug and not in_json:
                traceback.print_exception(error)
            code = exit_code_for(error)
            print_error(error_message(error, debug=debug), exit_code=code, in_json=in_json)
        return code


def print_error(message: str, *, exit_code: int = ExitCode.ERROR, in_json: bool = False) -> None:
    lines = "\n".join(map(printable, message.split("\n")))
    fields = {"message_type": "error", "message": message, "exit_code": int(exit_code)}
    Messages(in_json=in_json).say(f"error: {lines}", fields)


def discard_unwritten() -> None:
    """Discard the rows that stdout did not take: the interpreter would try once more, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout.fileno())


def exit_code_for(error: Exception) -> ExitCode:
    if isinstance(error, AuthenticationError | ServiceNotEnabled):
        return ExitCode.NOT_ACCEPTED
    return ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.ERROR


def error_message(error: Exception, *, debug: bool = False) -> str:
    """The message for an error, with the error's notes."""
    return "; ".join([_message(error, debug=debug), *getattr(error, "__notes__", ())])


def _message(error: Exception, *, debug: bool) -> str:
    match error:
        case ConfigError():
            return str(error)
        case OSError(filename=str()):
            words = f"cannot write {error.filename}: {error.strerror}"
        case OSError(errno=errno.ENOSPC | errno.EFBIG | errno.EDQUOT | errno.EIO):
            words = f"cannot write stdout: {error.strerror}"
        case FileNotFoundError():
            words = "the working directory is no longer there"
        case MemoryError():
            words = "out of memory"
        case RongCloudError() | OSError():
            words = str(error).strip() or type(error).__name__
        case _:
            words = f"unexpected {type(error).__name__}: {error}{'' if debug else ' (--debug shows where)'}"
    return one_line(words)


@contextmanager
def _logged(warnings: Warnings, *, debug: bool) -> Iterator[Warnings]:
    logger = logging.getLogger("rongcloud_groups")
    if debug:
        logging.basicConfig(format="%(relativeCreated)7.0f ms  %(message)s")
        logger.setLevel(logging.DEBUG)
    logger.addHandler(warnings)
    try:
        yield warnings
    finally:
        logger.removeHandler(warnings)
        warnings.show_held_back()

"""How a command ends: signals and errors become one line and an exit code."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Annotated

from cyclopts import Parameter

from rongcloud_groups.cli.console import one_line, printable
from rongcloud_groups.errors import AuthenticationError, ConfigError, RongCloudError, ServiceNotEnabled

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


class ExitCode(IntEnum):
    """What the command's caller sees."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    SOME_FAILED = 3
    NOT_ACCEPTED = 4
    INTERRUPTED = 128 + signal.SIGINT
    PIPE_CLOSED = 141  # as a shell shows a program that SIGPIPE ended


class ShowHelp(Exception):  # noqa: N818  a way to end, not an error
    """A command was called without what it needs: print its help to stderr and exit with `ExitCode.USAGE`."""


def run(work: Callable[[], int], *, debug: bool) -> int:
    """Do a command's work.

    Args:
        work: returns the exit code. SIGTERM interrupts it as Ctrl-C does.
        debug: log what the client does, and show the traceback of an error.

    Returns:
        The exit code of the work, or of the error or signal that ended it.
    """
    _log(debug=debug)
    with _terminable() as received:
        try:
            code = work()
            sys.stdout.flush()
        except KeyboardInterrupt:
            return 128 + received[-1]
        except BrokenPipeError:
            return ExitCode.PIPE_CLOSED
        except Exception as error:  # noqa: BLE001  the command's last word on whatever it was
            if debug:
                traceback.print_exception(error)
            print_error(error_message(error, debug=debug))
            return exit_code_for(error)
        return code


def print_error(message: str) -> None:
    """Print an error to stderr."""
    lines = "\n".join(map(printable, message.split("\n")))
    sys.stderr.write(f"rongcloud-groups: error: {lines}\n")


def no_traceback_at_exit() -> None:
    """Give up what stdout did not take: the interpreter would try once more, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _log(*, debug: bool) -> None:
    logger = logging.getLogger("rongcloud_groups")
    if debug:
        logging.basicConfig(format="%(relativeCreated)7.0f ms  %(message)s")
        logger.setLevel(logging.DEBUG)
    else:
        logger.addHandler(logging.NullHandler())  # the command itself says what its user needs to know


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """Let SIGTERM do what Ctrl-C does; yield the signals that came, after SIGINT."""
    received = [int(signal.SIGINT)]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell does this to what it runs in the background; asyncio needs the handler to cancel by, so block instead.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def terminate(number: int, frame: FrameType | None) -> None:
        received.append(number)
        interrupt = signal.getsignal(signal.SIGINT)
        assert callable(interrupt)  # noqa: S101  Python's own handler, or that of asyncio
        interrupt(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code_for(error: Exception) -> ExitCode:
    """The exit code that an error ends a command with."""
    match error:
        case ConfigError():
            return ExitCode.USAGE
        case AuthenticationError() | ServiceNotEnabled():
            return ExitCode.NOT_ACCEPTED
        case _:
            return ExitCode.ERROR


def error_message(error: Exception, *, debug: bool) -> str:
    """What a command says of an error."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, RongCloudError | OSError):
        return one_line(str(error)) or type(error).__name__
    words = one_line(f"unexpected {type(error).__name__}: {error}")
    return words if debug else f"{words} (--debug shows where)"

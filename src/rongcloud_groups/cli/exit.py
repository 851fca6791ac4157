"""How a command ends: its result, an error or a signal becomes an exit code, and an error one message on stderr."""

import asyncio
import errno
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum
from functools import partial
from typing import Any, TypeVar

from rongcloud_groups._tables.output import printable
from rongcloud_groups.cli.console import Warnings, one_line, say
from rongcloud_groups.errors import AuthenticationError, ConfigError, RongCloudError, ServiceNotEnabled

SAME_SIGNAL = 0.1  # seconds in which two signals are one: `timeout` and shells signal a process and then its group

Result = TypeVar("Result")


class ExitCode(IntEnum):
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


class Context:
    """One run of a command. A signal or ``--max-time`` first stops its work, and soon ends the process in any case.

    Attributes:
        warnings: the warnings of the client and its limiter.
        exit_code: the exit code of the signal, or of ``--max-time``; 0 until one of them comes.
        grace: seconds that the work then has to stop.
        stop: stops the work, called from any thread; None while no event loop runs.
    """

    def __init__(self, warnings: Warnings) -> None:
        self.warnings = warnings
        self.exit_code = 0
        self.grace = 0.5
        self.stop: Callable[[], object] | None = None
        self._signaled_at = -math.inf
        self._ended = threading.Event()

    def run(self, work: Coroutine[Any, Any, Result], *, max_seconds: float = threading.TIMEOUT_MAX) -> Result:
        """Run work in an event loop; raise `KeyboardInterrupt` if a signal or ``max_seconds`` cancelled it."""
        timer = threading.Timer(max_seconds, self._end, [ExitCode.STOPPED])
        timer.start()
        try:
            with asyncio.Runner() as runner:
                loop = runner.get_loop()
                task = loop.create_task(work)
                self.stop = partial(loop.call_soon_threadsafe, task.cancel)
                try:
                    return loop.run_until_complete(task)
                finally:
                    self.stop = None
                    self._ended.set()
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            timer.cancel()

    def end_by_signal(self, number: int, *_: object) -> None:
        """Handle SIGINT or SIGTERM: the second one ends the process at once."""
        if time.monotonic() - self._signaled_at <= SAME_SIGNAL:
            return
        if self.exit_code:
            os._exit(self.exit_code)
        self._signaled_at = time.monotonic()
        self._end(128 + number)

    def _end(self, exit_code: int) -> None:
        if self.exit_code:
            return
        self.exit_code = exit_code
        threading.Thread(target=self._end_process, daemon=True).start()
        if (stop := self.stop) is not None:
            with suppress(RuntimeError):  # the loop has just closed
                stop()
        elif threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    def _end_process(self) -> None:
        """End the process even if its main thread waits forever: for a name server, a disk, a reader of stdout."""
        self._ended.wait(self.grace)
        time.sleep(0.3)  # for the last messages, and for Python's shutdown, which waits for threads that resolve names
        os._exit(self.exit_code)


@contextmanager
def handled(handlers: Mapping[signal.Signals, Callable[..., object] | signal.Handlers]) -> Iterator[None]:
    """Install handlers of signals while the context lasts."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_command(work: Callable[[Context], int], *, debug: bool, in_json: bool = False) -> int:
    """Do a command's work; return its exit code, or that of the error or signal that ended it."""
    context = Context(Warnings(partial(say, in_json=in_json)))
    logger = logging.getLogger("rongcloud_groups")
    logger.addHandler(context.warnings)
    if debug:
        logging.basicConfig(format="%(relativeCreated)7.0f ms  %(message)s")
        logger.setLevel(logging.DEBUG)
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    with handled(dict.fromkeys(numbers, context.end_by_signal)):
        try:
            code = work(context)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return context.exit_code or ExitCode.INTERRUPTED
        except BrokenPipeError:
            return ExitCode.PIPE_CLOSED
        except Exception as error:  # noqa: BLE001  every error becomes a message and an exit code
            if debug and not in_json:
                traceback.print_exception(error)
            code = exit_code_for(error)
            print_error(error_message(error, debug=debug), exit_code=code, in_json=in_json)
        finally:
            logger.removeHandler(context.warnings)
            context.warnings.show_held_back()
        return code


def exit_code_for(error: Exception) -> ExitCode:
    if isinstance(error, AuthenticationError | ServiceNotEnabled):
        return ExitCode.NOT_ACCEPTED
    no_emulator = isinstance(error, ModuleNotFoundError) and error.name == "trustme"
    return ExitCode.USAGE if no_emulator or isinstance(error, ConfigError) else ExitCode.ERROR


def error_message(error: Exception, *, debug: bool = False) -> str:
    """The message for an error, with the error's notes."""
    match error:
        case OSError(filename=str()):
            message = f"cannot write {error.filename}: {error.strerror}"
        case OSError(errno=errno.ENOSPC | errno.EFBIG | errno.EDQUOT | errno.EIO):
            message = f"cannot write stdout: {error.strerror}"
        case FileNotFoundError():
            message = "the working directory is no longer there"
        case MemoryError():
            message = "out of memory"
        case RongCloudError() | OSError() | ModuleNotFoundError(name="trustme"):  # of the extra emulator
            message = str(error).strip() or type(error).__name__
        case _:
            message = f"unexpected {type(error).__name__}: {error}{'' if debug else ' (--debug shows where)'}"
    if not isinstance(error, ConfigError):  # that may list alternatives, one a line
        message = one_line(message)
    return "; ".join([message, *getattr(error, "__notes__", ())])


def print_error(message: str, *, exit_code: int = ExitCode.ERROR, in_json: bool = False) -> None:
    lines = "\n".join(map(printable, message.split("\n")))
    fields = {"message_type": "error", "message": message, "exit_code": int(exit_code)}
    say(f"error: {lines}", fields, in_json=in_json)

"""Signals and ``--max-time`` end a command: gently at first, and within a second in any case."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
Handler = Callable[[int, FrameType | None], None] | signal.Handlers

GRACE: Final = 0.5
_TIME_TO_END: Final = 0.3
"""Seconds for the last messages and for Python's shutdown, which waits for the threads of a name server."""


class Interruption:
    """Ends a command before its work is done.

    Attributes:
        exit_code: the exit code that it asks for; 0 while nothing has come.
        grace: seconds from then until its work has ended, or is abandoned.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.grace = GRACE
        self._ended = threading.Event()
        self._stop: Callable[[], object] | None = None

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run work in an event loop; it is cancelled when the command is to end.

        Raises:
            KeyboardInterrupt: the work was cancelled.
        """

        async def main() -> Result:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  asyncio.run has made one
            try:
                with self.stopping(task.cancel):
                    return await work
            finally:
                self._ended.set()

        try:
            return asyncio.run(main())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Inside an event loop, call ``stop`` there when the command is to end, in place of the previous ``stop``."""
        loop = asyncio.get_running_loop()
        before, self._stop = self._stop, lambda: loop.call_soon_threadsafe(stop)
        try:
            yield
        finally:
            self._stop = before

    def end(self, exit_code: int) -> None:
        """End the command, with this exit code; called from any thread, or by a signal."""
        if self.exit_code:
            return
        self.exit_code = exit_code
        threading.Thread(target=self._end_process, daemon=True).start()
        if self._stop is not None:
            with suppress(RuntimeError):  # the loop has just closed
                self._stop()
        elif threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    @contextmanager
    def after(self, seconds: float | None, exit_code: int) -> Iterator[None]:
        """End the command when so many seconds have passed; None is never."""
        timer = threading.Timer(seconds or 0, self.end, [exit_code])
        timer.daemon = True
        if seconds is not None:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the command, the second one at once; one that is ignored stays so."""

        def received(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  a signal handler's signature
            if self.exit_code:
                os._exit(self.exit_code)
            self.end(128 + number)

        numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
        with handled(dict.fromkeys(numbers, received)):
            yield

    def _end_process(self) -> None:
        """The main thread may wait without end: for a name server, a disk, a reader of stdout."""
        self._ended.wait(self.grace)
        time.sleep(_TIME_TO_END)
        os._exit(self.exit_code)


@contextmanager
def handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals in another way for as long as the context lasts."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

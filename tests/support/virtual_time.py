"""An event loop whose clock stands still while anything can run, and then jumps to the next timer.

What waits for hours runs in no time, and the times it sees are exact. It is for code that waits for timers and other
tasks alone: of sockets and threads the clock knows nothing.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

START = 1000.0
LATENESS = 1e-6


class _JumpingSelector(selectors.BaseSelector):
    """Waits for nothing: lets the clock jump in place of the wait."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        self._jump = jump
        self._selector = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if events := self._selector.select(0):
            return events
        if timeout is None:
            raise RuntimeError("every task waits for something that cannot happen any more")
        if timeout > 0:
            self._jump(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def close(self) -> None:
        self._selector.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own.

    Args:
        lateness: seconds by which its timers fire late; above 0, since no real timer fires at its very time.
    """

    def __init__(self, lateness: float = LATENESS) -> None:
        self._now = START
        self._lateness = lateness
        super().__init__(_JumpingSelector(lambda seconds: self.stall(seconds + self._lateness)))

    def time(self) -> float:
        return self._now

    def stall(self, seconds: float) -> None:
        """Let time pass in which nothing runs, as if one step had taken so long."""
        self._now += seconds


def run(main: Coroutine[Any, Any, T], *, lateness: float = LATENESS) -> T:
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(lateness)) as runner:
        return runner.run(main)


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a test of a coroutine function, run on a `VirtualTimeLoop`."""

    @wraps(test)
    def run_test(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return run_test


def now() -> float:
    """Seconds on the running loop's clock since it began."""
    return asyncio.get_running_loop().time() - START


def stall(seconds: float) -> None:
    """Stall the running loop; see `VirtualTimeLoop.stall`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.stall(seconds)


async def at(seconds: float) -> None:
    """Wait until the running loop's clock has come so far since it began."""
    await asyncio.sleep(seconds - now())


async def settle() -> None:
    """Wait until nothing can run before the clock moves on."""
    await asyncio.sleep(1e-9)

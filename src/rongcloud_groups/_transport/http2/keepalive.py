"""Detects a dead peer by PING while requests are open."""

import asyncio
from collections.abc import Callable


class KeepAlive:
    """Sends a PING after some silence, and gives the connection up when that brings nothing either.

    Args:
        ping_after: seconds of silence until `ping` is called.
        ping_timeout: seconds from there until `dead` is called.
        ping: sends a PING.
        dead: ends the connection.
    """

    def __init__(
        self, ping_after: float, ping_timeout: float, ping: Callable[[], None], dead: Callable[[], None]
    ) -> None:
        self._ping_after = ping_after
        self._ping_timeout = ping_timeout
        self._ping = ping
        self._dead = dead
        self._loop = asyncio.get_running_loop()
        self._heard_at = 0.0
        self._pinged = False
        self._watching = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start watching: a request is open."""
        self._watching = True
        self.heard()
        # The timer of an earlier watch may still run; when it fires, it measures the silence anyway.
        if self._timer is None:
            self._timer = self._loop.call_later(self._ping_after, self._look)

    def heard(self) -> None:
        """Something came from the server. Called for each read, so it starts no timer."""
        self._heard_at = self._loop.time()
        self._pinged = False

    def stop(self) -> None:
        """Stop watching: no request is open."""
        self._watching = False

    def close(self) -> None:
        """Stop for good."""
        self._watching = False
        self._ping = self._dead = _nothing  # the owner's methods: with them the two would be garbage in a cycle
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if not self._watching:
            return
        now = self._loop.time()
        due = self._heard_at + self._ping_after
        if now < due:
            self._timer = self._loop.call_at(due, self._look)
        elif self._pinged:
            self._dead()
        else:
            self._pinged = True
            self._timer = self._loop.call_later(self._ping_timeout, self._look)
            self._ping()


def _nothing() -> None: ...

"""CreditGuard: bounds the requests in a second at the server by their responses, whatever the jitter of the path."""

from asyncio import Event, Future, get_running_loop

from rongcloud_groups.limiters.schedule import Window

MARGIN = 0.003  # seconds by which a credit comes back later than it must, for clocks and timers
UNKNOWN_HELD_FOR = 30.0
"""Seconds from the end of a connection until a request that was lost on it counts as never to arrive."""


class CreditGuard:
    """As many credits as the service allows requests in a window (a second); each comes back a window later.

    A request takes a credit before it leaves. The credit comes back a window after the request is known to have
    arrived: when its response came; or, where it was abandoned, when the server has answered a PING that was sent
    behind it, or has closed the connection. So of two requests with the same credit the later one leaves, and
    arrives, more than a window after the earlier one arrived: no window at the server holds more requests than there
    are credits.

    Where the connection ended on this side, or cannot be asked (HTTP/1.1, a transport of the caller's), a request
    without a response may still be in a buffer. Its credit comes back `UNKNOWN_HELD_FOR` seconds later: the proof holds
    if a server that stands still for longer than that then drops the bytes it had not read.

    At a round trip of R seconds, credits/(1 + R) requests/s are left at most.
    """

    def __init__(self, rate: float) -> None:
        window = Window.of(rate, max_requests=float("inf"))
        self._credits = window.requests
        self._held_for = window.seconds + MARGIN
        self._returned = Event()

    async def acquire(self) -> None:
        """Wait for a credit and take it."""
        while not self._credits:
            self._returned.clear()
            await self._returned.wait()
        self._credits -= 1

    def restore(self) -> None:
        """Give back a credit at once: its request never left."""
        self._credits += 1
        self._returned.set()

    def arrived(self) -> None:
        """The server has a request: give back its credit when its window is over."""
        get_running_loop().call_later(self._held_for, self.restore)

    def lost(self, delivered: Future[bool]) -> None:
        """A request ended without a response; ``delivered`` is `Connection.delivered`."""
        delivered.add_done_callback(self._on_delivered)

    def _on_delivered(self, delivered: Future[bool]) -> None:
        if not delivered.cancelled() and delivered.result():
            self.arrived()
        else:
            get_running_loop().call_later(UNKNOWN_HELD_FOR, self.restore)

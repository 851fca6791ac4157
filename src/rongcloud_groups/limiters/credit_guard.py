"""The credit guard: proof that no second at the server holds more than the limit, whatever the path does."""

from asyncio import Event, get_running_loop

HELD_FOR = 1.003
"""Seconds from an answer until its credit comes back: a second, and a margin for clocks and timers."""


class CreditGuard:
    """As many credits as requests a second; each comes back a second after its request was answered.

    A request takes a credit before it leaves, and it had arrived before its answer left. So of two requests that
    use the same credit, the later one leaves, and arrives, more than a second after the earlier one arrived; and no
    second at the server holds more requests than there are credits. Of a request that was given up without an
    answer nothing better is known than that it left: its credit is held for as long from then.

    At a round trip of R seconds, credits/(1 + R) requests/s are left at the most.

    Args:
        credits: requests that the server may see in one second.
    """

    def __init__(self, credits: int) -> None:  # noqa: A002  the term for it
        self._credits = credits
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

    def landed(self) -> None:
        """A request was answered, or given up: its credit comes back in `HELD_FOR` seconds."""
        get_running_loop().call_later(HELD_FOR, self.restore)

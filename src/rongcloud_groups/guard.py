"""The credit guard: proof that no second at the server holds more than the limit, whatever the path does."""

from asyncio import Event, get_running_loop

MARGIN = 0.003
"""Seconds added to each credit's way back, for clocks and timers."""
SAMPLES = 20
"""Round trips to see before the shortest one is believed."""


class CreditGuard:
    """As many credits as requests a second; each comes back one second after its request surely arrived.

    A request takes a credit before it leaves. The credit returns at the time of the answer + 1 s - the shortest
    round trip seen: by then at least a second has passed at the server since it arrived. So of any two requests
    that share a credit, the later arrives a second or more after the earlier, and no window holds more than there
    are credits.

    Args:
        credits: requests that the server may see in one second.
    """

    def __init__(self, credits: int) -> None:  # noqa: A002  the term for it
        self._credits = credits
        self._returned = Event()
        self._shortest = float("inf")
        self._samples = 0

    async def acquire(self) -> None:
        """Wait for a credit and take it."""
        while not self._credits:
            self._returned.clear()
            await self._returned.wait()
        self._credits -= 1

    def restore(self) -> None:
        """Give back a credit whose request never left."""
        self._credits += 1
        self._returned.set()

    def answered(self, round_trip: float) -> None:
        """A request was answered after so many seconds: return its credit when a second is over."""
        self._samples += 1
        self._shortest = min(self._shortest, round_trip)
        credited = self._shortest if self._samples > SAMPLES else 0.0
        get_running_loop().call_later(1.0 - credited + MARGIN, self.restore)

    def lost(self) -> None:
        """A request ended without an answer: return its credit after a whole second."""
        get_running_loop().call_later(1.0 + MARGIN, self.restore)

"""What the client needs of a limiter."""

from typing import Protocol


class Limiter(Protocol):
    """What hands out the right to send one request.

    The client awaits `acquire` for one request at a time and sends that request in the step in which it returns.
    """

    @property
    def rate(self) -> float:
        """Requests/s that it lets through now."""
        ...

    async def acquire(self) -> None:
        """Wait until one request may leave."""
        ...

    async def throttle(self, retry_after: float | None, age: float) -> float:
        """The service refused a request as over the limit: hold back everybody who shares this budget.

        Args:
            retry_after: seconds that the service asks to wait, where it says.
            age: seconds since the refused request left. One that left before the last cut is old news.

        Returns:
            Seconds until requests leave again.
        """
        ...

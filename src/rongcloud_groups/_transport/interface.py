"""What the dispatcher needs of a connection, whichever protocol it speaks."""

from asyncio import Future
from typing import Protocol

from rongcloud_groups._http import Request, Response


class Connection(Protocol):
    """A connection that is up. It never reconnects; `Links` opens another one."""

    @property
    def http_version(self) -> str:
        """``HTTP/2`` or ``HTTP/1.1``."""
        ...

    @property
    def sent(self) -> int:
        """How many requests it was given."""
        ...

    @property
    def in_flight(self) -> int:
        """How many of them are still open."""
        ...

    @property
    def closed_reason(self) -> str:
        """Why it takes no more requests; empty while it does."""
        ...

    @property
    def open_slots(self) -> int:
        """How many requests may be sent right now; 0 once it is retired or closed."""
        ...

    @property
    def closed(self) -> bool:
        """True when nothing can come from it any more."""
        ...

    def send(self, request: Request, timeout: float) -> Future[Response]:
        """Send at once, in this very step; the future ends in the reply or in a `TransportError`.

        Call it only while `open_slots` is positive. Cancelling the future abandons the request.

        Args:
            request: what to send.
            timeout: seconds until the attempt ends in a `TransportError`.
        """
        ...

    def retire(self) -> None:
        """Take no more requests; close when the last open one has ended."""
        ...

    async def aclose(self) -> None:
        """Close now; open requests end in a `TransportError`. Returns when the socket is closed."""
        ...

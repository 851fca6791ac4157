"""Finds out when everything that was sent on a connection has reached the server."""

from asyncio import Future, get_running_loop
from collections.abc import Callable


class DeliveryChecks:
    """Asks with a PING behind what was sent; one at a time is unanswered, however many ask.

    Args:
        ping: sends a PING, whose ACK is `acknowledged`.
    """

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._asked: list[Future[bool]] = []
        self._waiting: list[Future[bool]] = []
        self._ended: bool | None = None

    def start(self) -> Future[bool]:
        """See `Connection.delivered`."""
        future: Future[bool] = get_running_loop().create_future()
        if self._ended is None:
            self._waiting.append(future)
            self._ask()
        else:
            future.set_result(self._ended)
        return future

    def acknowledged(self) -> None:
        """The PING was answered."""
        self._settle(self._asked, outcome=True)
        self._ask()

    def end(self, *, by_server: bool) -> None:
        """The connection is closed."""
        self._ended = by_server
        self._ping = _nothing  # a method of the owner: with it the two would be garbage in a cycle
        self._settle(self._asked, outcome=by_server)
        self._settle(self._waiting, outcome=by_server)

    def _ask(self) -> None:
        if self._waiting and not self._asked:
            self._asked, self._waiting = self._waiting, []
            self._ping()

    def _settle(self, futures: list[Future[bool]], *, outcome: bool) -> None:
        for future in futures:
            if not future.done():
                future.set_result(outcome)
        futures.clear()


def _nothing() -> None: ...

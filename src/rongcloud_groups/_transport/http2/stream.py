"""One request and its response on an HTTP/2 connection."""

from collections.abc import Callable
from typing import Final

from rongcloud_groups._http import Request
from rongcloud_groups._transport.response import MAX_BODY_SIZE, PendingResponse

STREAM_WINDOW: Final = 256 * 1024
"""Bytes of a response that every stream may receive at once."""


class Stream(PendingResponse):
    """The response to a request, and the flow control of both.

    Attributes:
        unsent: the rest of the request's body.
        send_window: how many bytes of it the server takes.
        receive_window: how many bytes of the response the server may send.
        shared: how many of these are beyond `STREAM_WINDOW`.
    """

    def __init__(
        self,
        stream_id: int,
        request: Request,
        timeout: float,
        send_window: int,
        on_cancelled: Callable[["Stream"], None],
    ) -> None:
        super().__init__(timeout, on_cancelled)
        self.stream_id = stream_id
        self.unsent = memoryview(request.body)
        self.send_window = send_window
        self.receive_window = STREAM_WINDOW
        self.shared = 0

    @property
    def excess(self) -> int:
        """Bytes that the response may need beyond `STREAM_WINDOW`, as far as it is known."""
        if self.length is None:
            return MAX_BODY_SIZE if self.size > STREAM_WINDOW // 2 else 0
        return max(0, self.length - STREAM_WINDOW)

"""One request and its response, which is put together from header fields and DATA, and checked."""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Final

from rongcloud_groups._http import Request, Response
from rongcloud_groups._transport.http2.frames import StreamError

MAX_BODY_SIZE: Final = 16 * 1024 * 1024
"""Bytes of one response body on the wire: a full batch is about 1 MB, a full page of the listing up to 11 MB."""
STREAM_WINDOW: Final = 256 * 1024
"""Bytes of a response that every stream may receive at once."""
_CONNECTION_FIELDS: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
_SINGLE_FIELDS: Final = frozenset({":status", "content-length"})
_STATUS: Final = re.compile(r"[0-9]{3}")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_LINE_END: Final = re.compile(r"[\0\r\n]")


class Stream(asyncio.Future[Response]):
    """The future of a response, and all that is known of it so far.

    Attributes:
        deadline: when it is due, by the loop's clock.
        unsent: the rest of the request's body.
        send_window: how many bytes of it the server takes.
        receive_window: how many bytes of the response the server may send.
        shared: how many of these are beyond `STREAM_WINDOW`.
        ended: whether the server has sent all of it.
    """

    def __init__(
        self,
        stream_id: int,
        request: Request,
        timeout: float,
        send_window: int,
        on_cancelled: Callable[["Stream"], None],
    ) -> None:
        super().__init__()
        self.stream_id = stream_id
        self.timeout = timeout
        self.deadline = self.get_loop().time() + timeout
        self.unsent = memoryview(request.body)
        self.send_window = send_window
        self.receive_window = STREAM_WINDOW
        self.shared = 0
        self.ended = False
        self._on_cancelled = on_cancelled
        self._status = self._size = 0
        self._length: int | None = None
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []

    def cancel(self, msg: object = None) -> bool:
        """Abandon the request."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._on_cancelled(self)
        return cancelled

    @property
    def excess(self) -> int:
        """Bytes that the response may need beyond `STREAM_WINDOW`, as far as it is known."""
        if self._length is None:
            return MAX_BODY_SIZE if self._size > STREAM_WINDOW // 2 else 0
        return max(0, self._length - STREAM_WINDOW)

    def add_headers(self, fields: Iterable[tuple[bytes, bytes]], *, final: bool) -> None:
        """Takes a header block: of an informational response, of the response, or trailers.

        Raises:
            StreamError: the block may not be there, or has a field that no response may have.
        """
        self.ended = final
        if self._status:
            if not final:
                raise StreamError("a second response to one request")
            return
        headers = _parse(fields)
        status, length = headers.pop(":status", ""), headers.get("content-length")
        if not _STATUS.fullmatch(status):
            raise StreamError(f"status {status!r} is no number of three digits")
        if status[0] != "1":
            self._status, self._headers = int(status), headers
            self._length = None if length is None else _body_size(length)
        elif final:
            raise StreamError("an informational response, and no other")

    def add_body(self, data: bytes, *, final: bool) -> None:
        """Takes the next piece of the body.

        Raises:
            StreamError: it may not be there, or the body is longer than announced, or than `MAX_BODY_SIZE`.
        """
        self.ended = final
        if not self._status:
            raise StreamError("a body before its header")
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_BODY_SIZE:
            raise StreamError(f"a body of more than {MAX_BODY_SIZE >> 20} MiB")
        if self._length is not None and self._size > self._length:
            self._check_length()

    def response(self) -> Response:
        """The response, once all of it has come.

        Raises:
            StreamError: its length is not the one that was announced.
        """
        self._check_length()
        return Response(self._status, self._headers, b"".join(self._parts))

    def _check_length(self) -> None:
        if self._length not in (None, self._size):
            raise StreamError(f"a body of {self._size} bytes where content-length says {self._length}")


def _body_size(length: str) -> int:
    if not _LENGTH.fullmatch(length):
        raise StreamError(f"content-length {length[:40]!r} is not one number")
    if int(length) > MAX_BODY_SIZE:
        raise StreamError(f"a body of more than {MAX_BODY_SIZE >> 20} MiB")
    return int(length)


def _parse(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The fields; of a repeated one the last value, and every value where only one may be.

    Fields that HTTP/2 forbids and that change nothing for the reader (``connection: keep-alive``, a name in upper case)
    are tolerated: gateways that translate from HTTP/1.1 send them.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
        if _LINE_END.search(value) or (name[:1] == ":" and name != ":status"):
            raise StreamError(f"a field {name[:40]!r} that no response has")
        if name in _SINGLE_FIELDS and headers.get(name, value) != value:
            value = f"{headers[name]} and {value}"
        if name not in _CONNECTION_FIELDS:
            headers[name] = value
    return headers

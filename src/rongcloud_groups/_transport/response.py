"""The response to one request, put together from header fields and a body, and checked."""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from rongcloud_groups._http import Response
from rongcloud_groups.errors import TransportError

MAX_HEADER_LIST_SIZE: Final = 64 * 1024
"""Bytes of one response's header list, counted as HTTP/2 counts them; RFC 9113, section 6.5.2."""
MAX_BODY_SIZE: Final = 16 * 1024 * 1024
"""Bytes of one response body on the wire: a full batch is about 1 MB, a full page of the listing up to 11 MB."""
OnCancelled = Callable[[Any], None]
"""Called with a `PendingResponse` whose caller abandons the request."""
_CONNECTION_FIELDS: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
_SINGLE_FIELDS: Final = frozenset({":status", "content-length"})
_STATUS: Final = re.compile(r"[0-9]{3}")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_LINE_END: Final = re.compile(r"[\0\r\n]")


class PendingResponse(asyncio.Future[Response]):
    """The future of a response, and all that is known of it so far; a `TransportError` refuses any part of it.

    Attributes:
        deadline: when it is due, by the loop's clock.
        status: 0 until its header has come.
        length: bytes of its body, as announced; None where they were not.
        size: bytes of its body that have come.
        ended: whether the server has sent all of it.
    """

    def __init__(self, timeout: float, on_cancelled: OnCancelled) -> None:
        super().__init__()
        self.timeout = timeout
        self.deadline = self.get_loop().time() + timeout
        self.status = self.size = 0
        self.length: int | None = None
        self.ended = False
        self._on_cancelled = on_cancelled
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []

    def cancel(self, msg: object = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self._on_cancelled(self)
        return cancelled

    def add_headers(self, fields: Iterable[tuple[bytes, bytes]], *, final: bool = False) -> None:
        """Take the header of an informational response, or of the response, or the trailers."""
        self.ended = final
        if self.status:
            if not final:
                raise TransportError("a second response to one request")
            return
        headers = _parse(fields)
        status, length = headers.pop(":status", ""), headers.get("content-length")
        if not _STATUS.fullmatch(status):
            raise TransportError(f"status {status!r} is no number of three digits")
        if status[0] != "1":
            self.status, self._headers = int(status), headers
            self.length = None if length is None else _parse_length(length)
        elif final:
            raise TransportError("an informational response, and no other")

    def add_body(self, data: bytes, *, final: bool = False) -> None:
        self.ended = final
        if not self.status:
            raise TransportError("a body before its header")
        self._parts.append(data)
        self.size += len(data)
        if self.size > MAX_BODY_SIZE:
            raise TransportError(f"a body of more than {MAX_BODY_SIZE >> 20} MiB")
        if self.length is not None and self.size > self.length:
            self._check_length()

    def whole(self) -> Response:
        """The response, once it has ended."""
        self._check_length()
        return Response(self.status, self._headers, b"".join(self._parts))

    def _check_length(self) -> None:
        if self.length not in (None, self.size):
            raise TransportError(f"a body of {self.size} bytes where content-length says {self.length}")


def _parse_length(length: str) -> int:
    if not _LENGTH.fullmatch(length):
        raise TransportError(f"content-length {length[:40]!r} is not one number")
    if int(length) > MAX_BODY_SIZE:
        raise TransportError(f"a body of more than {MAX_BODY_SIZE >> 20} MiB")
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
            raise TransportError(f"a field {name[:40]!r} that no response has")
        if name in _SINGLE_FIELDS and headers.get(name, value) != value:
            value = f"{headers[name]} and {value}"
        if name not in _CONNECTION_FIELDS:
            headers[name] = value
    return headers

"""Builds responses out of the header fields and DATA that `h2` reads, and checks each for itself."""

from collections.abc import Iterable
from typing import Any, Final

from hpack import Decoder

from rongcloud_groups._http import Response

MAX_BODY_SIZE: Final = 16 * 1024 * 1024
"""Bytes of one response body on the wire: a full batch is about 1 MB, a full page of the listing up to 11 MB."""
MAX_HEADER_LIST_SIZE: Final = 64 * 1024
"""Bytes of one response's header list, counted as HTTP/2 counts them."""
_CONNECTION_FIELDS: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})


class MalformedResponse(Exception):  # noqa: N818  it is no error of this library: the connection makes one of it
    """A stream carried something that is not a response; the message says why."""


class HeaderDecoder(Decoder):
    """hpack's decoder, which hides each content-length from `h2`.

    `h2` ends the whole connection over a wrong length and looks for its name in lower case; `ResponseBuilder` ends
    only that request.
    """

    def decode(self, data: bytes, raw: bool = False) -> Iterable[Any]:  # noqa: FBT001, FBT002  hpack's signature
        """The fields of a header block."""
        fields = super().decode(data, raw)
        return [(b"Content-Length", field[1]) if field[0] == b"content-length" else field for field in fields]


class ResponseBuilder:
    """One response as it arrives, piece by piece.

    Attributes:
        content_length: the length that the header fields announce, or None.
        size: how many bytes of the body have come.
    """

    __slots__ = ("_headers", "_parts", "_status", "content_length", "size")

    def __init__(self) -> None:
        self.content_length: int | None = None
        self.size = 0
        self._status = 0
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []

    def add_headers(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """Takes the final header block.

        Fields that HTTP/2 forbids and that change nothing for the reader (``connection: keep-alive``, a name in
        upper case) are tolerated: gateways that translate from HTTP/1.1 send them.

        Raises:
            MalformedResponse: on a status that is not one number of three digits (RFC 9110, section 15), or a
                content-length that is not one number.
        """
        statuses: set[str] = set()
        lengths: set[str] = set()
        for raw_name, raw_value in fields:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
            if name == ":status":
                statuses.add(value)
            elif name == "content-length":
                lengths.add(value)
            if not name.startswith(":") and name not in _CONNECTION_FIELDS:
                self._headers[name] = value
        status = " and ".join(sorted(statuses))
        if len(status) != 3 or not _is_number(status):  # noqa: PLR2004  three digits
            raise MalformedResponse(f"status {status!r} is no number of three digits")
        self._status = int(status)
        if lengths:
            self._announce(" and ".join(sorted(lengths)))

    def add_body(self, data: bytes) -> None:
        """Takes the next piece of the body.

        Raises:
            MalformedResponse: when the body is longer than announced, or than `MAX_BODY_SIZE`.
        """
        self._parts.append(data)
        self.size += len(data)
        if self.size > MAX_BODY_SIZE:
            raise MalformedResponse(f"a body of more than {MAX_BODY_SIZE >> 20} MiB")
        if self.content_length is not None and self.size > self.content_length:
            self.check_complete()

    def check_complete(self) -> None:
        """Checks the length of the whole body.

        Raises:
            MalformedResponse: when the content-length says otherwise.
        """
        if self.content_length not in (None, self.size):
            raise MalformedResponse(f"a body of {self.size} bytes where content-length says {self.content_length}")

    def build(self) -> Response:
        """The response, once all of it has come."""
        return Response(self._status, self._headers, b"".join(self._parts))

    def _announce(self, length: str) -> None:
        if not _is_number(length) or len(length) > 18:  # noqa: PLR2004  digits of the largest in 64 bits
            raise MalformedResponse(f"content-length {length[:40]!r} is not one number")
        self.content_length = int(length)
        if self.content_length > MAX_BODY_SIZE:
            raise MalformedResponse(f"a body of more than {MAX_BODY_SIZE >> 20} MiB")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()

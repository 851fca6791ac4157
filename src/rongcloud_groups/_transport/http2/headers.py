"""Requests into header fields, replies out of what `h2` reads: no stream, no connection, no clock."""

from collections.abc import Iterable
from typing import Any, Final

from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

from rongcloud_groups._http import Request, Response

MAX_BODY_SIZE: Final = 16 * 1024 * 1024
"""Bytes of one response body, as it comes over the wire."""
MAX_HEADER_LIST_SIZE: Final = 64 * 1024
"""Bytes of one response's header list, counted as HTTP/2 counts them."""
_LONG_VALUE: Final = 127  # bytes, whose length takes more than one byte; RFC 7541, section 5.1
_NO_VALUE: Final = b"\0"  # one byte after its length; an empty value stands in the static table for many names
_INDEXED: Final = 0x80  # the first bit of a field that is its index in the table; RFC 7541, section 6.1


class MalformedResponse(Exception):  # noqa: N818  it is no error of this library: the connection makes one of it
    """What came on one stream is no reply; the message says why."""


class HeaderBuilder:
    """The header fields of one connection's requests, in the form that compresses best.

    The first value of each name goes into the compression table. A value that differs from it stays out, since one
    that changes with each request (a nonce, a signature) would push the constant ones out of the table.
    """

    def __init__(self, authority: str) -> None:
        self._authority = authority
        self._first: dict[str, tuple[str, HeaderTuple]] = {}

    def of(self, request: Request) -> list[HeaderTuple]:
        """All fields of `request`, pseudo-header fields first."""
        fields = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", self._authority),
            (":path", request.path),
            *request.headers,
            ("content-length", str(len(request.body))),
        ]
        return [self._field(name, value) for name, value in fields]

    def _field(self, name: str, value: str) -> HeaderTuple:
        first = self._first.get(name)
        if first is None:
            field = HeaderTuple(name.encode(), value.encode())
            self._first[name] = (value, field)
            return field
        return first[1] if first[0] == value else NeverIndexedHeaderTuple(first[1][0], value.encode())


class CachingEncoder(Encoder):
    """hpack's encoder of one connection, which encodes what each request repeats only once.

    It leaves out the Huffman coding, which saves 30 bytes a request and costs more time than all else about it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._indexed: dict[HeaderTuple, bytes] = {}
        self._before_value: dict[bytes, bytes] = {}

    def encode(self, headers: Iterable[Any], huffman: bool = False) -> bytes:  # noqa: ARG002, FBT001, FBT002  hpack's signature
        """The header block of some `HeaderTuple`s."""
        if self.table_size_changes:
            self.header_table.resized = True  # hpack takes it back where the same size is set twice
            self._forget()
            return super().encode(headers, huffman=False)
        return b"".join([self._encoded(field) for field in headers])

    def _encoded(self, field: HeaderTuple) -> bytes:
        name, value = field
        if not field.indexable and len(value) < _LONG_VALUE:
            before = self._before_value.get(name)
            if before is None:
                example = super().encode([NeverIndexedHeaderTuple(name, _NO_VALUE)], huffman=False)
                if example[0] & _INDEXED:  # just this value is in the table
                    return super().encode([field], huffman=False)
                before = self._before_value[name] = example[:-2]
            return before + bytes((len(value),)) + value
        encoded = self._indexed.get(field)
        if encoded is None:
            encoded = super().encode([field], huffman=False)
            if encoded[0] & _INDEXED:
                self._indexed[field] = encoded
            elif field.indexable:  # it is in the table now, and all others have another index
                self._forget()
        return encoded

    def _forget(self) -> None:
        self._indexed.clear()
        self._before_value.clear()


class ResponseBuilder:
    """One reply as it arrives, piece by piece."""

    __slots__ = ("_content_length", "_headers", "_parts", "_size", "_status")

    def __init__(self) -> None:
        self._status = 0
        self._headers: dict[str, str] = {}
        self._content_length: int | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def take_headers(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """Takes the final header block; `h2` has seen to it that it has a status and a sound content-length.

        Raises:
            MalformedResponse: when the status is no number of three digits (RFC 9110, section 15).
        """
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
        status = headers.pop(":status")
        if len(status) != 3 or not (status.isascii() and status.isdigit()):  # noqa: PLR2004  three digits
            raise MalformedResponse(f"status {status!r} is no number of three digits")
        self._status = int(status)
        self._headers = headers
        if (length := headers.get("content-length")) is not None:
            self._content_length = int(length)

    def take_body(self, data: bytes) -> None:
        """Takes the next piece of the body.

        Raises:
            MalformedResponse: when the body grows over `MAX_BODY_SIZE`.
        """
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_BODY_SIZE:
            raise MalformedResponse(f"a body of more than {MAX_BODY_SIZE >> 20} MiB")

    def check_length(self, to_come: int = 0) -> None:
        """Checks the length of a body to which only `to_come` bytes are still to be added.

        Raises:
            MalformedResponse: when the content-length says otherwise.
        """
        size = self._size + to_come
        if self._content_length not in (None, size):
            raise MalformedResponse(f"a body of {size} bytes where content-length says {self._content_length}")

    def reply(self) -> Response:
        """The reply, once all of it has come."""
        return Response(self._status, self._headers, b"".join(self._parts))

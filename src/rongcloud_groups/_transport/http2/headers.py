"""Encodes the header fields of requests: HPACK (RFC 7541) as far as a client of small POSTs needs it."""

from collections.abc import Iterable
from typing import Final

from hpack import HeaderTuple, NeverIndexedHeaderTuple
from hpack.table import HeaderTable

from rongcloud_groups._http import Request

_SECRET: Final = frozenset({"signature", "rc-signature", "nonce", "rc-nonce", "authorization", "proxy-authorization"})
"""Fields that no intermediary may keep in a table, not even from the first request (RFC 7541, section 7.1.3)."""
_MAX_TABLE_SIZE: Final = 4096
_ENTRY_OVERHEAD: Final = 32  # bytes; RFC 7541, section 4.1
# The first bits of each representation, and the bits left for its integer; RFC 7541, section 6.
_INDEXED: Final = (0x80, 7)
_ADDED: Final = (0x40, 6)
_TABLE_SIZE: Final = (0x20, 5)
_NEVER_INDEXED: Final = (0x10, 4)
_NOT_ADDED: Final = (0x00, 4)
_PLAIN_STRING: Final = (0x00, 7)


class HeaderBuilder:
    """The header fields of one connection's requests, in the form that compresses best.

    The first value of each name goes into the compression table. A value that differs from it stays out, since one
    that changes with each request would push the constant ones out of the table.
    """

    def __init__(self, authority: str) -> None:
        self._authority = authority
        self._first: dict[str, tuple[str, HeaderTuple]] = {}

    def build(self, request: Request) -> list[HeaderTuple]:
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
        if name in _SECRET:
            return NeverIndexedHeaderTuple(name.encode(), value.encode())
        first = self._first.get(name)
        if first is None:
            field = HeaderTuple(name.encode(), value.encode())
            self._first[name] = (value, field)
            return field
        return first[1] if first[0] == value else NeverIndexedHeaderTuple(first[1][0], value.encode())


class HeaderEncoder:
    """Takes the place of hpack's encoder, which writes every value to its log.

    It encodes a repeated field only once, adds a field to the table only if it fits beside the others, and leaves out
    the Huffman coding, which saves 30 bytes a request and costs more time than everything else about it.
    """

    def __init__(self) -> None:
        self._table = HeaderTable()
        self._room = _MAX_TABLE_SIZE
        self._size_change = b""
        self._encoded: dict[HeaderTuple, bytes] = {}
        self._prefixes: dict[bytes, bytes] = {}

    @property
    def header_table_size(self) -> int:
        """Bytes that the table may take; h2 sets it from the server's SETTINGS."""
        return self._table.maxsize

    @header_table_size.setter
    def header_table_size(self, size: int) -> None:
        size = min(size, _MAX_TABLE_SIZE)
        if size == self._table.maxsize:
            return
        # Emptied first: whatever sizes the server set since the last request, the smallest is kept to.
        self._size_change = _integer(0, _TABLE_SIZE) + _integer(size, _TABLE_SIZE)
        self._table.maxsize = 0
        self._table.maxsize = self._room = size
        self._forget()

    def encode(self, fields: Iterable[HeaderTuple]) -> bytes:
        """The header block of `fields`."""
        size_change, self._size_change = self._size_change, b""
        return size_change + b"".join([self._encode(field) for field in fields])

    def _encode(self, field: HeaderTuple) -> bytes:
        if not field.indexable:
            name, value = field
            return self._prefix(name) + _string(value)
        encoded = self._encoded.get(field)
        return self._add(field) if encoded is None else encoded

    def _prefix(self, name: bytes) -> bytes:
        prefix = self._prefixes.get(name)
        if prefix is None:
            prefix = self._prefixes[name] = self._named(name, _NEVER_INDEXED)
        return prefix

    def _add(self, field: HeaderTuple) -> bytes:
        """Encodes a field for the first time since the table changed, and adds it if there is room."""
        name, value = field
        match = self._table.search(name, value)
        if match is not None and match[2] is not None:
            encoded = self._encoded[field] = _integer(match[0], _INDEXED)
            return encoded
        size = len(name) + len(value) + _ENTRY_OVERHEAD
        if size > self._room:
            return self._named(name, _NOT_ADDED) + _string(value)
        encoded = self._named(name, _ADDED) + _string(value)
        self._room -= size
        self._table.add(name, value)
        self._forget()  # all other entries have another index now
        return encoded

    def _named(self, name: bytes, kind: tuple[int, int]) -> bytes:
        match = self._table.search(name, b"")
        return _integer(0, kind) + _string(name) if match is None else _integer(match[0], kind)

    def _forget(self) -> None:
        self._encoded.clear()
        self._prefixes.clear()


def _integer(number: int, kind: tuple[int, int]) -> bytes:
    """An integer behind the first bits of its representation; RFC 7541, section 5.1."""
    first, bits = kind
    limit = (1 << bits) - 1
    if number < limit:
        return bytes((first | number,))
    encoded = [first | limit]
    number -= limit
    while number >= 0x80:  # noqa: PLR2004  seven bits an octet
        encoded.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes((*encoded, number))


def _string(text: bytes) -> bytes:
    return _integer(len(text), _PLAIN_STRING) + text

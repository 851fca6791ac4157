"""Header blocks: HPACK (RFC 7541) as far as a client of small POSTs needs it.

Requests use no dynamic table, so that their encoding is right for any table size of the server, and holds no state.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.hpack import encode_integer

from rongcloud_groups._http import Request
from rongcloud_groups._transport.http2.frames import ErrorCode, ProtocolError
from rongcloud_groups._transport.response import MAX_HEADER_LIST_SIZE

_NO_TABLE: Final = b"\x20"
"""The size of the dynamic table becomes 0, before the first field; RFC 7541, section 6.3."""
_POST_HTTPS: Final = b"\x83\x87"
_AUTHORITY: Final = b"\x01"
_PATH: Final = b"\x04"
_CONTENT_LENGTH: Final = b"\x0f\x0d"
_NEVER_INDEXED: Final = b"\x10"
_STATIC_NAMES: Final = {
    "accept-encoding": b"\x1f\x01",
    "authorization": b"\x1f\x08",
    "content-type": b"\x1f\x10",
    "user-agent": b"\x1f\x2b",
}
"""Names of request fields that are in the static table, before values that are never indexed; RFC 7541, appendix A."""
_LONG: Final = 127  # a size that fills the seven bits of its octet
_THREE_SIZE_UPDATES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")
"""A block may begin with two, and each takes the time of a field; RFC 7541, section 4.2."""


class HeaderEncoder:
    """Encodes the header fields of one connection's requests.

    Every field but those of the URL and the length is marked as never to be indexed, by any intermediary: it may hold
    a secret, or a nonce, which would only push others out of a table.
    """

    def __init__(self, authority: str) -> None:
        self._common = _POST_HTTPS + _AUTHORITY + _string(authority)
        self._first = _NO_TABLE

    def encode(self, request: Request) -> bytes:
        """The header block of a request; the first one has to be sent first."""
        first, self._first = self._first, b""
        parts = [first, self._common, _PATH, _string(request.path)]
        for name, value in request.headers:
            parts += _name(name), _string(value)
        parts += _CONTENT_LENGTH, _string(str(len(request.body)))
        return b"".join(parts)


class HeaderDecoder:
    """Decodes the header blocks of one connection's responses, all of them and in their order."""

    def __init__(self) -> None:
        self._hpack = Decoder(MAX_HEADER_LIST_SIZE)

    def decode(self, block: bytes) -> Iterable[tuple[bytes, bytes]]:
        if _THREE_SIZE_UPDATES.match(block):
            raise ProtocolError("more than two table sizes in a header block", ErrorCode.COMPRESSION_ERROR)
        try:
            return self._hpack.decode(block, raw=True)
        except HPACKError as error:
            raise ProtocolError(f"header block: {error}", ErrorCode.COMPRESSION_ERROR) from error


@lru_cache(maxsize=64)
def _name(name: str) -> bytes:
    return _STATIC_NAMES.get(name) or _NEVER_INDEXED + _string(name)


def _string(text: str) -> bytes:
    """Without Huffman's code, which would save 30 bytes a request, and cost more time than all else about it."""
    encoded = text.encode()
    size = len(encoded)
    return (bytes((size,)) if size < _LONG else bytes(encode_integer(size, 7))) + encoded

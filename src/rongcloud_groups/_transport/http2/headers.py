"""Header blocks: HPACK (RFC 7541) as far as a client of small POSTs needs it.

Requests use no dynamic table, so that their encoding is right for any table size of the server, and holds no state.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from rongcloud_groups._http import Request
from rongcloud_groups._transport.http2.frames import ErrorCode, ProtocolError
from rongcloud_groups._transport.response import MAX_HEADER_LIST_SIZE

_NO_TABLE: Final = b"\x20"
"""The size of the dynamic table becomes 0, before the first field; RFC 7541, section 6.3."""
_POST_HTTPS: Final = b"\x83\x87"
_AUTHORITY: Final = b"\x01"
_PATH: Final = b"\x04"
_CONTENT_LENGTH: Final = b"\x0f\x0d"
_STATIC_NAMES: Final = {"accept-encoding": 16, "authorization": 23, "content-type": 31, "user-agent": 58}
"""Names of request fields that are in the static table; RFC 7541, appendix A."""
_THREE_SIZE_UPDATES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")
"""A block may begin with two, and each takes the time of a field; RFC 7541, section 4.2."""


class HeaderEncoder:
    """Encodes the header fields of one connection's requests.

    Every field but those of the URL and the length is marked as never to be indexed, by any intermediary: it may hold
    a secret, or a nonce, which would only push others out of a table.

    Args:
        authority: the host, with the port where it isn't 443.
    """

    def __init__(self, authority: str) -> None:
        self._common = _POST_HTTPS + _AUTHORITY + _string(authority)
        self._first = _NO_TABLE

    def encode(self, request: Request) -> bytes:
        """The header block of a request; the blocks have to be sent in the order of their encoding."""
        first, self._first = self._first, b""
        parts = [first, self._common, _PATH, _string(request.path)]
        for name, value in request.headers:
            parts += _never_indexed(name), _string(value)
        parts += _CONTENT_LENGTH, _string(str(len(request.body)))
        return b"".join(parts)


class HeaderDecoder:
    """Decodes the header blocks of one connection's responses."""

    def __init__(self) -> None:
        self._hpack = Decoder(MAX_HEADER_LIST_SIZE)

    def decode(self, block: bytes) -> Iterable[tuple[bytes, bytes]]:
        """The fields of a whole block.

        Raises:
            ProtocolError: it cannot be decoded, or is too long; the table's content is no longer known.
        """
        if _THREE_SIZE_UPDATES.match(block):
            raise ProtocolError("more than two table sizes in a header block", ErrorCode.COMPRESSION_ERROR)
        try:
            return self._hpack.decode(block, raw=True)
        except HPACKError as error:
            raise ProtocolError(f"header block: {error}", ErrorCode.COMPRESSION_ERROR) from error


@lru_cache(maxsize=64)
def _never_indexed(name: str) -> bytes:
    """The bytes before a field's value; RFC 7541, section 6.2.3."""
    index = _STATIC_NAMES.get(name)
    return b"\x10" + _string(name) if index is None else _integer(index, 0x10, 4)


def _string(text: str) -> bytes:
    """Without Huffman's code, which would save 30 bytes a request, and cost more time than all else about it."""
    encoded = text.encode()
    return _integer(len(encoded), 0x00, 7) + encoded


def _integer(number: int, first: int, bits: int) -> bytes:
    """An integer behind the first bits of its representation; RFC 7541, section 5.1."""
    limit = (1 << bits) - 1
    if number < limit:
        return bytes((first | number,))
    encoded = [first | limit]
    number -= limit
    while number >= 0x80:  # noqa: PLR2004  seven bits an octet
        encoded.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes((*encoded, number))

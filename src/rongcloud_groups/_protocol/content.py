"""The body of a response: its content encoding, and how large it may be."""

import zlib

from rongcloud_groups._http import Response
from rongcloud_groups.errors import DecodeError


class TooLargeError(DecodeError):
    """The response has more bytes than could have been asked for; it will have them again."""


def max_body(entries: int) -> int:
    """The most bytes of a body, decompressed, with at most so many profiles or listed groups.

    A profile with every text at its documented length, all of it emoji, escaped twice, has 64 KiB. One entry may be
    larger than that, or the rest of the body, by 256 KiB.
    """
    return min((256 + 64 * entries) * 1024, 16 * 1024 * 1024)


def decode_content(response: Response, limit: int) -> bytes:
    """The body without its content encoding.

    Raises:
        TooLargeError: more bytes than the limit, when decoded.
        DecodeError: an encoding that no request accepts, or compressed data that is damaged or cut short.
    """
    body = response.body
    match response.headers.get("content-encoding", "").strip().lower():
        case "" | "identity":
            pass
        case "gzip" | "x-gzip":
            body = _inflate(body, 16 + zlib.MAX_WBITS, limit)
        case "deflate":
            # The name means zlib's format; some servers send the bare stream, which cannot start like it.
            is_zlib = len(body) > 1 and int.from_bytes(body[:2]) % 31 == 0
            body = _inflate(body, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS, limit)
        case other:
            raise DecodeError(f"content encoding {excerpt(other.encode(errors='replace'))} is not known")
    if len(body) > limit:
        raise TooLargeError(f"the response has more than {limit} bytes")
    return body


def _inflate(body: bytes, window_bits: int, limit: int) -> bytes:
    stream = zlib.decompressobj(window_bits)
    try:
        text = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise DecodeError(f"the compressed response is damaged: {error}") from None
    if len(text) <= limit and not stream.eof:
        raise DecodeError("the compressed response is cut short")
    return text


def excerpt(text: bytes, limit: int = 120) -> str:
    """One line of visible characters."""
    start = text[: 4 * limit].decode(errors="replace")
    line = " ".join("".join(each if each.isprintable() else " " for each in start).split())
    if len(line) > limit or len(text) > 4 * limit:
        line = f"{line[:limit]}…"
    return line or "an empty body"

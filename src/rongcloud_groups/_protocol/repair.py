"""Decodes text that is not quite JSON, so that one damaged value does not cost the whole response."""

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

_T = TypeVar("_T")

UNREADABLE: Final = (ValueError, RecursionError)
"""The errors that msgspec raises on a text that is not the JSON it expects."""

MAX_DEPTH: Final = 64
"""The most levels of a value; deeper ones end in a RecursionError wherever they are encoded, copied or compared."""

_MAX_PIECES: Final = 100_000  # tokens, and marks in strings; a full page of the listing has a quarter of it
_UNREADABLE: Final = b'"\xff"'
"""Stands for a value that is cut off: valid JSON for a reader that skips it, and not UTF-8 for one that reads it."""
_ROOM: Final = 4
"""The levels around a profile's value: the response, the envelope, the list, the profile."""
# Possessive, so that no text takes more than one pass.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]++|[\]}]++|[^\s"\[\]{},:]++', re.DOTALL)
_WORD: Final = re.compile(rb"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
# Two backslashes, a surrogate pair, a lone surrogate, a control character; the last two are replaced.
_IN_STRING: Final = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<surrogate>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|(?P<control>[\x00-\x1f])"
)
_encode: Final = msgspec.json.Encoder().encode


def decode_repaired(decoder: "msgspec.json.Decoder[_T]", text: bytes | Raw) -> _T:
    """Decode a JSON object, after a repair if it is not valid JSON; the decoder leaves what may be damaged as `Raw`.

    Raises one of `UNREADABLE` if no repair helps.
    """
    try:
        return decoder.decode(text)
    except UNREADABLE:
        marked = _repaired(bytes(text))
    try:
        return decoder.decode(marked)
    except UnicodeDecodeError:  # a key is damaged
        return decoder.decode(marked.decode(errors="replace"))


def _repaired(text: bytes) -> bytes:
    r"""The text, with replacements for the values that make it invalid JSON.

    - A lone surrogate (text that was cut inside an emoji) becomes a byte that is not UTF-8, which makes only the string
      around it unreadable. A control character in a string is escaped.
    - A word that is not JSON, such as ``NaN``, ``Infinity`` or ``01``, becomes a string.
    - A value nested too deep becomes a string that is not UTF-8.

    Raises:
        ValueError: it is no object, or too long to repair.
    """
    if not text[:64].lstrip().startswith(b"{"):
        raise ValueError("not a JSON object")
    parts: list[bytes] = []
    depth = copied = 0
    limit = MAX_DEPTH + _ROOM
    left = _MAX_PIECES
    for token in _TOKEN.finditer(text):
        left -= 1
        if left <= 0:
            raise ValueError("too long to repair")
        word, start = token[0], token.start()
        if word[0] in b"[{":
            if depth <= limit < depth + len(word):
                parts += [text[copied : start + limit - depth], _UNREADABLE]
            depth += len(word)
        elif word[0] in b"]}":
            if depth > limit >= depth - len(word):
                copied = token.end() - (limit - (depth - len(word)))
            depth -= len(word)
        elif depth <= limit:
            replacement, marks = _replacement(word, left)
            left -= marks
            if replacement != word:
                parts += [text[copied:start], replacement]
                copied = token.end()
    return b"".join([*parts, text[copied:] if depth <= limit else b""])


def _replacement(word: bytes, limit: int) -> tuple[bytes, int]:
    """The replacement of a string or a word, and the number of marks in it that were examined, at most ``limit``."""
    if word[0] == ord('"'):
        return _IN_STRING.subn(_in_string, word, limit)
    return (word if _WORD.fullmatch(word) else _encode(word.decode(errors="replace"))), 0


def _in_string(found: re.Match[bytes]) -> bytes:
    if found["surrogate"]:
        return b"\xff"
    return b"\\u%04x" % ord(found[0]) if found["control"] else found[0]


def is_deeper(value: Any, levels: int) -> bool:
    """Whether a decoded value has more levels of lists and objects than that."""
    containers = [value] if isinstance(value, list | dict) else []
    for _ in range(levels):
        containers = [
            inner
            for each in containers
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, list | dict)
        ]
        if not containers:
            return False
    return bool(containers)

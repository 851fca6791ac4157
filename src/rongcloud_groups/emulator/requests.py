"""Requests: the state of one, and what it says: credentials, group IDs, page."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

import msgspec

Version = Literal[1, 4]

MAX_BODY_SIZE: Final = 256 * 1024
"""Bytes of a request body; the largest batch of 50 IDs takes a fifth of it."""
_ID_LIMIT = 64
_NONCE_LIMIT = 18
_PAGE_LIMIT = 1000
_PAGE_DEFAULT = 50
_BODIES: Final = {1: ("application/x-www-form-urlencoded", "form in UTF-8"), 4: ("application/json", "JSON object")}


@dataclass(slots=True, eq=False)
class Exchange:
    """A request as far as it was received, and the rest of its response."""

    id: int
    method: str
    path: str  # without a query
    headers: Mapping[str, str]
    arrived: float
    body: bytearray = field(default_factory=bytearray)
    refused: bool = False  # whether the body is too long, and the rest of it ignored
    unsent: bytes = b""
    whole: bool = False  # whether `unsent` is all that is left of the response


class ServiceRefusal(Exception):  # noqa: N818  caught by the service itself
    """The code and the message of a refusal, on their way into a response."""


def check_signature(headers: Mapping[str, str], app_key: str, app_secret: str) -> float:
    """Check App Key, nonce, timestamp and signature, under their plain names or those with ``RC-``.

    Returns the timestamp, in seconds since the epoch.
    """
    names = ("app-key", "nonce", "timestamp", "signature")
    given_key, nonce, timestamp, signature = (_credential(headers, name) for name in names)
    if given_key != app_key:
        raise ServiceRefusal(1001, "invalid App-Key")
    if not nonce or len(nonce) > _NONCE_LIMIT:
        raise ServiceRefusal(1004, f"Nonce must have 1 to {_NONCE_LIMIT} characters")
    if not (timestamp.isascii() and timestamp.isdigit()):
        raise ServiceRefusal(1004, "Timestamp must be in milliseconds")
    signed = hashlib.sha1((app_secret + nonce + timestamp).encode()).hexdigest()
    if not hmac.compare_digest(signed.encode(), signature.encode()):
        raise ServiceRefusal(1004, "signature is invalid")
    return int(timestamp) / 1000


def parse_group_ids(version: Version, headers: Mapping[str, str], body: bytes) -> list[str]:
    """The group IDs of a batch query, as they were given."""
    members = _members(version, headers, body)
    if version == 1:
        # The table and the example of the service's page disagree on the name; SDKs repeat it or join by commas.
        given = [value for name, value in members if name in ("groupIds", "groupId")]
        name, group_ids = "groupIds", ",".join(given).split(",") if given else None
    else:
        name, group_ids = "channelIds", dict(members).get("channelIds")
    if not isinstance(group_ids, list) or not group_ids:
        raise ServiceRefusal(1003, f"{name} is required")
    if not all(isinstance(group_id, str) and 0 < len(group_id) <= _ID_LIMIT for group_id in group_ids):
        raise ServiceRefusal(1002, f"{name} is invalid")
    return group_ids


def parse_page(version: Version, headers: Mapping[str, str], body: bytes) -> tuple[int, int, bool]:
    """The page that a listing asks for: how many groups to skip, its size, and whether the newest come first."""
    asked = dict(_members(version, headers, body))
    size_name = "size" if version == 1 else "pageSize"
    size = _number(asked, size_name, _PAGE_DEFAULT)
    if not 1 <= size <= _PAGE_LIMIT:
        raise ServiceRefusal(1002, f"{size_name} must be 1 to {_PAGE_LIMIT}")
    order = _number(asked, "order", 1)
    if order not in (0, 1):
        raise ServiceRefusal(1002, "order must be 0 or 1")
    token = re.fullmatch("p-([0-9a-fA-F]+)", str(asked.get("pageToken") or "p-0"))
    if token is None:
        raise ServiceRefusal(1002, "pageToken is invalid")
    return int(token[1], 16), size, order == 1


def _credential(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, headers.get(f"rc-{name}"))
    if value is None:
        raise ServiceRefusal(1004, f"header {name} is missing")
    return value


def _members(version: Version, headers: Mapping[str, str], body: bytes) -> list[tuple[str, Any]]:
    """The names and values in a body: a form in version 1, a JSON object in version 4; none in another content type."""
    content_type, kind = _BODIES[version]
    if not headers.get("content-type", "").startswith(content_type):
        return []
    try:
        if version == 1:
            return parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
        return list(msgspec.json.decode(body, type=dict[str, Any]).items())
    except (ValueError, RecursionError):
        raise ServiceRefusal(1002, f"the body is not a {kind}") from None


def _number(asked: Mapping[str, Any], name: str, default: int) -> int:
    try:
        return int(asked.get(name, default))
    except (TypeError, ValueError, OverflowError):
        raise ServiceRefusal(1002, f"{name} is not a number") from None

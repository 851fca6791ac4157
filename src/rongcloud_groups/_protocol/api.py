"""The service's protocol without I/O: sign and encode a request, read an answer, tell what an error means.

Nothing here knows a clock or a socket. The rules are those of the service's documentation (API signature,
group profile query, listing of groups) and, where it is silent, of its SDKs.
"""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol
from urllib.parse import quote_plus

import msgspec
from msgspec import Raw

from rongcloud_groups._http import Request, Response
from rongcloud_groups._protocol.dialects import Dialect
from rongcloud_groups._protocol.lenient import UNREADABLE
from rongcloud_groups._protocol.responses import NO_SUCH_API, decode_content, unwrap
from rongcloud_groups._protocol.signing import RequestNonce
from rongcloud_groups._protocol.strict import answer_reader, listed_group, profile_reader
from rongcloud_groups.errors import (
    AuthenticationError,
    ConfigError,
    DecodeError,
    InvalidGroupId,
    ParameterError,
    RateLimited,
    ServerError,
    ServiceError,
    ServiceNotEnabled,
    TransportError,
)
from rongcloud_groups.models import GroupProfile, ListedGroup

BATCH_LIMIT: Final = 50
"""The most group IDs in one request, as the service documents it."""

GROUP_ID_LIMIT: Final = 64
"""The most characters in a group ID, as the service documents it."""

ErrorAction = Literal["fatal", "pause", "bisect", "retry", "fail"]

_OK: Final = 200  # HTTP's
_PLAIN_GROUP_ID: Final = re.compile(rf"[!-+\--~]{{1,{GROUP_ID_LIMIT}}}")  # visible ASCII without the comma
_NEEDS_NO_QUOTING: Final = re.compile(r"[A-Za-z0-9_.~-]*")
_INVISIBLE: Final = {
    "Cc": "a control character",
    "Cf": "an invisible format character",
    "Cs": "half of a surrogate pair",
    "Zl": "whitespace",
    "Zp": "whitespace",
    "Zs": "whitespace",
}
_ENTRIES: Final = msgspec.json.Decoder(list[Raw] | None)
_PAGE_TOKEN: Final = msgspec.json.Decoder(int | str | None)


class Signer(Protocol):
    """An App Key and what signs for it."""

    @property
    def app_key(self) -> str:
        """The App Key."""
        ...

    def signature(self, nonce: str, timestamp_ms: int) -> str:
        """The signature of one request; see `sign`."""
        ...


class BatchAnswer(NamedTuple):
    """What an answer says of the group IDs that were asked for; each is in exactly one of the three."""

    found: dict[str, GroupProfile]
    missing: list[str]
    """The service answered and left them out."""
    unreadable: list[str]
    """Left out too, but the answer has entries whose group ID cannot be read: they may be these."""


class ListingPage(NamedTuple):
    """One page of the listing of an app's groups."""

    groups: list[ListedGroup]
    next_page_token: str | None
    """What asks for the next page; None on the last."""
    unreadable: int
    """How many entries have a group ID that cannot be read."""


def validated_group_id(value: object) -> str:
    """The value, where the service can take it for a group ID.

    The service documents 1 to 64 characters. Some of its SDKs join IDs with commas, so it may split at one.

    Raises:
        InvalidGroupId: not a str, empty, over 64 characters, or with a comma, whitespace, a control
            character, an invisible format character or a lone surrogate in it.
    """
    if not isinstance(value, str):
        raise InvalidGroupId(value, f"it must be a str, not {type(value).__name__}")
    if not _PLAIN_GROUP_ID.fullmatch(value) and (reason := _fault_of(value)):
        raise InvalidGroupId(value, reason)
    return value


def _fault_of(text: str) -> str | None:
    if not text:
        return "it is empty"
    if len(text) > GROUP_ID_LIMIT:
        return f"it has {len(text)} characters, over the limit of {GROUP_ID_LIMIT}"
    if "," in text:
        return "it has a comma in it"
    faults = (_INVISIBLE.get(unicodedata.category(character)) for character in text)
    return next((f"it has {fault} in it" for fault in faults if fault), None)


def sign(app_secret: str, nonce: str, timestamp_ms: int) -> str:
    """The signature of one request: lower-case hex SHA-1 of App Secret + nonce + timestamp, as UTF-8.

    Args:
        app_secret: the App Secret.
        nonce: at most 18 characters.
        timestamp_ms: milliseconds since 1970.
    """
    # surrogatepass: an encoding error would carry the secret in the exception
    text = f"{app_secret}{nonce}{timestamp_ms}".encode(errors="surrogatepass")
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()


def batch_request(dialect: Dialect, credentials: Signer, group_ids: Sequence[str], nonce: RequestNonce) -> Request:
    """The request for the profiles of some groups.

    Args:
        dialect: how to ask.
        credentials: what signs it.
        group_ids: 1 to `BATCH_LIMIT` validated IDs.
        nonce: of this attempt.
    """
    body = _encoded(dialect, {dialect.group_ids_key: group_ids})
    return Request(dialect.batch_path, _headers(dialect, credentials, nonce), body)


def listing_request(
    dialect: Dialect,
    credentials: Signer,
    nonce: RequestNonce,
    *,
    page_token: str | None,
    size: int,
    order: Literal[0, 1],
) -> Request:
    """The request for one page of the listing of an app's groups.

    Args:
        dialect: how to ask.
        credentials: what signs it.
        nonce: of this attempt.
        page_token: `ListingPage.next_page_token` of the page before; None for the first.
        size: groups on a page, at most 1,000.
        order: 0 oldest first, 1 newest first.
    """
    parameters: dict[str, str | int] = {dialect.page_size_key: size, "order": order}
    if page_token is not None:
        parameters["pageToken"] = page_token
    return Request(dialect.listing_path, _headers(dialect, credentials, nonce), _encoded(dialect, parameters))


def _headers(dialect: Dialect, credentials: Signer, nonce: RequestNonce) -> list[tuple[str, str]]:
    return [
        ("app-key", credentials.app_key),
        ("nonce", nonce.nonce),
        ("timestamp", str(nonce.timestamp_ms)),
        ("signature", credentials.signature(nonce.nonce, nonce.timestamp_ms)),
        ("x-request-id", nonce.request_id),
        ("content-type", dialect.content_type),
        ("accept-encoding", "gzip"),
        ("user-agent", "rongcloud-groups"),
    ]


def _encoded(dialect: Dialect, parameters: Mapping[str, str | int | Sequence[str]]) -> bytes:
    if dialect.encoding == "json":
        return msgspec.json.encode(parameters)
    return "&".join(_form_part(key, value) for key, value in parameters.items()).encode("ascii")


def _form_part(key: str, value: str | int | Sequence[str]) -> str:
    values = [str(value)] if isinstance(value, str | int) else value
    if not _NEEDS_NO_QUOTING.fullmatch("".join(values)):
        values = [quote_plus(each) for each in values]
    return f"{key}=" + f"&{key}=".join(values)


def read_batch(dialect: Dialect, reply: Response, requested: Collection[str], request_id: str | None) -> BatchAnswer:
    """What the service says of the requested groups.

    Profiles are matched by their group ID; those of other groups are ignored, and of two for one group
    the first counts.

    Args:
        dialect: how it was asked.
        reply: the whole answer.
        requested: the group IDs that were asked for.
        request_id: the request's ``X-Request-ID``, for error messages.

    Raises:
        ServiceError: the service, or what stands before it, answered with an error.
        ConfigError: the answer is the other dialect's.
        DecodeError: the answer is not what the service documents.
    """
    profiles = _profiles(dialect, reply, request_id)
    found: dict[str, GroupProfile] = {}
    for profile in profiles:
        if profile is not None:
            found.setdefault(profile.group_id, profile)
    asked = dict.fromkeys(requested)
    if found.keys() == asked.keys():
        return BatchAnswer(found, [], [])
    for other in found.keys() - asked.keys():
        del found[other]
    left = [group_id for group_id in asked if group_id not in found]
    return BatchAnswer(found, [], left) if None in profiles else BatchAnswer(found, left, [])


def _profiles(dialect: Dialect, reply: Response, request_id: str | None) -> Sequence[GroupProfile | None]:
    """The profiles in an answer, None for each whose group ID cannot be read."""
    if (profiles := _documented_profiles(dialect, reply)) is not None:
        return profiles
    data = unwrap(dialect, reply, "profiles", request_id)
    read = profile_reader(dialect)
    return [read(entry) for entry in _entries(data, "profiles", request_id) if bytes(entry) != b"null"]


def _documented_profiles(dialect: Dialect, reply: Response) -> list[GroupProfile] | None:
    """The profiles in an answer of exactly the documented shape; None for any other."""
    try:
        return answer_reader(dialect)(decode_content(reply)) if reply.status == _OK else None
    except DecodeError:
        return None


def read_listing(dialect: Dialect, reply: Response, request_id: str | None) -> ListingPage:
    """One page of the listing.

    Args:
        dialect: how it was asked.
        reply: the whole answer.
        request_id: the request's ``X-Request-ID``, for error messages.

    Raises:
        ServiceError: the service, or what stands before it, answered with an error.
        ConfigError: the answer is the other dialect's.
        DecodeError: the answer is not what the service documents.
    """
    data = unwrap(dialect, reply, "groups", request_id)
    entries = [entry for entry in _entries(data, "groups", request_id) if bytes(entry) != b"null"]
    groups = [group for entry in entries if (group := listed_group(dialect, entry))]
    return ListingPage(groups, _next_page_token(data, request_id), len(entries) - len(groups))


def _entries(data: Mapping[str, Raw], key: str, request_id: str | None) -> list[Raw]:
    try:
        return _ENTRIES.decode(data.get(key, b"null")) or []
    except UNREADABLE:
        raise DecodeError(f"{key} is not a list (request {request_id})") from None


def _next_page_token(data: Mapping[str, Raw], request_id: str | None) -> str | None:
    try:
        token = _PAGE_TOKEN.decode(data.get("pageToken", b"null"))
    except UNREADABLE:
        raise DecodeError(f"pageToken is not text (request {request_id})") from None
    return None if token is None else str(token) or None


def action_for(error: Exception) -> ErrorAction:
    """What an error means for the requests.

    Returns:
        ``fatal``: no request can succeed until somebody changes a setting. ``pause``: everyone on this budget
        waits. ``bisect``: one ID of the batch is at fault. ``retry``: the same may succeed later.
        ``fail``: the batch has failed.
    """
    match error:
        case AuthenticationError() | ServiceNotEnabled() | ConfigError():
            return "fatal"
        case RateLimited():
            return "pause"
        case ParameterError():
            return "bisect"
        case ServerError() | TransportError() | DecodeError():
            return "retry"
        case ServiceError() if NO_SUCH_API in (error.code, error.status):
            return "fatal"
        case _:
            return "fail"

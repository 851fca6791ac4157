"""Reads a response: the data of a successful one, or the error that it stands for."""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import force_setattr

from rongcloud_groups._http import Response
from rongcloud_groups._protocol.content import decode_content, excerpt, max_body
from rongcloud_groups._protocol.dialects import DIALECTS, Dialect
from rongcloud_groups._protocol.error_codes import NO_SUCH_API, error_code_for
from rongcloud_groups._protocol.lenient import UNREADABLE, decode_repaired
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups._protocol.strict import (
    array_decoder,
    batch_reader,
    entries_of,
    listed_group_reader,
    profile_reader,
)
from rongcloud_groups.errors import ConfigError, DecodeError, ServiceError
from rongcloud_groups.models import GroupProfile, ListedGroup

_CODE: Final = msgspec.json.Decoder(int | str)
_TEXT: Final = msgspec.json.Decoder(str)
_PAGE_TOKEN: Final = msgspec.json.Decoder(int | str | None)
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SUCCESS_CODES: Final = frozenset(each.success_code for each in DIALECTS.values())
_ABSENT: Final = Raw(b"")
_NULL: Final = Raw(b"null")


class BatchResult(NamedTuple):
    """A request's group IDs by outcome; each is in exactly one of the three."""

    found: dict[str, GroupProfile]
    """In the order of the request."""
    missing: list[str]
    """The service left them out."""
    unreadable: list[str]
    """Left out too, but the response has entries whose group ID cannot be read: they may be these."""


class ListingPage(NamedTuple):
    """One page of the listing of an app's groups.

    Attributes:
        groups: the groups of the page.
        next_page_token: the token of the next page; None on the last.
        unreadable: how many entries have a group ID that cannot be read.
    """

    groups: list[ListedGroup]
    next_page_token: str | None
    unreadable: int


class _Envelope(Struct, rename="camel", gc=False):
    """The members of a response that count, still unread; others are passed over."""

    code: Raw = _ABSENT
    error_message: Raw = _ABSENT
    msg: Raw = _ABSENT
    message: Raw = _ABSENT
    result: Raw = _ABSENT
    profiles: Raw = _ABSENT
    groups: Raw = _ABSENT
    page_token: Raw = _ABSENT


_NOTHING: Final = _Envelope()
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)


def read_batch(
    dialect: Dialect, response: Response, requested: Sequence[str], request_id: str | None = None
) -> BatchResult:
    """The service's statement on the requested groups.

    Profiles are matched by their group ID; those of other groups are ignored, and of two for one group
    the first counts.

    Args:
        dialect: of the request.
        response: the whole response.
        requested: the group IDs of the request, each once; those of the profiles are the same objects.
        request_id: the request's ``X-Request-ID``, for error messages.

    Raises:
        ServiceError: the service, or a server before it, responded with an error.
        ConfigError: the response is in the other dialect.
        DecodeError: the response is not as the service documents it.
    """
    limit = max_body(len(requested))
    profiles: Sequence[GroupProfile | None]
    if documented := _documented_profiles(dialect, response, requested, limit):
        if [profile.group_id for profile in documented] == requested:
            return BatchResult(dict(zip(requested, documented, strict=True)), [], [])
        profiles = documented
    else:
        data = unwrap(dialect, response, "profiles", limit, request_id)
        entries = _entries(data.profiles, "profiles", BATCH_LIMIT, request_id)
        profiles = list(map(profile_reader(dialect).read, entries))
    by_id = {profile.group_id: profile for profile in reversed(profiles) if profile is not None}
    found = {group_id: by_id[group_id] for group_id in requested if group_id in by_id}
    deque(map(force_setattr, found.values(), repeat("group_id"), found), maxlen=0)  # so that an ID is in memory once
    left = [group_id for group_id in requested if group_id not in found]
    return BatchResult(found, [], left) if None in profiles else BatchResult(found, left, [])


def _documented_profiles(
    dialect: Dialect, response: Response, requested: Sequence[str], limit: int
) -> list[GroupProfile] | None:
    """See `batch_reader`; None for a response that is not of exactly the documented shape."""
    try:
        body = decode_content(response, limit) if response.status == 200 else b""  # noqa: PLR2004  HTTP's OK
    except DecodeError:
        return None
    return batch_reader(dialect)(body, requested)


def read_listing(dialect: Dialect, response: Response, size: int, request_id: str | None = None) -> ListingPage:
    """One page of the listing, asked for with a page size; arguments and errors are as for `read_batch`."""
    data = unwrap(dialect, response, "groups", max_body(size), request_id)
    token = _next_page_token(data.page_token, request_id)
    reader = listed_group_reader(dialect)
    if (documented := reader.read_array(data.groups, size)) is not None:
        return ListingPage(documented, token, 0)
    groups = list(map(reader.read, _entries(data.groups, "groups", size, request_id)))
    readable = [group for group in groups if group is not None]
    return ListingPage(readable, token, len(groups) - len(readable))


def _entries(values: Raw, key: str, limit: int, request_id: str | None) -> list[Raw]:
    """The entries of a list, still unread, without those that are null."""
    try:
        array = array_decoder(Raw, limit).decode(values) if values else None
    except UNREADABLE:
        raise DecodeError(f"{key} is not a list of at most {limit} entries{_request(request_id)}") from None
    return [entry for entry in entries_of(array) if entry != _NULL]


def _next_page_token(value: Raw, request_id: str | None) -> str | None:
    try:
        token = _PAGE_TOKEN.decode(value) if value else None
    except UNREADABLE:
        raise DecodeError(f"pageToken is not text{_request(request_id)}") from None
    return None if token is None else str(token) or None


def unwrap(dialect: Dialect, response: Response, list_key: str, limit: int, request_id: str | None) -> _Envelope:
    """The object that holds the data, and in them a list, of a successful response; errors are as for `read_batch`.

    Args:
        dialect: of the request.
        response: the whole response.
        list_key: the key of the list.
        limit: the most bytes of the body, decompressed.
        request_id: the request's ``X-Request-ID``, for error messages.
    """
    succeeded = 200 <= response.status < 300  # noqa: PLR2004  HTTP's class of success
    try:
        body = decode_content(response, limit)
    except DecodeError as error:
        if succeeded:
            raise type(error)(f"{error}{_request(request_id)}") from None
        body = b""
    envelope = _envelope_of(body)
    code = _code_of(envelope)
    if not succeeded or code not in {None, *_SUCCESS_CODES}:
        raise _service_error(dialect, response, code, _message_of(envelope) or _describe(response, body), request_id)
    if code is None:
        raise DecodeError(f"not a response of the service: {excerpt(body)}{_request(request_id)}")
    _check_dialect(dialect, code, envelope, list_key, request_id)
    return _data_of(dialect, envelope, request_id)


def _envelope_of(body: bytes | Raw) -> _Envelope:
    try:
        return decode_repaired(_ENVELOPE, body)
    except UNREADABLE:
        return _NOTHING


def _code_of(envelope: _Envelope) -> int | None:
    try:
        code = _CODE.decode(envelope.code)
    except UNREADABLE:
        return None
    if isinstance(code, int):
        return code
    return int(code) if _INTEGER.fullmatch(code.strip()) else None


def _message_of(envelope: _Envelope) -> str:
    for message in (envelope.error_message, envelope.msg, envelope.message):
        try:
            return excerpt(_TEXT.decode(message).encode())
        except UNREADABLE:
            continue
    return ""


def _data_of(dialect: Dialect, envelope: _Envelope, request_id: str | None) -> _Envelope:
    if dialect.envelope is None:
        return envelope
    inner: Raw = getattr(envelope, dialect.envelope)
    if inner in (_ABSENT, _NULL):
        return _NOTHING
    try:
        return decode_repaired(_ENVELOPE, inner)
    except UNREADABLE:
        raise DecodeError(f"{dialect.envelope} is not an object{_request(request_id)}") from None


def _check_dialect(dialect: Dialect, code: int, envelope: _Envelope, list_key: str, request_id: str | None) -> None:
    """Data where the other dialect has them end everything; a mere sign of it may be a proxy's, which goes away."""
    other = dialect.other
    ours, theirs = (bool(getattr(envelope, each.envelope or list_key)) for each in (dialect, other))
    inside_theirs = envelope if other.envelope is None else _envelope_of(getattr(envelope, other.envelope))
    if not ours and getattr(inside_theirs, list_key):
        raise ConfigError(
            f"the service responds in the dialect {other.name!r}, not {dialect.name!r}: set {other.switch}"
            f"{_request(request_id)}"
        )
    if code != dialect.success_code or (theirs and not ours):
        raise DecodeError(
            f"code {code} and no data, or in another place, is not a response in the dialect {dialect.name!r}; if this "
            f"persists, try {other.switch}{_request(request_id)}"
        )


def _service_error(
    dialect: Dialect, response: Response, code: int | None, message: str, request_id: str | None
) -> ServiceError:
    status = response.status
    if code in _SUCCESS_CODES:  # an HTTP error whose body claims success
        code = None
    row = error_code_for(code, status)
    number = status if code is None else code
    hint = row.hint
    if NO_SUCH_API in (number, status):
        hint = f"{hint}; or try {dialect.other.switch}"
    return row.error(number, status, message, request_id, hint, _retry_after(response.headers))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date counts from the response's own ``Date``, so that our clock does not matter."""
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until, sent = http_date(value), http_date(headers.get("date", ""))
    return max(0.0, (until - sent).total_seconds()) if until and sent else None


def http_date(value: str) -> datetime | None:
    """The time that a header such as ``Date`` names; None if it names none."""
    from email.utils import parsedate_to_datetime  # slow to import, and rarely needed

    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _describe(response: Response, body: bytes) -> str:
    if location := response.headers.get("location"):
        return f"redirected to {excerpt(location.encode(errors='replace'))}"
    return excerpt(body)


def _request(request_id: str | None) -> str:
    return f" (request {request_id})" if request_id else ""

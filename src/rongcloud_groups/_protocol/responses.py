"""From a reply to the data of a successful answer, or to the error that it stands for."""

import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import Raw

from rongcloud_groups._http import Response
from rongcloud_groups._protocol.dialects import DIALECTS, Dialect
from rongcloud_groups._protocol.lenient import UNREADABLE, read_members
from rongcloud_groups.errors import (
    AuthenticationError,
    ConfigError,
    DecodeError,
    ParameterError,
    RateLimited,
    ServerError,
    ServiceError,
    ServiceNotEnabled,
)

MAX_BODY: Final = 16 * 1024 * 1024
"""The most bytes of an answer, decompressed; a full batch can have about a million."""

_KINDS: Final[dict[int, type[ServiceError]]] = {
    404: ServiceError,
    1000: ServerError,
    1001: AuthenticationError,
    1002: ParameterError,
    1003: ParameterError,
    1004: AuthenticationError,
    1005: ParameterError,
    1006: AuthenticationError,
    1007: AuthenticationError,
    1008: RateLimited,
    1009: ServiceNotEnabled,
    1050: ServerError,
    1508: ParameterError,  # a request body over 100 kB, says one of the SDKs
}
_KINDS_OF_STATUS: Final[dict[int, type[ServiceError]]] = {
    400: ParameterError,
    401: AuthenticationError,
    413: ParameterError,
    414: ParameterError,
    429: RateLimited,
    430: ServiceNotEnabled,  # the service's own status
}
NO_SUCH_API: Final = 404
"""The code, and the HTTP status, for a path that the service does not have."""
_NOT_ENABLED: Final = "enable group profile hosting for this App Key, in the service's console or by a ticket"
_HINTS: Final = {
    401: "check the App Key, its secret and the region",
    430: _NOT_ENABLED,
    1001: "the App Secret does not fit the App Key; development and production have a pair each",
    1004: "the usual cause is hashing the App Key, or a clock far off",
    1006: "the app is locked or deleted; the service's console shows its state",
    1007: "the app is restricted; check that this IP address is allowed in the service's console",
    1009: _NOT_ENABLED,
}
_CODE: Final = msgspec.json.Decoder(int | str)
_TEXT: Final = msgspec.json.Decoder(str)
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SUCCESS_CODES: Final = frozenset(each.success_code for each in DIALECTS.values())


def unwrap(dialect: Dialect, reply: Response, list_key: str, request_id: str | None) -> Mapping[str, Raw]:
    """The members of the object that holds the data.

    Args:
        dialect: how it was asked.
        reply: the whole answer.
        list_key: the key of the list in the data.
        request_id: the request's ``X-Request-ID``, for error messages.

    Raises:
        ServiceError: the answer says, by its code or its HTTP status, that the request failed.
        ConfigError: the answer is the other dialect's.
        DecodeError: the answer cannot be read.
    """
    succeeded = 200 <= reply.status < 300  # noqa: PLR2004  HTTP's class of success
    try:
        body = decode_content(reply)
    except DecodeError as error:
        if succeeded:
            raise DecodeError(f"{error}{_request(request_id)}") from None
        body = b""
    members = _members_of(body)
    code = _code_of(members)
    if not succeeded or code not in {None, *_SUCCESS_CODES}:
        raise _service_error(dialect, reply, code, _message_of(members) or _described(reply, body), request_id)
    if code is None:
        raise DecodeError(f"not an answer of the service: {_excerpt(body)}{_request(request_id)}")
    _check_dialect(dialect, code, members, list_key, request_id)
    return _data_of(dialect, members, request_id)


def decode_content(reply: Response) -> bytes:
    """The body without its content encoding.

    Raises:
        DecodeError: an encoding nobody asked for, compressed data that is damaged or cut short, or more than
            `MAX_BODY` of it.
    """
    match reply.headers.get("content-encoding", "").strip().lower():
        case "" | "identity":
            return reply.body
        case "gzip" | "x-gzip":
            return _inflated(reply.body, 16 + zlib.MAX_WBITS)
        case "deflate":
            # The name means zlib's format; some servers send the bare stream, which cannot start like it.
            is_zlib = len(reply.body) > 1 and int.from_bytes(reply.body[:2]) % 31 == 0
            return _inflated(reply.body, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        case other:
            raise DecodeError(f"content encoding {_excerpt(other.encode(errors='replace'))} is not known")


def _inflated(body: bytes, window_bits: int) -> bytes:
    stream = zlib.decompressobj(window_bits)
    try:
        text = stream.decompress(body, MAX_BODY + 1)
    except zlib.error as error:
        raise DecodeError(f"the compressed answer is damaged: {error}") from None
    if len(text) > MAX_BODY:
        raise DecodeError(f"the answer has more than {MAX_BODY} bytes")
    if not stream.eof:
        raise DecodeError("the compressed answer is cut short")
    return text


def _members_of(body: bytes) -> dict[str, Raw]:
    try:
        return read_members(body)
    except UNREADABLE:
        return {}


def _code_of(members: Mapping[str, Raw]) -> int | None:
    try:
        code = _CODE.decode(members.get("code", b""))
    except UNREADABLE:
        return None
    if isinstance(code, int):
        return code
    return int(code) if _INTEGER.fullmatch(code.strip()) else None


def _message_of(members: Mapping[str, Raw]) -> str:
    for key in ("errorMessage", "msg", "message"):
        try:
            return _excerpt(_TEXT.decode(members.get(key, b"")).encode())
        except UNREADABLE:
            continue
    return ""


def _data_of(dialect: Dialect, members: Mapping[str, Raw], request_id: str | None) -> Mapping[str, Raw]:
    if dialect.envelope is None:
        return members
    envelope = members.get(dialect.envelope, Raw(b"null"))
    if bytes(envelope) == b"null":
        return {}
    try:
        return read_members(envelope)
    except UNREADABLE:
        raise DecodeError(f"{dialect.envelope} is not an object{_request(request_id)}") from None


def _check_dialect(
    dialect: Dialect, code: int, members: Mapping[str, Raw], list_key: str, request_id: str | None
) -> None:
    """Data where the other dialect has them end everything; a mere sign of it may be a proxy's, which goes away."""
    other = dialect.other
    ours, theirs = dialect.envelope or list_key, other.envelope or list_key
    if ours not in members and list_key in _inside(other.envelope, members):
        raise ConfigError(
            f"the service answers in the dialect {other.name!r}, not {dialect.name!r}: set {other.switch}"
            f"{_request(request_id)}"
        )
    if code != dialect.success_code or (ours not in members and theirs in members):
        raise DecodeError(
            f"code {code} with {_excerpt(', '.join(members).encode())} is not what the dialect {dialect.name!r} "
            f"answers; where this goes on, try {other.switch}{_request(request_id)}"
        )


def _inside(envelope: str | None, members: Mapping[str, Raw]) -> Mapping[str, Raw]:
    return members if envelope is None else _members_of(bytes(members.get(envelope, b"")))


def _service_error(
    dialect: Dialect, reply: Response, code: int | None, message: str, request_id: str | None
) -> ServiceError:
    status = reply.status
    if code in _SUCCESS_CODES:  # an HTTP error whose body claims success
        code = None
    kind = error_class_for(code, status)
    number = status if code is None else code
    hint = _HINTS.get(number) or _HINTS.get(status, "")
    if NO_SUCH_API in (number, status):
        hint = f"no such API for this App Key there; try {dialect.other.switch}, and check region or base_urls"
    if 300 <= status < 400:  # noqa: PLR2004  HTTP's class of redirects
        hint = "redirects are not followed; check base_urls"
    if kind is RateLimited:
        return RateLimited(number, status, message, request_id, hint, _retry_after(reply.headers))
    return kind(number, status, message, request_id, hint)


def error_class_for(code: int | None, status: int) -> type[ServiceError]:
    """The code decides before the status, but a 429 means the rate, unless all is lost anyway."""
    known = None if code is None else _KINDS.get(code)
    by_status = ServerError if status >= 500 else _KINDS_OF_STATUS.get(status, ServiceError)  # noqa: PLR2004  HTTP's
    if known in {AuthenticationError, ServiceNotEnabled}:
        return known
    if by_status is RateLimited or known is None:
        # A code that nobody documents says more than a mere "bad request": bisecting is for known ones.
        return ServiceError if by_status is ParameterError and code is not None else by_status
    return known


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date counts from the answer's own ``Date``, so that our clock does not matter."""
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until, sent = http_date(value), http_date(headers.get("date", ""))
    return max(0.0, (until - sent).total_seconds()) if until and sent else None


def http_date(value: str) -> datetime | None:
    """The time that a header such as ``Date`` names; None where it is none."""
    from email.utils import parsedate_to_datetime  # slow to import, and seldom needed

    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _described(reply: Response, body: bytes) -> str:
    if location := reply.headers.get("location"):
        return f"redirected to {_excerpt(location.encode(errors='replace'))}"
    return _excerpt(body)


def _excerpt(text: bytes, limit: int = 120) -> str:
    """One line of visible characters."""
    start = text[: 4 * limit].decode(errors="replace")
    line = " ".join("".join(each if each.isprintable() else " " for each in start).split())
    if len(line) > limit or len(text) > 4 * limit:
        line = f"{line[:limit]}…"
    return line or "an empty body"


def _request(request_id: str | None) -> str:
    return f" (request {request_id})" if request_id else ""

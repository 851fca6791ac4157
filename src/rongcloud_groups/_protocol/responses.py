"""Reads a response: the data of a successful one, or the error that it stands for."""

import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import force_setattr

from rongcloud_groups._http import Response
from rongcloud_groups._protocol.dialects import DIALECTS, Dialect
from rongcloud_groups._protocol.error_codes import NO_SUCH_API, error_code_for
from rongcloud_groups._protocol.repair import UNREADABLE, decode_repaired
from rongcloud_groups._protocol.strict import ReadEntries, ResponseReader, matched
from rongcloud_groups.errors import ConfigError, DecodeError, ServiceError
from rongcloud_groups.models import GroupProfile, ListedGroup

_Model = TypeVar("_Model", GroupProfile, ListedGroup)

_CODE: Final = msgspec.json.Decoder(int | str)
_TEXT: Final = msgspec.json.Decoder(str)
_PAGE_TOKEN: Final[msgspec.json.Decoder[str | int | None]] = msgspec.json.Decoder(str | int | None)
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SUCCESS_CODES: Final = frozenset(each.success_code for each in DIALECTS.values())
_ABSENT: Final = Raw(b"")


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
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope | None)


class TooLargeError(DecodeError):
    """The response has more bytes than could have been asked for; it will have them again."""


def read_entries(
    reader: ResponseReader[_Model], response: Response, requested: Sequence[str] | None, request_id: str | None
) -> ReadEntries[_Model]:
    """The models of the requested group IDs, in their order; of all, if None. Errors: see `ServiceApi.read_batch`."""
    try:
        body = _decode_content(response, max_body(reader.limit if requested is None else len(requested)))
        if response.status == 200 and (documented := reader.read(body, requested)):  # noqa: PLR2004  HTTP's OK
            return documented
        data = _data_in(response, body, reader.dialect, reader.list_key, request_id)
        entries = reader.read_entries(getattr(data, reader.list_key))
        page_token = None if requested else _page_token(data)
    except (ConfigError, DecodeError) as error:
        if not _is_success(response):  # an error counts by its status, if its body cannot be decoded
            raise _service_error(reader.dialect, response, _NOTHING, b"", request_id) from None
        if request_id:
            error.args = (f"{error} (request {request_id})",)
        raise
    readable = [entry for entry in entries if entry is not None]
    unreadable = len(entries) - len(readable)
    if requested is not None:
        group_ids, readable = matched([model.group_id for model in readable], readable, requested)
        for model, group_id in zip(readable, group_ids, strict=True):
            force_setattr(model, "group_id", group_id)  # so that an ID is in memory once
    return readable, unreadable, page_token


def max_body(entries: int) -> int:
    """The most bytes of a body, decompressed, with at most so many profiles or listed groups.

    A profile with every text at its documented length, all of it emoji, escaped twice, has 64 KiB. One entry may be
    larger than that, or the rest of the body, by 256 KiB.
    """
    return min((256 + 64 * entries) * 1024, 16 * 1024 * 1024)


def _decode_content(response: Response, limit: int) -> bytes:
    """The body without its content encoding; at most so many bytes."""
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
            raise DecodeError(f"content encoding {_excerpt(other.encode(errors='replace'))} is not known")
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


def _is_success(response: Response) -> bool:
    return 200 <= response.status < 300  # noqa: PLR2004  HTTP's class of success


def _page_token(data: _Envelope) -> str | int | None:
    try:
        return _PAGE_TOKEN.decode(data.page_token or b"null")
    except UNREADABLE:
        raise DecodeError("pageToken is not text") from None


def _data_in(response: Response, body: bytes, dialect: Dialect, list_key: str, request_id: str | None) -> _Envelope:
    """The object that holds the data of a successful response; errors are as for `read_entries`."""
    envelope = _envelope_of(body)
    code = _code_of(envelope)
    if not _is_success(response) or code not in {None, *_SUCCESS_CODES}:
        raise _service_error(dialect, response, envelope, body, request_id)
    if code is None:
        raise DecodeError(f"not a response of the service: {_excerpt(body)}")
    _check_dialect(dialect, code, envelope, list_key)
    if dialect.envelope is None:
        return envelope
    try:
        return decode_repaired(_ENVELOPE, getattr(envelope, dialect.envelope) or b"null") or _NOTHING
    except UNREADABLE:
        raise DecodeError(f"{dialect.envelope} is not an object") from None


def _envelope_of(body: bytes | Raw) -> _Envelope:
    try:
        return decode_repaired(_ENVELOPE, body) or _NOTHING
    except UNREADABLE:
        return _NOTHING


def _code_of(envelope: _Envelope) -> int | None:
    try:
        code = _CODE.decode(envelope.code)
    except UNREADABLE:
        return None
    if isinstance(code, int):
        return code
    text = code.strip()
    return int(text) if _INTEGER.fullmatch(text) else None


def _message_of(envelope: _Envelope, response: Response, body: bytes) -> str:
    for message in (envelope.error_message, envelope.msg, envelope.message):
        try:
            return _excerpt(_TEXT.decode(message).encode())
        except UNREADABLE:
            continue
    location = response.headers.get("location", "")
    return f"redirected to {_excerpt(location.encode(errors='replace'))}" if location else _excerpt(body)


def _check_dialect(dialect: Dialect, code: int, envelope: _Envelope, list_key: str) -> None:
    """Data in the place of the other dialect mean a wrong setting; a mere sign of it may be a proxy's, and pass."""
    other = dialect.other
    ours, theirs = (bool(getattr(envelope, each.envelope or list_key)) for each in (dialect, other))
    inside_theirs = envelope if other.envelope is None else _envelope_of(getattr(envelope, other.envelope))
    if not ours and getattr(inside_theirs, list_key):
        raise ConfigError(
            f"the service responds in the dialect {other.name!r}, not {dialect.name!r}: set {other.switch}"
        )
    if code != dialect.success_code or (theirs and not ours):
        raise DecodeError(
            f"code {code} and no data, or in another place, is not a response in the dialect {dialect.name!r}; if this "
            f"persists, try {other.switch}"
        )


def _service_error(
    dialect: Dialect, response: Response, envelope: _Envelope, body: bytes, request_id: str | None
) -> ServiceError:
    code, status = _code_of(envelope), response.status
    if code in _SUCCESS_CODES:  # an HTTP error whose body claims success
        code = None
    row = error_code_for(code, status)
    number = status if code is None else code
    message, hint = _message_of(envelope, response, body), row.hint
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


def _excerpt(text: bytes, limit: int = 120) -> str:
    """One line of visible characters."""
    start = text[: 4 * limit].decode(errors="replace")
    line = " ".join("".join(each if each.isprintable() else " " for each in start).split())
    if len(line) > limit or len(text) > 4 * limit:
        line = f"{line[:limit]}…"
    return line or "an empty body"

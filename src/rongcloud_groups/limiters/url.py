"""The words for a shared limiter, as ``RONGCLOUD_LIMITER`` has them."""

from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from rongcloud_groups.errors import ConfigError
from rongcloud_groups.limiters.host import HostLimiter
from rongcloud_groups.limiters.interface import Limiter


class SharedLimiter(Limiter, Protocol):
    """A limiter that shares its budget with other processes."""

    async def aclose(self) -> None:
        """Close what it holds open."""
        ...


def limiter_from_url(words: str, *, app_key: str, limit: float) -> SharedLimiter:
    """The limiter that is meant.

    Args:
        words: ``file:PATH``, or a Redis URL (``redis://…``, ``rediss://…``), where ``?share=0.25`` is the part of
            the limit for this process while Redis is away.
        app_key: the App Key whose budget it is.
        limit: requests/s that the service allows.

    Raises:
        ConfigError: the words mean no limiter, or one that cannot be used.
    """
    kind, _, rest = words.partition(":")
    if kind == "file" and rest:
        return HostLimiter(rest, limit)
    if kind in {"redis", "rediss"}:
        return _redis_limiter(words, app_key, limit)
    raise ConfigError(f"limiter {words!r} is not known; write file:PATH or redis://HOST:PORT/DATABASE")


def _redis_limiter(url: str, app_key: str, limit: float) -> SharedLimiter:
    try:
        from rongcloud_groups.limiters.redis import DEFAULT_SHARE, RedisLimiter
    except ImportError:
        raise ConfigError("a limiter in Redis needs the extra: pip install 'rongcloud-groups[redis]'") from None
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"the Redis URL cannot be read: {error}") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    text = options.pop("share", str(DEFAULT_SHARE))
    try:
        share = float(text)
    except ValueError:
        raise ConfigError(f"share is {text!r} in the Redis URL; give a number above 0 and not above 1") from None
    url = urlunsplit(parts._replace(query=urlencode(options)))
    return RedisLimiter(url, app_key=app_key, limit=limit, share=share)

"""Limiters named by a URL, as ``RONGCLOUD_LIMITER`` has them."""

from typing import Any
from urllib.parse import parse_qsl, urlencode

from rongcloud_groups._validation import extra_needed
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.limiters.host import HostLimiter
from rongcloud_groups.limiters.interface import SharedLimiter

REDIS_SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys")


def limiter_from_url(url: str, *, app_key: str, limit: float) -> SharedLimiter:
    """Make the limiter that a URL names.

    ``file:PATH`` is a `HostLimiter`. ``redis://USER:PASSWORD@HOST:PORT/DATABASE``, ``rediss://…`` and ``unix:///PATH``
    are a `RedisLimiter`, where ``?share=0.25`` is the part of the limit that this process may use while Redis is away:
    1 / the number of processes.

    Raises:
        ConfigError: the URL names no limiter, or one that cannot be used. No message has a user or password.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file" and rest:
        return HostLimiter(rest, limit)
    if scheme in REDIS_SCHEMES:
        return _redis_limiter(url, app_key, limit)
    named = f"limiter {scheme}:… is" if scheme.isalpha() and rest.startswith("//") else "this limiter is"
    if {"sentinel", "cluster"} & set(scheme.replace("+", "-").split("-")):
        raise ConfigError("Sentinel and Cluster URLs are not supported; give the URL of one Redis: redis://HOST:PORT")
    raise ConfigError(f"{named} not known; write file:PATH or redis://HOST:PORT/DATABASE")


def _redis_limiter(url: str, app_key: str, limit: float) -> SharedLimiter:
    try:
        from rongcloud_groups.limiters.redis import DEFAULT_SHARE, RedisLimiter
    except ImportError:
        raise ConfigError(extra_needed("a limiter in Redis", "redis")) from None
    place, _, query = url.partition("?")
    options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    share = options.pop("share", DEFAULT_SHARE)
    url = f"{place}?{urlencode(options)}" if options else place
    return RedisLimiter(url, app_key=app_key, limit=limit, share=share)

"""The connection to Redis or Valkey, a blocking client in its own thread; the scripts; and the server's clock.

A busy event loop then delays no call beyond the delivery of its result, and the times of a call are those of Redis
alone.
"""

from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from ssl import SSLCertVerificationError
from time import monotonic
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from rongcloud_groups.errors import ConfigError
from rongcloud_groups.limiters import schedule

TIMEOUT: Final = 0.5  # seconds that Redis has for one call
CLOCK_ERROR: Final = 0.001  # seconds by which a clock may be read wrongly, besides half the time of a call
CLOCK_STEP: Final = 0.5  # seconds; clocks that move apart by more at once were set
CONNECT_TIMEOUT: Final = 1.0  # seconds that a connection to Redis may take to open
SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
"""URL schemes that can be used, with their names in redis-py."""
_OWN_OPTIONS: Final = ("socket_timeout", "socket_connect_timeout", "retry", "retry_on_timeout", "retry_on_error")
"""Of redis-py; a URL may set the others."""
_REFUSED: Final = "refuses the URL's user or password"
_REASONS: Final = {
    exceptions.AuthenticationError: _REFUSED,
    exceptions.AuthorizationError: _REFUSED,
    exceptions.AuthenticationWrongNumberOfArgsError: _REFUSED,
    exceptions.NoPermissionError: "denies a permission that the budget needs (EVALSHA, SCRIPT LOAD, its keys)",
    exceptions.ReadOnlyError: "is a read-only replica, give the URL of its primary",
    exceptions.AskError: "is a node of a Redis Cluster, give the URL of a single Redis",
    SSLCertVerificationError: "has a certificate that is not trusted",
    exceptions.ResponseError: "cannot keep a budget, give the URL of Redis 6.2 or later or Valkey, and of no Sentinel",
}
_TRANSIENT: Final = (exceptions.ClusterDownError, exceptions.OutOfMemoryError, exceptions.TryAgainError)
_UNREADABLE: Final = (
    "the Redis URL cannot be read: write redis://USER:PASSWORD@HOST:PORT/DATABASE, and in USER and PASSWORD "
    "%2F for /, %40 for @, %3A for :, %3F for ?, %23 for #, %5B for ["
)
_TRANSIENT_CODES: Final = ("BUSY ", "MISCONF ", "NOREPLICAS ")

Reply = tuple[float, float, list[float]]
"""When a call left and came back, on `time.monotonic`, and the values that its script returned."""


def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


_VALUES: Final = {**vars(schedule), "CLOCK_STEP": CLOCK_STEP}
_CONSTANTS: Final = "".join(f"local {name} = {value}\n" for name, value in _VALUES.items() if name.isupper())
RESERVE: Final = _CONSTANTS + _source("budget.lua") + _source("reserve.lua")
REFUSED: Final = _CONSTANTS + _source("budget.lua") + _source("refused.lua")


class RedisConnection:
    """Runs scripts, one at a time.

    Attributes:
        name: host and port, or the socket's path; never the user or the password.

    Raises:
        ConfigError: the URL cannot be used. No message has any part of its user or password.
    """

    def __init__(self, url: str) -> None:
        url, self.name = _validated(url)
        try:
            self._redis = Redis.from_url(
                url,
                protocol=2,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=CONNECT_TIMEOUT,
                retry=Retry(NoBackoff(), 1, (exceptions.ConnectionError,)),
            )
        except ValueError as error:
            raise ConfigError(f"the Redis URL cannot be read: {error}") from None
        pool = self._redis.connection_pool
        self._secrets = [str(value) for name, value in pool.connection_kwargs.items() if "password" in name and value]
        try:
            pool.connection_class(**pool.connection_kwargs)  # redis-py checks the options when it makes a connection
        except (TypeError, AttributeError, ValueError, exceptions.RedisError) as error:
            raise ConfigError(f"an option of the Redis URL cannot be used: {self.describe(error)}") from None
        self.restart_thread()

    def restart_thread(self) -> None:
        """Use a new thread: after a fork there is none, and in another event loop the one there is may be busy."""
        self._thread = ThreadPoolExecutor(1, "rongcloud_groups redis")

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[float | str]) -> "Future[Reply]":
        """Start a script, whose reply ends in a `RedisError` or an `OSError` where there is none."""
        reply = get_running_loop().run_in_executor(self._thread, self._run, script, keys, arguments)
        reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())  # it may be of no use any more
        return reply

    def _run(self, script: str, keys: Sequence[str], arguments: Sequence[float | str]) -> Reply:
        registered = self._redis.register_script(script)
        sent_at = monotonic()
        values: Any = registered(keys=keys, args=arguments)
        return sent_at, monotonic(), [float(value) for value in values]

    async def disconnect(self) -> None:
        """Close the connection after the script that is running; the next script opens another one."""
        await get_running_loop().run_in_executor(self._thread, self._redis.close)

    async def aclose(self) -> None:
        """Close the connection for good."""
        await self.disconnect()
        self._thread.shutdown(wait=False)

    def describe(self, error: Exception) -> str:
        """The text of an error, which may quote the command sent, without the passwords."""
        text = str(error) or type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def misconfiguration(self, error: Exception) -> str | None:
        """The reason to give up where time cannot help; None where Redis may answer later."""
        text = self.describe(error)
        if isinstance(error, _TRANSIENT) or text.startswith(_TRANSIENT_CODES):
            return None
        kind: type[BaseException] = type(error)
        if isinstance(error.__context__, SSLCertVerificationError):
            kind = SSLCertVerificationError
        elif "unauthenticated" in text:  # Redis takes no long command of a client without a password
            kind = exceptions.AuthenticationError
        return next((f"{why}: {text}" for known, why in _REASONS.items() if issubclass(kind, known)), None)


class RedisClock:
    """Redis's clock, judged by the quickest of the latest calls: Redis read it halfway, give or take half the call."""

    MAX_CALLS = 16
    MAX_AGE = 60.0  # seconds, after which two clocks may have drifted apart

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float, float]] = deque(maxlen=self.MAX_CALLS)
        self._ahead = 0.0

    def note(self, sent_at: float, received_at: float, redis_time: float) -> float:
        """Take in a call and the time on Redis's clock in it.

        Returns:
            Seconds by which that clock was set since the last call; 0 where it was not.
        """
        round_trip = received_at - sent_at
        ahead = redis_time - (sent_at + received_at) / 2
        step = ahead - self._ahead if self._calls else 0.0
        if self._calls and abs(step) > (round_trip + min(self._calls)[0]) / 2 + CLOCK_ERROR:
            self._calls.clear()
        else:
            step = 0.0
        self._calls.append((round_trip, ahead, received_at))
        while self._calls[0][2] < received_at - self.MAX_AGE:
            self._calls.popleft()
        self._ahead = min(self._calls)[1]
        return step

    def now(self) -> float:
        """The time on it, in seconds."""
        return self.at(monotonic())

    def at(self, time: float) -> float:
        """The time on it when `time.monotonic` showed this one."""
        return time + self._ahead


def _validated(url: str) -> tuple[str, str]:
    """The URL as redis-py reads it, and the name of the place."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ConfigError(
            "a Redis URL starts with redis://, rediss:// or unix://; Sentinel and Cluster URLs are not supported"
        )
    try:
        url = f"{SCHEMES[scheme]}://{rest}"
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its text may quote the password
        raise ConfigError(_UNREADABLE) from None
    if parts.fragment or "@" in parts.path + parts.query:
        raise ConfigError(_UNREADABLE)
    for name in _OWN_OPTIONS:
        if name in parse_qs(parts.query, keep_blank_values=True):
            raise ConfigError(f"leave {name} out of the Redis URL: the limiter sets it")
    if parts.scheme == "unix":
        if host or not parts.path.strip("/"):
            raise ConfigError("the Redis URL names no socket: write unix:///PATH?db=DATABASE")
        return url, parts.path
    if not host:
        raise ConfigError(f"the Redis URL names no host: write {scheme}://HOST:PORT/DATABASE")
    if not (parts.path.strip("/").isdecimal() or parts.path in {"", "/"}):
        raise ConfigError(f"the database of the Redis URL is not a number: write {scheme}://HOST:PORT/DATABASE")
    shown = f"[{host}]" if ":" in host else host
    return url, shown if port is None else f"{shown}:{port}"

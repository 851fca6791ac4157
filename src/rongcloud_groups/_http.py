"""Plain values of HTTP: where a request goes, the request, its response."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Self

from rongcloud_groups.errors import ConfigError

if TYPE_CHECKING:  # here and below: imported with the first client
    from urllib.parse import SplitResult

_PORTS: Final = {"https": 443, "http": 80}
_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|[0-9a-f:.]*:[0-9a-f:.]*")


class Origin(NamedTuple):
    """Where requests go."""

    scheme: str
    host: str
    """As DNS and TLS want it: lower-case ASCII, without the brackets of an IPv6 address."""
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The origin in ``https://host[:port]`` or ``http://host[:port]``; any other text is a `ConfigError`."""
        shown = without_password(text)
        try:
            url, host = _split(text)
            port = url.port
        except (ValueError, TypeError, AttributeError):
            raise ConfigError(f"base URL {shown} cannot be read; write https://host[:port]") from None
        if url.scheme not in _PORTS or not host:
            raise ConfigError(f"base URL {shown} must start with https:// and name a host")
        if url.path not in {"", "/"} or url.query or url.fragment or "@" in url.netloc:
            raise ConfigError(f"base URL {shown} must be only https://host[:port]; the client adds the path")
        return cls(url.scheme, host, _PORTS[url.scheme] if port is None else port)

    @property
    def is_loopback(self) -> bool:
        """Whether requests stay on this machine."""
        from ipaddress import ip_address

        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host.rstrip(".").rpartition(".")[2] == "localhost"  # RFC 6761, section 6.3

    @property
    def authority(self) -> str:
        """The host, in brackets where it is an IPv6 address, and the port where it isn't the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


class Proxy:
    """An HTTP proxy. Its user and password are in no ``repr``, ``str`` or pickle.

    Attributes:
        origin: where it listens.
        headers: the fields that a request to it carries; they hold the password.
    """

    __slots__ = ("_no_proxy", "headers", "origin")

    def __init__(self, origin: Origin, headers: list[tuple[str, str]], no_proxy: str = "") -> None:
        self.origin = origin
        self.headers = headers
        self._no_proxy = no_proxy

    @classmethod
    def from_environment(cls) -> "Proxy | None":
        """The proxy in ``HTTPS_PROXY``, for all hosts but those in ``NO_PROXY``; None where there is none. See `of`."""
        proxy = cls.of(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or None)
        no_proxy = os.environ.get("NO_PROXY") or os.environ.get("no_proxy", "")
        return None if proxy is None else cls(proxy.origin, proxy.headers, no_proxy)

    def serves(self, origin: Origin) -> bool:
        """Whether connections to an origin go through it."""
        names = (f".{origin.host}", f".{origin.host}:{origin.port}")
        suffixes = [f".{name.strip().lower().lstrip('.')}" for name in self._no_proxy.split(",") if name.strip()]
        return not any(suffix == ".*" or name.endswith(suffix) for suffix in suffixes for name in names)

    @classmethod
    def of(cls, proxy: "str | Proxy | None") -> "Proxy | None":
        """The proxy in ``http://[user:password@]host[:port]``; any other text is a `ConfigError` without password."""
        if proxy is None or isinstance(proxy, Proxy):
            return proxy
        from base64 import b64encode
        from urllib.parse import unquote

        if isinstance(proxy, str) and proxy.startswith("http://"):
            userinfo, _, address = proxy.removeprefix("http://").rpartition("@")
            with suppress(ConfigError):
                origin = Origin.parse(f"http://{address}")
                credentials = b64encode(unquote(userinfo).encode()).decode()
                return cls(origin, [("proxy-authorization", f"Basic {credentials}")] if userinfo else [])
        raise ConfigError(f"proxy {without_password(proxy)} must be http://[user:password@]host[:port]")

    def __repr__(self) -> str:
        return f"<Proxy {self.origin}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a proxy may have a password, which is not pickled; set RONGCLOUD_PROXY instead")


def without_password(url: object) -> str:
    """The ``repr`` of a URL, or of anything else, without the user and password that it may hold."""
    text = repr(url)
    before, at, after = text.rpartition("@")
    if not at:
        return text
    scheme, slashes, _ = before.partition("//")
    return f"{scheme if slashes else ''}{slashes}…@{after}"


def _split(text: str) -> "tuple[SplitResult, str]":
    """A URL, and its host as DNS has it. Raises ValueError where it can be none."""
    from urllib.parse import urlsplit

    if not text.isprintable():
        raise ValueError(text)  # urlsplit would drop a line end silently
    url = urlsplit(text)
    host = url.hostname or ""
    if not host.isascii():
        import idna  # the library that httpx uses

        host = idna.encode(host, uts46=True).decode()
    if host and not _HOST.fullmatch(host):
        raise ValueError(host)
    return url, host


class Request(NamedTuple):
    """One POST, signed and encoded."""

    path: str
    headers: list[tuple[str, str]]
    """Lower-case names, without ``host`` and ``content-length``; the values may hold a signature, never a secret."""
    body: bytes
    request_id: str = ""
    """The value of ``X-Request-ID``."""


class Response(NamedTuple):
    """One whole response."""

    status: int
    headers: Mapping[str, str]
    """Lower-case names; of a repeated one, the last."""
    body: bytes
    """As it came: still with its ``content-encoding``."""

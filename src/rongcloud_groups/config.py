"""Regions, the options of a client, and their values in the environment."""

import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from rongcloud_groups._http import Origin, Proxy, without_password
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups._validation import at_least, boolean, instance_of, positive
from rongcloud_groups.cache import Cache
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.events import Hook
from rongcloud_groups.limiters.interface import Limiter

if TYPE_CHECKING:  # it imports httpx
    from rongcloud_groups._transport.httpx_adapter import TransportSource

Region = Literal["beijing", "singapore", "singapore-b", "north-america", "saudi-arabia"]
"""A name in `REGIONS`: a value of ``region=`` and ``RONGCLOUD_REGION``."""

DialectName = Literal["rongcloud", "nexconn"]
"""A value of ``dialect=`` and ``RONGCLOUD_DIALECT``."""

REGIONS: Mapping[str, tuple[str, str]] = {
    "beijing": ("https://api.rong-api.com", "https://api-b.rong-api.com"),
    "singapore": ("https://api.sg-light-api.com", "https://api-b.sg-light-api.com"),
    "singapore-b": ("https://api.sg-b-light-api.com", "https://api-b.sg-b-light-api.com"),
    "north-america": ("https://api.us-light-api.com", "https://api-b.us-light-api.com"),
    "saudi-arabia": ("https://api.sau-light-api.com", "https://api-b.sau-light-api.com"),
}
"""The data centers, each with its primary and its backup URL, as the service's base URL page lists them."""

_CONTEXT: Final = "an ssl.SSLContext, such as ssl.create_default_context(cafile=PATH), or None"


class Options(TypedDict, total=False):
    """The arguments of `GroupClient` that have a default."""

    region: Region
    base_urls: str | Sequence[str] | None
    dialect: DialectName
    rate: float
    limiter: Limiter | str | None
    guard: bool
    max_in_flight: int
    attempt_timeout: float
    deadline: float | None
    max_attempts: int
    outage_timeout: float
    requests_per_connection: int
    http2: bool
    verify: ssl.SSLContext | None
    proxy: str | Proxy | None
    allow_insecure: bool
    transport: "TransportSource | None"
    cache: Cache | None
    hooks: Sequence[Hook]


class AllOptions(Options, total=False):
    """The arguments of `GroupClient`, each of them optional, for `GroupClient.from_env`."""

    app_key: str
    app_secret: str | Secret


def check_options(options: Options) -> None:
    """Check the numbers, switches and objects among the options; one that cannot be used is a `ConfigError`."""
    positive("rate", options["rate"])
    positive("attempt_timeout", options["attempt_timeout"])
    if options["deadline"] is not None and options["deadline"] != inf:
        positive("deadline", options["deadline"])
    if options["outage_timeout"] != inf:
        positive("outage_timeout", options["outage_timeout"])
    at_least(1, "max_in_flight", options["max_in_flight"])
    at_least(1, "max_attempts", options["max_attempts"])
    at_least(2, "requests_per_connection", options["requests_per_connection"])
    boolean("guard", options["guard"])
    boolean("http2", options["http2"])
    instance_of((ssl.SSLContext, NoneType), "verify", options["verify"], _CONTEXT)
    instance_of((Cache, NoneType), "cache", options["cache"], "a Cache, or None")


def checked_origins(options: Options) -> list[Origin]:
    """The URLs to ask, primary first; one without encryption needs ``allow_insecure``, unless it is on this machine."""
    origins = resolved_base_urls(options["region"], options["base_urls"])
    allowed = boolean("allow_insecure", options["allow_insecure"])
    for origin in origins:
        stays_here = origin.is_loopback and options["proxy"] is None
        if origin.scheme == "http" and not stays_here and not allowed:
            raise ConfigError(
                f"base URL {str(origin)!r} would send the App Key and signatures unencrypted: use https://, or set "
                "allow_insecure=True (RONGCLOUD_ALLOW_INSECURE=1) for a network that you trust"
            )
    return origins


def resolved_base_urls(region: str, base_urls: str | Sequence[str] | None) -> list[Origin]:
    """The URLs to ask, primary first: ``base_urls``, or those of the region where there are none."""
    if base_urls is None:
        if not isinstance(region, str) or region not in REGIONS:
            raise ConfigError(f"region {region!r} is not known; the regions are {', '.join(REGIONS)}")
        base_urls = REGIONS[region]
    if not isinstance(base_urls, str | Sequence) or isinstance(base_urls, bytes | bytearray):
        raise ConfigError(f"base_urls is {without_password(base_urls)}; give a URL, or a list of them")
    origins = [Origin.parse(url) for url in ([base_urls] if isinstance(base_urls, str) else base_urls)]
    if not origins:
        raise ConfigError("base_urls is empty: give at least one URL, or leave it out and name the region")
    return origins


def options_from_environment() -> dict[str, Any]:
    """The arguments of `GroupClient` that the process's environment sets, ``app_key`` and ``app_secret`` always."""
    app_key = _variable("APP_KEY")
    if not app_key:
        raise ConfigError("the environment variable RONGCLOUD_APP_KEY is not set")
    options: dict[str, Any] = {"app_key": app_key, "app_secret": _secret()}
    for option in ("region", "dialect", "limiter", "proxy", "transport"):
        if value := _variable(option.upper()):
            options[option] = value
    for option in ("http2", "allow_insecure"):
        if value := _variable(option.upper()):
            options[option] = _switch(option.upper(), value)
    if urls := _variable("BASE_URL"):
        options["base_urls"] = [url.strip() for url in urls.split(",") if url.strip()]
    if rate := _variable("RATE"):
        try:
            options["rate"] = float(rate)
        except ValueError:
            raise ConfigError(f"RONGCLOUD_RATE is {rate!r}, not a number of requests a second") from None
    return options


def with_machine_budget(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a client, with a budget file of this user, App Key and service where they name no limiter.

    The file is in the user's runtime directory. A system without such a directory leaves the client without a limiter.
    """
    if options.get("limiter") is not None or options.get("transport") is not None:
        return dict(options)
    from rongcloud_groups.limiters.budget_file import default_budget_file
    from rongcloud_groups.limiters.host import HostLimiter

    with suppress(OSError, ConfigError):
        primary = resolved_base_urls(options.get("region", "beijing"), options.get("base_urls"))[0]
        path = default_budget_file(f"{options['app_key']} {primary}")
        HostLimiter(path, options.get("rate", 100.0))
        return {**options, "limiter": f"file:{path}"}
    return dict(options)


def _variable(name: str) -> str:
    return os.environ.get(f"RONGCLOUD_{name}", "").strip()


def _switch(name: str, value: str) -> bool:
    if value.lower() in {"1", "true", "yes", "on"}:
        return True
    if value.lower() in {"0", "false", "no", "off"}:
        return False
    raise ConfigError(f"RONGCLOUD_{name} is {value!r}; set it to 1 or 0")


def _secret() -> Secret:
    from pathlib import Path

    if secret := Secret(_variable("APP_SECRET")):
        return secret
    path = _variable("APP_SECRET_FILE")
    if not path:
        raise ConfigError("set the environment variable RONGCLOUD_APP_SECRET, or RONGCLOUD_APP_SECRET_FILE")
    try:
        secret = Secret(Path(path).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"RONGCLOUD_APP_SECRET_FILE: cannot read {path}: {error}") from None
    if not secret:
        raise ConfigError(f"RONGCLOUD_APP_SECRET_FILE: {path} is empty")
    return secret

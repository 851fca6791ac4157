"""Regions, credentials and what is read from the environment."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rongcloud_groups._http import Origin
from rongcloud_groups._protocol.api import sign
from rongcloud_groups.errors import ConfigError

REGIONS: Mapping[str, tuple[str, str]] = {
    "beijing": ("https://api.rong-api.com", "https://api-b.rong-api.com"),
    "singapore": ("https://api.sg-light-api.com", "https://api-b.sg-light-api.com"),
    "singapore-b": ("https://api.sg-b-light-api.com", "https://api-b.sg-b-light-api.com"),
    "north-america": ("https://api.us-light-api.com", "https://api-b.us-light-api.com"),
    "saudi-arabia": ("https://api.sau-light-api.com", "https://api-b.sau-light-api.com"),
}
"""The data centers, each with its primary and its backup URL, as the service's base URL page lists them."""


class Secret:
    """A string that no ``repr``, ``str``, ``format`` or pickle shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself; call it where it is used and keep the result in no variable."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: give the process that needs it its own")


class Credentials:
    """An App Key and what proves it.

    Args:
        app_key: the App Key.
        app_secret: its secret.

    Raises:
        ConfigError: one of them is empty, or no header can carry the key.
    """

    __slots__ = ("_app_secret", "app_key")

    def __init__(self, app_key: str, app_secret: Secret) -> None:
        if not isinstance(app_key, str) or not app_key:
            raise ConfigError("app_key is empty: give the App Key from the service's console")
        if not (app_key.isascii() and app_key.isprintable()) or " " in app_key:
            raise ConfigError(f"app_key {app_key!r} has a character that an App Key cannot have")
        if not isinstance(app_secret.reveal(), str):
            raise ConfigError(f"app_secret is of type {type(app_secret.reveal()).__name__}; give a str")
        if not app_secret:
            raise ConfigError("app_secret is empty: give the App Secret from the service's console")
        self.app_key = app_key
        self._app_secret = app_secret

    def signature(self, nonce: str, timestamp_ms: int) -> str:
        """The signature of one request; see `protocol.sign`."""
        return sign(self._app_secret.reveal(), nonce, timestamp_ms)

    def __repr__(self) -> str:
        return f"Credentials(app_key={self.app_key!r})"


def resolved_base_urls(region: str, base_urls: str | Sequence[str] | None) -> list[Origin]:
    """The URLs to ask, primary first.

    Args:
        region: a name in `REGIONS`; not looked at where ``base_urls`` is given.
        base_urls: the primary and then the backups, each ``https://host[:port]`` (or ``http://``), or just one.

    Raises:
        ConfigError: an unknown region, no URL, or one that is not such a URL.
    """
    if base_urls is None:
        if region not in REGIONS:
            raise ConfigError(f"region {region!r} is not known; the regions are {', '.join(REGIONS)}")
        base_urls = REGIONS[region]
    origins = [Origin.parse(url) for url in ([base_urls] if isinstance(base_urls, str) else base_urls)]
    if not origins:
        raise ConfigError("base_urls is empty: give at least one URL, or leave it out and name the region")
    return origins


def options_from_environment() -> dict[str, Any]:
    """The arguments of `GroupClient` that the process's environment sets.

    Returns:
        ``app_key`` and ``app_secret`` always, the others where they are set.

    Raises:
        ConfigError: a variable is missing or cannot be read; the message names it.
    """
    app_key = _variable("APP_KEY")
    if not app_key:
        raise ConfigError("the environment variable RONGCLOUD_APP_KEY is not set")
    options: dict[str, Any] = {"app_key": app_key, "app_secret": _secret()}
    for option in ("region", "dialect", "limiter"):
        if value := _variable(option.upper()):
            options[option] = value
    if urls := _variable("BASE_URL"):
        options["base_urls"] = [url.strip() for url in urls.split(",") if url.strip()]
    if rate := _variable("RATE"):
        try:
            options["rate"] = float(rate)
        except ValueError:
            raise ConfigError(f"RONGCLOUD_RATE is {rate!r}, not a number of requests a second") from None
    return options


def _variable(name: str) -> str:
    return os.environ.get(f"RONGCLOUD_{name}", "").strip()


def _secret() -> Secret:
    secret = Secret(_variable("APP_SECRET"))
    return secret or _secret_in_file()


def _secret_in_file() -> Secret:
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

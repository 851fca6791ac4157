"""The App Key and the signature of a request.

A traceback may show the locals of its frames, so a secret or a signature is never a plain str in one.
"""

import hashlib
import secrets
import time

from msgspec import Struct

from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups.errors import ConfigError


class Signature(str):
    """A signature, whose ``repr`` does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Signature(…)"


def sign(app_secret: Secret, nonce: str, timestamp_ms: int) -> Signature:
    """The signature of one request: lower-case hex SHA-1 of App Secret + nonce + timestamp, as UTF-8."""
    # surrogatepass: an encoding error would carry the secret in the exception
    digest = hashlib.sha1(app_secret.reveal().encode(errors="surrogatepass"), usedforsecurity=False)
    digest.update(f"{nonce}{timestamp_ms}".encode())
    return Signature(digest.hexdigest())


class Credentials(Struct, frozen=True):
    """An App Key and its secret; a ConfigError if one is empty, or no header can carry the key."""

    app_key: str
    app_secret: Secret

    def __post_init__(self) -> None:
        app_key, secret = self.app_key, self.app_secret
        if not isinstance(app_key, str):
            raise ConfigError(f"app_key is of type {type(app_key).__name__}; give a str")
        if not app_key:
            raise ConfigError("app_key is empty: give the App Key from the service's console")
        if not (app_key.isascii() and app_key.isprintable()) or " " in app_key:
            raise ConfigError(f"app_key {app_key!r} has a character that an App Key cannot have")
        if not isinstance(secret.reveal(), str):
            raise ConfigError(f"app_secret is of type {type(secret.reveal()).__name__}; give a str")
        if not secret:
            raise ConfigError("app_secret is empty: give the App Secret from the service's console")

    def headers(self) -> list[tuple[str, str]]:
        """The headers that sign one request; each attempt has new ones."""
        nonce, timestamp_ms = secrets.token_hex(8), time.time_ns() // 1_000_000  # a nonce has at most 18 characters
        return [
            ("app-key", self.app_key),
            ("nonce", nonce),
            ("timestamp", str(timestamp_ms)),
            ("signature", sign(self.app_secret, nonce, timestamp_ms)),
        ]

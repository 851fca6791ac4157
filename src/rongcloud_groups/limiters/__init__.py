"""Who may send, and when: the limiters of one client, of one machine, and of many machines."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from rongcloud_groups._validation import extra_needed
from rongcloud_groups.limiters.interface import Limiter
from rongcloud_groups.limiters.local import LocalLimiter

if TYPE_CHECKING:
    from rongcloud_groups.limiters.host import HostLimiter
    from rongcloud_groups.limiters.redis import RedisLimiter

__all__ = ["HostLimiter", "Limiter", "LocalLimiter", "RedisLimiter"]

_LATE: Final = {"HostLimiter": "host", "RedisLimiter": "redis"}  # few processes need them; the latter needs an extra


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "redis":
            raise
        raise ModuleNotFoundError(extra_needed(name, "redis"), name=missing.name) from None

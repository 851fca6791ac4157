"""Who may send, and when: the limiters of one client, of one machine, and of many machines."""

from typing import TYPE_CHECKING, Any

from rongcloud_groups.limiters.host import HostLimiter
from rongcloud_groups.limiters.interface import Limiter
from rongcloud_groups.limiters.local import LocalLimiter

if TYPE_CHECKING:
    from rongcloud_groups.limiters.redis import RedisLimiter

__all__ = ["HostLimiter", "Limiter", "LocalLimiter", "RedisLimiter"]


def __getattr__(name: str) -> Any:
    if name != "RedisLimiter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rongcloud_groups.limiters.redis import RedisLimiter  # needs an extra

    return RedisLimiter

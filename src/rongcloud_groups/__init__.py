"""Look up RongCloud / Nexconn group profiles by ID, any number of them, as fast as the service allows and no faster."""

from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups.cache import Cache, CacheInfo
from rongcloud_groups.client import GroupClient
from rongcloud_groups.config import REGIONS
from rongcloud_groups.errors import (
    AuthenticationError,
    ClientClosed,
    ConfigError,
    DeadlineExceeded,
    DecodeError,
    InvalidGroupId,
    ParameterError,
    RateLimited,
    RongCloudError,
    ServerError,
    ServiceError,
    ServiceNotEnabled,
    TransportError,
)
from rongcloud_groups.events import Event, Hook, Stats
from rongcloud_groups.limiters.interface import Limiter
from rongcloud_groups.limiters.local import LocalLimiter
from rongcloud_groups.lookup import Lookup
from rongcloud_groups.models import GroupProfile, InvitePerm, JoinPerm, MemProfilePerm, Permissions, Problem, RolePerm

__version__ = "0.2.0"

__all__ = [
    "REGIONS",
    "AuthenticationError",
    "Cache",
    "CacheInfo",
    "ClientClosed",
    "ConfigError",
    "DeadlineExceeded",
    "DecodeError",
    "Event",
    "GroupClient",
    "GroupProfile",
    "Hook",
    "InvalidGroupId",
    "InvitePerm",
    "JoinPerm",
    "Limiter",
    "LocalLimiter",
    "Lookup",
    "MemProfilePerm",
    "ParameterError",
    "Permissions",
    "Problem",
    "RateLimited",
    "RolePerm",
    "RongCloudError",
    "Secret",
    "ServerError",
    "ServiceError",
    "ServiceNotEnabled",
    "Stats",
    "TransportError",
]

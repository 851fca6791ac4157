"""The requests of a dialect, and its responses."""

from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.dialects import Dialect
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups._protocol.signing import Credentials

CREDENTIALS = Credentials("key1", Secret("secret1"))


def api(dialect: Dialect) -> ServiceApi:
    return ServiceApi(dialect, CREDENTIALS)

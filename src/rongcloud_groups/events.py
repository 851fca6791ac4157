"""The events inside a client, as frozen structs given to hooks, and the sums that `GroupClient.stats` returns."""

import logging
import os
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction

import msgspec

from rongcloud_groups.errors import ConfigError

logger = logging.getLogger("rongcloud_groups")


class Event(msgspec.Struct, frozen=True):
    """The base of all events; each kind is a subclass. Durations are in seconds."""


class TokenWaited(Event, frozen=True):
    """A request got its token from the rate limiter, which lets ``rate`` requests/s through now."""

    seconds: float
    rate: float


class BatchSent(Event, frozen=True):
    """A request left, with this many group IDs."""

    request_id: str
    host: str
    id_count: int


class BatchAnswered(Event, frozen=True):
    """A response came and was read."""

    request_id: str
    host: str
    found: int
    missing: int
    seconds: float


class BatchFailed(Event, frozen=True):
    """A request ended in an error; a `Retried` or `BatchSplit` follows if its IDs are sent again."""

    request_id: str
    host: str
    id_count: int
    error: Exception
    seconds: float


class BatchAbandoned(Event, frozen=True):
    """A request was abandoned in flight: no caller waits for its IDs any more, or the client is closed."""

    request_id: str
    host: str
    id_count: int
    seconds: float


class Retried(Event, frozen=True):
    """IDs went back to the front of their lane, to be sent again after ``delay``."""

    id_count: int
    delay: float


class BatchSplit(Event, frozen=True):
    """A batch went back as two halves: one of its IDs is at fault."""

    id_count: int


class CallEnded(Event, frozen=True):
    """A ``get`` or ``get_many`` returned, or raised ``error``; then the counts are 0.

    ``request_ids`` name the requests that served it: none where all came from the cache.
    The hooks are called in the task of the caller.
    """

    call: str
    found: int
    missing: int
    failed: int
    seconds: float
    error: BaseException | None
    request_ids: Sequence[str]


class ConnectionOpened(Event, frozen=True):
    """A connection is up."""

    host: str
    http_version: str
    seconds: float


class ConnectionRetired(Event, frozen=True):
    """A connection takes no more requests."""

    host: str
    requests: int
    reason: str


class ConnectFailed(Event, frozen=True):
    """A connection could not be opened."""

    host: str
    error: Exception


class HostSwitched(Event, frozen=True):
    """Requests go to another base URL from now on."""

    old: str
    new: str
    reason: str


class Throttled(Event, frozen=True):
    """The service said "over the rate limit": nothing leaves for ``pause``, then at ``rate`` requests/s."""

    pause: float
    rate: float


Hook = Callable[[Event], None]
"""Called with each event on the client's event loop, where it has to return quickly. Its exceptions are logged."""


class Stats(msgspec.Struct, frozen=True):
    """The sums of a client so far, and its state.

    Attributes:
        requests: requests sent.
        found: IDs that ended in a profile.
        missing: IDs that the service does not have.
        failed: IDs that ended in an error.
        group_ids_sent: IDs in those requests; divided by ``requests``, the fill of a batch.
        retried: IDs that were sent again.
        throttled: responses that said "over the rate limit".
        connections: connections opened.
        host_switches: how often the base URL in use changed.
        budget_wait: seconds that requests waited for their token, summed.
        waiting: IDs that wait for a request now.
        in_flight: requests in flight now.
        rate: requests/s that the limiter lets through now.
        host: the host in use.
    """

    requests: int
    found: int
    missing: int
    failed: int
    group_ids_sent: int
    retried: int
    throttled: int
    connections: int
    host_switches: int
    budget_wait: float
    waiting: int
    in_flight: int
    rate: float
    host: str


class Emitter:
    """Gives events to hooks. Test it for truth before making an event: it is false if there are no hooks.

    Where the level of the log is DEBUG when it is made, each request and call is logged.
    """

    __slots__ = ("_hooks",)

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = _checked(hooks)
        if logger.isEnabledFor(logging.DEBUG):
            self._hooks += (_log,)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def __call__(self, event: Event) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except (KeyboardInterrupt, SystemExit) as error:
                get_running_loop().call_soon(_raise, error)  # it ends the loop, but leaves no step half done
            except BaseException:
                logger.exception("the hook %r failed on %s", hook, type(event).__name__)


def log_as_the_environment_says() -> None:
    """Log to stderr from the level in ``RONGCLOUD_LOG`` on, or to the app's own handlers where it has some."""
    name = os.environ.get("RONGCLOUD_LOG", "").strip()
    if not name:
        return
    level = logging.getLevelNamesMapping().get(name.upper())
    if level is None:
        raise ConfigError(f"RONGCLOUD_LOG is {name!r}; set it to debug, info, warning or error")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logger.setLevel(level)


def _checked(hooks: object) -> tuple[Hook, ...]:
    if isinstance(hooks, str) or not isinstance(hooks, Sequence):
        raise ConfigError(f"hooks is {hooks!r}; give a list of functions, such as hooks=[print]")
    for hook in hooks:
        if not callable(hook):
            raise ConfigError(f"hooks has {hook!r} in it; give functions that take an event")
        if iscoroutinefunction(hook) or iscoroutinefunction(type(hook).__call__):
            raise ConfigError(f"hooks has {hook!r} in it, an async function, which would never run; give a plain one")
    return tuple(hooks)


def _log(event: Event) -> None:
    if isinstance(event, BatchSent | BatchAnswered | BatchFailed | BatchAbandoned | CallEnded):
        logger.debug("%r", event)


def _raise(error: BaseException) -> None:
    raise error

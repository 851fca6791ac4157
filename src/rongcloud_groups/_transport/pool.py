"""Which connection the next request takes: ready, spare or retiring; and which host."""

from asyncio import Event, Future, get_running_loop
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import anyio
from anyio.abc import TaskGroup

from rongcloud_groups._http import Origin, Request, Response
from rongcloud_groups._transport.interface import Connection
from rongcloud_groups.errors import TransportError
from rongcloud_groups.events import ConnectFailed, ConnectionOpened, ConnectionRetired, Emitter, HostSwitched, logger

IDLE_TIMEOUT = 55.0
"""Seconds. The service asks to close a connection that was idle for so long (its base URL page)."""
PROBE_AFTER = 60.0
"""Seconds from a switch to a backup until the primary is tried again, with one request."""
MAX_CONNECTIONS = 8
"""HTTP/2 connections to one host at the most, however few streams each allows."""
PACE_OVER = 20
"""Requests over which the present pace is measured."""
SPARE_PAUSE = 1.0
"""Seconds until a spare is tried again after a connection could not be opened."""

Connect = Callable[[Origin, Callable[[], None]], Awaitable[Connection]]
"""Opens a connection to a base URL; calls back when it may take more requests, or none any more."""


class Link:
    """One connection, and how much may still be asked of it."""

    __slots__ = ("_most", "_sent", "connection", "host", "idle_since", "left_behind", "retired_because")

    def __init__(
        self, connection: Connection, host: int, most: float, idle_since: float, sent: Callable[["Link"], None]
    ) -> None:
        self.connection = connection
        self.host = host
        self.idle_since: float | None = idle_since
        self.retired_because = ""
        self.left_behind = False
        self._most = most
        self._sent = sent

    @property
    def open_slots(self) -> int:
        """How many requests it may take right now."""
        return self.connection.open_slots if self.usable else 0

    @property
    def usable(self) -> bool:
        """Whether it will ever take another request."""
        return not self.retired_because and not self.connection.closed and self.connection.sent < self._most

    @property
    def left(self) -> float:
        """How many requests it will take yet."""
        return self._most - self.connection.sent if self.usable else 0

    def send(self, request: Request, timeout: float) -> Future[Response]:
        """Send at once; see `Connection.send`."""
        future = self.connection.send(request, timeout)
        self._sent(self)
        return future

    def retire(self, reason: str) -> None:
        """Take no more requests; what is in flight may end."""
        if not self.retired_because:
            self.retired_because = reason
            self.connection.retire()


class Links:
    """The connections to the host in use, one step ahead of what they are needed for.

    A link takes fewer than ``requests_per_connection`` requests and is let go after `IDLE_TIMEOUT` seconds
    without one, as the service asks; its successor is up before that. A host that fails is left for the next one
    at once, and the primary is probed with one request after ``probe_after``.

    Args:
        origins: the primary, then its backups.
        connect: opens one connection.
        emit: where events go.
        requests_per_connection: requests that a connection must not reach; None where it is not ours to say.
        max_in_flight: requests in flight at the most.
        probe_after: seconds.
        idle_timeout: seconds.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        connect: Connect,
        emit: Emitter,
        *,
        requests_per_connection: int | None,
        max_in_flight: int,
        probe_after: float = PROBE_AFTER,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        self._origins = origins
        self._hosts = [origin.authority for origin in origins]
        self._connect = connect
        self._emit = emit
        self._most = float("inf") if requests_per_connection is None else requests_per_connection - 1
        self._max_in_flight = max_in_flight
        self._probe_after = probe_after
        self._idle_timeout = idle_timeout
        self._current = 0
        self._links: list[Link] = []
        self._probe: Link | None = None
        self._probe_at = float("inf")
        self._connecting = 0
        self._spare_not_before = 0.0
        self._opening_takes = 0.0
        self._sent_at: deque[float] = deque(maxlen=PACE_OVER)
        self._unreachable: set[int] = set()
        self._failure: TransportError | None = None
        self._wanted = False
        self._changed = Event()
        self._tasks: TaskGroup | None = None
        self.opened = 0
        self.host_switches = 0

    @property
    def host(self) -> str:
        """The host in use."""
        return self.host_of(self._current)

    def host_of(self, index: int) -> str:
        """The host (and port) of one of the base URLs."""
        return self._hosts[index]

    async def run(self) -> None:
        """Open and retire links until cancelled; then close them all."""
        try:
            async with anyio.create_task_group() as self._tasks:
                await self._retire_idle()
        finally:
            self._tasks = None
            with anyio.CancelScope(shield=True):
                for link in list(self._links):
                    await link.connection.aclose()

    def pick(self) -> Link | None:
        """A link that can take a request in this very step."""
        if self._probe is not None and self._probe.open_slots:
            return self._probe
        for link in self._links:
            if link.host == self._current and link.open_slots:
                return link
        return None

    async def ready(self) -> None:
        """Wait until `pick` has a link.

        Raises:
            TransportError: no host could be reached; the next call tries them all again.
        """
        if self.pick():
            return
        self._failure = None
        self._wanted = True
        try:
            while not self.pick():
                self._changed.clear()
                self._connect_where_needed()
                await self._changed.wait()
                if self._failure is not None and not self.pick():
                    raise self._failure
        finally:
            self._wanted = False

    def distrust(self, link: Link, reason: str) -> None:
        """A request on this link failed in a way that speaks against its host: use the next one."""
        if link.left_behind or self._tasks is None:
            return
        if link.host == self._current:
            self._switch_from(self._current, reason)
        else:
            link.left_behind = True
            link.retire(f"probe failed: {reason}")
            self._probe_later()

    def trust(self, link: Link) -> None:
        """A request on this link was answered; where it was the probe of the primary, go back to it."""
        if link.host == 0 and self._current != 0 and not link.left_behind:
            self._use(0, "it answers again")

    def _switch_from(self, host: int, reason: str) -> None:
        if len(self._origins) > 1:
            self._use((host + 1) % len(self._origins), reason)

    def _use(self, host: int, reason: str) -> None:
        old, self._current = self._current, host
        for link in list(self._links):
            if link.host == old:
                self._leave(link)
        self.host_switches += 1
        self._probe_later()
        logger.warning("requests go to %s instead of %s now: %s", self.host, self.host_of(old), reason)
        if self._emit:
            self._emit(HostSwitched(self.host_of(old), self.host, reason))
        self._tend()

    def _leave(self, link: Link) -> None:
        link.left_behind = True
        link.retire(f"switched to {self.host}")

    def _probe_later(self) -> None:
        on_backup = self._current != 0
        self._probe_at = get_running_loop().time() + self._probe_after if on_backup else float("inf")

    def _sent_on(self, link: Link) -> None:
        now = get_running_loop().time()
        self._sent_at.append(now)
        link.idle_since = None
        if link is self._probe:
            self._probe = None
            self._probe_later()
        if not link.usable:
            link.retire(f"used for {link.connection.sent} requests")
        if now >= self._probe_at:
            self._probe_at = float("inf")
            self._start(self._open_probe)
        self._connect_where_needed()

    def _tend(self) -> None:
        """Something changed: forget closed links, open what is needed, wake whoever waits."""
        now = get_running_loop().time()
        for link in list(self._links):
            if link.connection.closed:
                self._forget(link)
            elif link.idle_since is None and not link.connection.in_flight:
                link.idle_since = now
        self._connect_where_needed()
        self._changed.set()

    def _forget(self, link: Link) -> None:
        self._links.remove(link)
        if self._tasks is not None:
            self._start(self._see_off, link)
        if link is self._probe:
            self._probe = None
            self._probe_later()
        reason = link.retired_because or link.connection.closed_reason
        logger.debug(
            "connection to %s closed after %d requests: %s", self.host_of(link.host), link.connection.sent, reason
        )
        if self._emit:
            self._emit(ConnectionRetired(self.host_of(link.host), link.connection.sent, reason))

    async def _see_off(self, link: Link) -> None:
        """Wait until it is closed; the end of `run` waits for that too."""
        with anyio.CancelScope(shield=True):
            await link.connection.aclose()

    def _connect_where_needed(self) -> None:
        if self._tasks is None:
            return
        usable = [link for link in self._links if link.host == self._current and link.usable]
        if self._wanted:
            if self._failure is None and not any(link.open_slots for link in usable) and self._may_grow(usable):
                self._start_opening()
        elif usable and self._connecting < MAX_CONNECTIONS and self._spare_is_due(usable):
            self._start_opening()

    def _spare_is_due(self, usable: list[Link]) -> bool:
        """Whether what the links will take yet may be used up before another one is open."""
        now = get_running_loop().time()
        pace = len(self._sent_at) / (now - self._sent_at[0]) if self._paced(now) else 0.0
        left = sum(link.left for link in usable) + self._connecting * self._most
        return left <= max(self._most / 2, 2 * self._opening_takes * pace) and now >= self._spare_not_before

    def _paced(self, now: float) -> bool:
        return len(self._sent_at) == self._sent_at.maxlen and now > self._sent_at[0]

    def _may_grow(self, usable: list[Link]) -> bool:
        http2 = any(link.connection.http_version == "HTTP/2" for link in usable)
        most = MAX_CONNECTIONS if http2 else self._max_in_flight
        if usable and get_running_loop().time() < self._spare_not_before:
            return False
        return len(usable) + self._connecting < most and self._connecting <= len(usable) // 2

    def _start_opening(self) -> None:
        self._connecting += 1
        self._start(self._open, self._current)

    def _start(self, task: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        assert self._tasks is not None, "requests are sent only while run() runs"  # noqa: S101  an invariant
        self._tasks.start_soon(task, *args)

    async def _open(self, host: int) -> None:
        """Open one of the connections counted in ``_connecting``."""
        try:
            link = await self._opened(host)
        except TransportError as error:
            self._could_not_open(host, error)
        else:
            self._unreachable.clear()
            self._links.append(link)
            if host != self._current:
                self._leave(link)
        finally:
            self._connecting -= 1
        self._tend()

    async def _opened(self, host: int) -> Link:
        started = get_running_loop().time()
        try:
            connection = await self._connect(self._origins[host], self._tend)
        except TransportError as error:
            logger.info("%s", error)
            if self._emit:
                self._emit(ConnectFailed(self.host_of(host), error))
            raise
        now = get_running_loop().time()
        self._opening_takes = now - started
        self.opened += 1
        logger.debug("connected to %s in %.3f s (%s)", self.host_of(host), now - started, connection.http_version)
        if self._emit:
            self._emit(ConnectionOpened(self.host_of(host), connection.http_version, now - started))
        return Link(connection, host, self._most, now, self._sent_on)

    def _could_not_open(self, host: int, error: TransportError) -> None:
        self._spare_not_before = get_running_loop().time() + SPARE_PAUSE
        if host != self._current or any(link.host == host and link.usable for link in self._links):
            return
        self._unreachable.add(host)
        self._switch_from(host, str(error))
        if self._current in self._unreachable:
            self._unreachable.clear()
            self._failure = error

    async def _open_probe(self) -> None:
        try:
            self._probe = await self._opened(0)
        except TransportError:
            self._probe_later()
        else:
            self._links.append(self._probe)
            self._tend()

    async def _retire_idle(self) -> None:
        while True:
            now = get_running_loop().time()
            idle = [link for link in self._links if link.usable and link.idle_since is not None]
            due = [link for link in idle if now - (link.idle_since or now) >= self._idle_timeout]
            if due:
                await self._replace(due)
            rest = [link.idle_since or now for link in idle if link not in due]
            await anyio.sleep_until(min(rest, default=now) + self._idle_timeout)

    async def _replace(self, due: list[Link]) -> None:
        """Let go of idle links; where they are all there is and were of use, only once another one is up."""
        others = any(link.usable and link.host == self._current and link not in due for link in self._links)
        if not others and any(link.connection.sent for link in due):
            self._connecting += 1
            await self._open(self._current)
        for link in due:
            link.retire(f"idle for {self._idle_timeout:g} s")

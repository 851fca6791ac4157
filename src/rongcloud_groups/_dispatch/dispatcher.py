"""The dispatcher: a ready link, a token, fifty IDs, sent in one step; then what the answer means."""

import logging
from asyncio import Event, Future, Lock, get_running_loop
from collections.abc import Callable, Coroutine
from functools import partial
from random import random
from typing import Any

import anyio
from anyio.abc import TaskGroup

from rongcloud_groups._dispatch.pending import Batch, PendingId, PendingQueue
from rongcloud_groups._http import Response
from rongcloud_groups._protocol.api import action_for, batch_request, read_batch
from rongcloud_groups._protocol.dialects import Dialect
from rongcloud_groups._protocol.signing import new_nonce
from rongcloud_groups._transport.pool import Link, Links
from rongcloud_groups.config import Credentials
from rongcloud_groups.errors import (
    DecodeError,
    Phase,
    RateLimited,
    RongCloudError,
    ServerError,
    ServiceError,
    TransportError,
)
from rongcloud_groups.events import (
    BatchAbandoned,
    BatchAnswered,
    BatchFailed,
    BatchSent,
    BatchSplit,
    Emitter,
    Retried,
    Throttled,
    TokenWaited,
    logger,
)
from rongcloud_groups.limiters.credit_guard import CreditGuard
from rongcloud_groups.limiters.interface import Limiter
from rongcloud_groups.lookup import Outcome

FIRST_BACK_OFF = 0.1
LONGEST_BACK_OFF = 5.0
"""Seconds; the n-th retry waits a random part of the n-th doubling (full jitter)."""
MOST_BOUNCES = 20
"""How often an ID may come back from requests that the server says it did not begin, at no cost of attempts."""
SAY_AGAIN_AFTER = 60.0
"""Seconds until a warning that still holds is repeated."""


class InFlight:
    """One request under way."""

    __slots__ = ("batch", "future", "host", "link", "request_id", "sent_at")

    def __init__(
        self, batch: Batch, link: Link, host: str, future: Future[Response], request_id: str, sent_at: float
    ) -> None:
        self.batch = batch
        self.link = link
        self.host = host
        self.future = future
        self.request_id = request_id
        self.sent_at = sent_at


class Dispatcher:
    """Sends what is pending as fast as the budget allows, and settles every ID that it took.

    Args:
        pending: where IDs wait.
        links: where requests leave.
        limiter: the budget.
        guard: proof of the budget on a path with jitter, or None.
        credentials: what signs requests.
        dialect: which of the service's two interfaces is spoken.
        emit: where events go.
        max_in_flight: requests under way at the most.
        attempt_timeout: seconds that one request may take.
        max_attempts: requests that may be lost on one ID.
    """

    def __init__(
        self,
        pending: PendingQueue,
        links: Links,
        limiter: Limiter,
        guard: CreditGuard | None,
        credentials: Credentials,
        dialect: Dialect,
        emit: Emitter,
        *,
        max_in_flight: int,
        attempt_timeout: float,
        max_attempts: int,
    ) -> None:
        self._pending = pending
        self._links = links
        self._limiter = limiter
        self._guard = guard
        self._credentials = credentials
        self._dialect = dialect
        self._emit = emit
        self._max_in_flight = max_in_flight
        self._attempt_timeout = attempt_timeout
        self._max_attempts = max_attempts
        self._flights: set[InFlight] = set()
        self._stirred = Event()
        self._readying = Lock()
        self._tasks: TaskGroup | None = None
        self._connect_failures = 0
        self._say_again_at = float("-inf")
        self._closed = False
        self._door_phase: Phase = "waiting for budget"
        self.requests = self.group_ids_sent = self.retried = self.throttled = 0
        self.budget_wait = 0.0

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._flights)

    def wake(self) -> None:
        """There may be something to send now."""
        self._stirred.set()

    def phase_of(self, group_id: str) -> Phase:
        """What an open ID waits for."""
        return self._door_phase if self._pending.waits(group_id) else "waiting for the service"

    async def link_ready(self) -> None:
        """Wait until a link can take a request; `Links.ready` takes one at a time.

        Raises:
            TransportError: no host could be reached.
        """
        async with self._readying:
            await self._links.ready()

    async def run(self) -> None:
        """Send until cancelled; then abandon what is in flight."""
        async with anyio.create_task_group() as self._tasks:
            try:
                while True:
                    await self._work_for_one_request()
                    if await self._connected():
                        await self._send_one()
            finally:
                self.close()

    def close(self) -> None:
        """Abandon what is in flight, and take no notice of what becomes of it."""
        self._closed = True
        for flight in list(self._flights):
            flight.future.cancel()

    async def _work_for_one_request(self) -> None:
        while not self._pending or len(self._flights) >= self._max_in_flight:
            self._door_phase = "waiting for the service" if self._pending else "waiting for budget"
            self._stirred.clear()
            await self._stirred.wait()

    async def _connected(self) -> bool:
        self._door_phase = "connecting"
        try:
            await self.link_ready()
        except TransportError as error:
            await self._could_not_connect(error)
            return False
        self._connect_failures = 0
        return True

    async def _could_not_connect(self, error: TransportError) -> None:
        """Everybody who waits lost one attempt, at once; then try again."""
        waiting = list(self._pending.waiting())
        for entry in waiting:
            entry.attempts += 1
        self._pending.settle(self._exhausted(waiting, error))
        self._connect_failures += 1
        await anyio.sleep(back_off(self._connect_failures))

    async def _send_one(self) -> None:
        """Nothing may be awaited between the token and the bytes."""
        clock = get_running_loop().time
        self._door_phase = "waiting for budget"
        waiting_since = clock()
        if self._guard is not None:
            await self._guard.acquire()
        await self._limiter.acquire()
        waited = clock() - waiting_since
        self.budget_wait += waited
        if self._emit:
            self._emit(TokenWaited(waited))
        link = None if self._closed else self._links.pick()
        batch = self._pending.take() if link is not None else None
        if link is None or batch is None:  # the connection went, or everybody left: the token is forgone
            if self._guard is not None:
                self._guard.restore()
            return
        self._send(link, batch)

    def _send(self, link: Link, batch: Batch) -> None:
        nonce = new_nonce()
        request = batch_request(self._dialect, self._credentials, batch.group_ids, nonce)
        future = link.send(request, self._attempt_timeout)
        host = self._links.host_of(link.host)
        flight = InFlight(batch, link, host, future, nonce.request_id, get_running_loop().time())
        batch.abandoned = future.cancel
        self._flights.add(flight)
        self.requests += 1
        self.group_ids_sent += len(batch)
        if self._emit:
            self._emit(BatchSent(nonce.request_id, host, len(batch)))
        future.add_done_callback(partial(self._on_response, flight))

    def _on_response(self, flight: InFlight, future: Future[Response]) -> None:
        self._flights.discard(flight)
        if self._guard is not None:
            self._guard.landed()
        if future.cancelled():
            self._abandoned(flight)
        else:
            self._handle(flight, future)
        self._stirred.set()

    def _handle(self, flight: InFlight, future: Future[Response]) -> None:
        error = future.exception()
        if self._closed:
            self._abandoned(flight)
            return
        try:
            if isinstance(error, RongCloudError):
                self._failed(flight, error)
            else:
                self._answered(flight, future.result())
        except Exception as fault:  # noqa: BLE001  a callback's error is only logged; this one ends the client
            self._start(_raise, fault)

    def _abandoned(self, flight: InFlight) -> None:
        if self._emit:
            seconds = get_running_loop().time() - flight.sent_at
            self._emit(BatchAbandoned(flight.request_id, flight.host, len(flight.batch), seconds))

    def _start(self, task: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        assert self._tasks is not None  # noqa: S101  answers come only inside run()
        self._tasks.start_soon(task, *args)

    def _answered(self, flight: InFlight, reply: Response) -> None:
        entries = flight.batch.entries
        try:
            answer = read_batch(self._dialect, reply, flight.batch.group_ids, flight.request_id)
        except RongCloudError as error:
            self._failed(flight, error)
            return
        self._links.trust(flight.link)
        if self._emit:
            seconds = get_running_loop().time() - flight.sent_at
            found, missing = len(answer.found), len(answer.missing)
            self._emit(BatchAnswered(flight.request_id, flight.host, found, missing, seconds))
        if not answer.unreadable:
            self._pending.settle((entry, answer.found.get(entry.group_id)) for entry in entries)
            return
        unreadable = set(answer.unreadable)
        readable = [entry for entry in entries if entry.group_id not in unreadable]
        self._pending.settle((entry, answer.found.get(entry.group_id)) for entry in readable)
        self._retry(
            [entry for entry in entries if entry.group_id in unreadable],
            DecodeError("the answer held a profile whose group ID cannot be read"),
        )

    def _failed(self, flight: InFlight, error: RongCloudError) -> None:
        entries = flight.batch.entries
        age = get_running_loop().time() - flight.sent_at
        if self._emit:
            self._emit(BatchFailed(flight.request_id, flight.host, len(entries), error, age))
        if isinstance(error, ServerError) or (isinstance(error, TransportError) and not error.never_processed):
            self._links.distrust(flight.link, str(error))
        elif isinstance(error, ServiceError):
            self._links.trust(flight.link)
        match action_for(error):
            case "fatal":
                self._abort_all(error)
            case "pause":
                assert isinstance(error, RateLimited)  # noqa: S101  nothing else pauses
                self.throttled += 1
                self._start(self._throttled, self._pending.rest(entries), error, age)
            case "bisect" if len(entries) > 1:
                logger.info("%s; asking for each half of the batch by itself", error)
                self._pending.requeue_halves(self._pending.rest(entries))
                if self._emit:
                    self._emit(BatchSplit(len(entries)))
                self._stirred.set()
            case "retry":
                self._retry(entries, error)
            case _:
                self._pending.settle((entry, error) for entry in entries)

    def _abort_all(self, error: RongCloudError) -> None:
        logger.error("no retry can mend this: %s", error)
        self._pending.abort(error)
        for flight in list(self._flights):
            flight.future.cancel()

    async def _throttled(self, resting: list[PendingId], error: RateLimited, age: float) -> None:
        pause = await self._limiter.throttle(error.retry_after, age)
        self._log_throttled(pause)
        if self._emit:
            self._emit(Throttled(pause, self._limiter.rate))
        self._put_back(resting)

    def _log_throttled(self, pause: float) -> None:
        now = get_running_loop().time()
        level = logging.WARNING if now >= self._say_again_at else logging.INFO
        if level == logging.WARNING:
            self._say_again_at = now + SAY_AGAIN_AFTER
        logger.log(
            level,
            "the service refused a request as over its rate limit, which this client keeps: something else uses the "
            "App Key %s too, or its limit is lower; nothing leaves for %.2f s, then %.0f requests/s at first",
            self._credentials.app_key,
            pause,
            self._limiter.rate,
        )

    def _retry(self, entries: list[PendingId], error: RongCloudError) -> None:
        for entry in entries:
            if isinstance(error, TransportError) and error.never_processed and entry.unprocessed < MOST_BOUNCES:
                entry.unprocessed += 1
            else:
                entry.attempts += 1
        self._pending.settle(self._exhausted(entries, error))
        resting = self._pending.rest(entry for entry in entries if entry.attempts < self._max_attempts)
        if not resting:
            return
        attempt = max(entry.attempts for entry in resting)
        delay = 0.0 if isinstance(error, TransportError) and attempt <= 1 else back_off(attempt)
        logger.info("asking for %d group IDs again in %.2f s: %s", len(resting), delay, error)
        if self._emit:
            self._emit(Retried(len(resting), delay))
        self.retried += len(resting)
        if delay:
            self._start(self._put_back_later, resting, delay)
        else:
            self._put_back(resting)

    def _exhausted(self, entries: list[PendingId], error: RongCloudError) -> list[tuple[PendingId, Outcome]]:
        """Those that have no attempt left, with what ended the last one."""
        return [(entry, error) for entry in entries if entry.attempts >= self._max_attempts]

    async def _put_back_later(self, entries: list[PendingId], delay: float) -> None:
        await anyio.sleep(delay)
        self._put_back(entries)

    def _put_back(self, entries: list[PendingId]) -> None:
        self._pending.requeue(entries)
        self._stirred.set()


async def _raise(fault: Exception) -> None:
    raise fault


def back_off(attempt: int) -> float:
    """Seconds to wait before the next attempt, after so many were lost."""
    return random() * min(LONGEST_BACK_OFF, FIRST_BACK_OFF * 2.0**attempt)

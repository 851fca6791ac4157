"""The dispatcher: a ready connection, a token, up to 50 IDs, sent in one step; then the response is handled."""

import logging
from asyncio import Event, Future, get_running_loop
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from rongcloud_groups._dispatch.connecting import ConnectionWait
from rongcloud_groups._dispatch.containment import contained
from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._dispatch.pending import Batch, PendingId, PendingQueue
from rongcloud_groups._dispatch.retry import MAX_BACK_OFF, MAX_UNDECODABLE, Attempts, RetryPolicy
from rongcloud_groups._http import Response
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.responses import BatchResult
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups._transport.pool import PooledConnection
from rongcloud_groups.errors import DecodeError, Phase, RateLimited, RongCloudError, ServiceError, TransportError
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

REPEAT_WARNING_AFTER = 60.0
"""Seconds until a warning that still holds is logged again."""


@dataclass(slots=True, eq=False)
class InFlight:
    """One request in flight."""

    batch: Batch
    connection: PooledConnection
    future: Future[Response]
    request_id: str
    sent_at: float
    cancelled: bool = False

    def cancel(self) -> None:
        """Abandon the request."""
        self.cancelled = True
        self.future.cancel()


class Dispatcher:
    """Sends the waiting IDs as fast as the budget allows, and settles every ID that it took.

    Args:
        pending: where IDs wait.
        failover: the connections.
        gate: when a request may leave.
        api: builds requests and reads responses.
        retry: what becomes of lost requests.
        emit: where events go.
        max_in_flight: the most requests in flight.
        attempt_timeout: seconds that one request may take.
    """

    def __init__(
        self,
        pending: PendingQueue,
        failover: Failover,
        gate: SendGate,
        api: ServiceApi,
        retry: RetryPolicy,
        emit: Emitter,
        *,
        max_in_flight: int,
        attempt_timeout: float,
    ) -> None:
        self._pending = pending
        self._failover = failover
        self._gate = gate
        self._api = api
        self._policy = retry
        self._emit = emit
        self._max_in_flight = max_in_flight
        self._attempt_timeout = attempt_timeout
        self._in_flight: dict[Batch, InFlight] = {}
        self._changed = Event()
        self._tasks: TaskGroup | None = None
        self._connecting = ConnectionWait(failover, retry, attempt_timeout)
        self._without_token = 0
        self._undecodable_in_a_row = 0
        self._pausing = 0
        self._warn_again_at = float("-inf")
        self._closed = False
        self._phase: Phase = "waiting for budget"
        self.requests = self.group_ids_sent = self.retried = self.throttled = 0
        self.budget_wait = 0.0

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return len(self._in_flight)

    def wake(self) -> None:
        """An ID may wait to be sent now."""
        self._changed.set()

    def phase_of(self, group_id: str) -> Phase:
        """What an open ID is waiting for."""
        if self._pending.in_flight(group_id):
            return "waiting for the service"
        if self._connecting.in_outage:
            return "connecting"
        if self._pausing or self._pending.waits(group_id) or not self._pending.is_open(group_id):
            return self._phase
        return "waiting for the service"

    async def run(self) -> None:
        """Send until cancelled; then abandon the requests in flight."""
        async with anyio.create_task_group() as self._tasks:
            try:
                while True:
                    await self._work_for_one_request()
                    if await self._connected():
                        await self._send_one()
            finally:
                self.close()

    def close(self) -> None:
        """Abandon the requests in flight, and ignore their responses."""
        self._closed = True
        self._cancel_all()

    def _cancel_all(self) -> None:
        for flight in list(self._in_flight.values()):
            flight.cancel()

    def _cancel(self, batch: Batch) -> None:
        if flight := self._in_flight.get(batch):
            flight.cancel()

    def __repr__(self) -> str:
        return f"<Dispatcher: {self.requests} requests sent, {self.in_flight} in flight, {self._phase}>"

    async def _work_for_one_request(self) -> None:
        while not self._pending or len(self._in_flight) >= self._max_in_flight:
            self._phase = "waiting for the service" if self._pending else "waiting for budget"
            if not self._pending.open:
                self._connecting.reset()
            self._changed.clear()
            await self._changed.wait()

    async def _connected(self) -> bool:
        if self._failover.pick() is not None:
            return True
        self._phase = "connecting"
        try:
            return await self._connecting.step(busy=bool(self._in_flight))
        except TransportError as error:
            self._fail_waiting(error)
            return False

    def _fail_waiting(self, error: RongCloudError) -> None:
        self._pending.settle([(entry, error) for entry in self._pending.waiting()])

    async def _send_one(self) -> None:
        """Nothing may be awaited between the token and the bytes."""
        self._phase = "waiting for budget"
        try:
            with contained(RongCloudError, "the rate limiter"):
                waited = await self._gate.wait()
        except RongCloudError as error:
            await self._no_token(error)
            return
        self._without_token = 0
        self.budget_wait += waited
        if self._emit:
            self._emit(TokenWaited(waited))
        connection = None if self._closed else self._failover.pick()
        batch = self._pending.take(self._cancel) if connection is not None else None
        if connection is not None and batch is not None:
            self._connecting.reset()
            self._send(connection, batch)
            return
        self._gate.unused()
        if connection is None:
            self._phase = "connecting"
            try:
                await self._connecting.wasted()
            except TransportError as error:
                self._fail_waiting(error)

    async def _no_token(self, error: RongCloudError) -> None:
        """The rate limiter failed: the next batch lost an attempt."""
        if self._policy.action(error) == "fatal":
            self._abort_all(error)
        elif batch := self._pending.take(self._cancel):
            self._retry(batch.entries, error)
        self._without_token += 1
        await anyio.sleep(self._policy.back_off(self._without_token))

    def _send(self, connection: PooledConnection, batch: Batch) -> None:
        try:
            with contained(RongCloudError, "building the request"):
                request = self._api.batch_request(batch.group_ids)
        except RongCloudError as error:
            self._gate.unused()
            self._bisect(batch.entries, error)
            return
        sent_at = get_running_loop().time()
        try:
            with contained(TransportError, f"sending to {connection.host}"):
                future = connection.send(request, self._attempt_timeout)
        except TransportError as error:
            self._gate.lost(connection.connection.delivered)
            self._failover.failed(connection, error)
            self._retry(batch.entries, error)
            return
        flight = self._in_flight[batch] = InFlight(batch, connection, future, request.request_id, sent_at)
        self.requests += 1
        self.group_ids_sent += len(batch)
        if self._emit:
            self._emit(BatchSent(request.request_id, connection.host, len(batch)))
        future.add_done_callback(partial(self._on_response, flight))

    def _on_response(self, flight: InFlight, future: Future[Response]) -> None:
        del self._in_flight[flight.batch]
        try:
            if future.cancelled() or future.exception() is not None:
                self._gate.lost(flight.connection.connection.delivered)
            else:
                self._gate.answered()
            if flight.cancelled or self._closed:
                self._abandoned(flight)
            else:
                self._handle(flight, future)
        except BaseException as fault:  # noqa: BLE001  a callback's error is only logged; this one ends the client
            self._start(_raise, fault)
        self._changed.set()

    def _handle(self, flight: InFlight, future: Future[Response]) -> None:
        try:
            with contained(TransportError, f"the request to {flight.connection.host}"):
                response = future.result()
            with contained(DecodeError, "reading the response"):
                answer = self._api.read_batch(response, flight.batch.group_ids, flight.request_id)
        except RongCloudError as error:
            self._failed(flight, error)
        else:
            self._answered(flight, answer)

    def _abandoned(self, flight: InFlight) -> None:
        if self._emit:
            seconds = get_running_loop().time() - flight.sent_at
            self._emit(BatchAbandoned(flight.request_id, flight.connection.host, len(flight.batch), seconds))

    def _start(self, task: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        assert self._tasks is not None  # noqa: S101  responses come only inside run()
        self._tasks.start_soon(task, *args)

    def _answered(self, flight: InFlight, answer: BatchResult) -> None:
        entries = flight.batch.entries
        self._failover.succeeded(flight.connection)
        if self._emit:
            seconds = get_running_loop().time() - flight.sent_at
            found, missing = len(answer.found), len(answer.missing)
            self._emit(BatchAnswered(flight.request_id, flight.connection.host, found, missing, seconds))
        if answer.found or answer.missing:
            self._undecodable_in_a_row = 0
        if not answer.unreadable:
            self._pending.settle((entry, answer.found.get(entry.group_id)) for entry in entries)
            return
        unreadable = set(answer.unreadable)
        readable = [entry for entry in entries if entry.group_id not in unreadable]
        self._pending.settle((entry, answer.found.get(entry.group_id)) for entry in readable)
        self._repeat(
            [entry for entry in entries if entry.group_id in unreadable],
            DecodeError("the response has a profile whose group ID cannot be read"),
        )

    def _failed(self, flight: InFlight, error: RongCloudError) -> None:
        entries = flight.batch.entries
        age = get_running_loop().time() - flight.sent_at
        if self._emit:
            self._emit(BatchFailed(flight.request_id, flight.connection.host, len(entries), error, age))
        self._failover.failed(flight.connection, error)
        match self._policy.action(error):
            case "fatal":
                self._abort_all(error)
            case "pause" if isinstance(error, ServiceError):
                self._refused(entries, error, age)
            case "repeat":
                self._repeat(entries, error)
            case "bisect":
                self._bisect(entries, error)
            case "retry" | "reconnect":
                self._retry(entries, error)
            case _:
                self._pending.settle((entry, error) for entry in entries)

    def _bisect(self, entries: list[PendingId], error: RongCloudError) -> None:
        """Find the ID at fault: send each half of the batch alone, down to one ID."""
        if len(entries) == 1:
            self._pending.settle((entry, error) for entry in entries)
            return
        logger.info("%s; sending each half of the batch alone", error)
        self._pending.requeue_halves(self._pending.rest(entries))
        if self._emit:
            self._emit(BatchSplit(len(entries)))
        self._changed.set()

    def _abort_all(self, error: RongCloudError) -> None:
        logger.error("not retryable: %s", error)
        self._pending.abort(error)
        self._cancel_all()

    def _repeat(self, entries: list[PendingId], error: RongCloudError) -> None:
        """An undecodable response: retry once, then bisect to the profile at fault."""
        self._undecodable_in_a_row += 1
        repeated = any(_attempts(entry).undecodable for entry in entries)
        for entry in entries:
            _attempts(entry).undecodable += 1
        if repeated and len(entries) > 1 and self._undecodable_in_a_row <= MAX_UNDECODABLE:
            self._bisect(entries, error)
        else:
            self._retry(entries, error)

    def _refused(self, entries: list[PendingId], error: ServiceError, age: float) -> None:
        self.throttled += isinstance(error, RateLimited)
        now = get_running_loop().time()
        waits = [self._policy.count_refusal(_attempts(entry), error, now) for entry in entries]
        resting = self._pending.rest(entries)
        if any(waits):
            self._start(self._throttled, resting, error, age)
        else:
            self._requeue(resting)

    async def _throttled(self, resting: list[PendingId], error: ServiceError, age: float) -> None:
        self._pausing += 1
        try:
            with contained(RongCloudError, "the rate limiter"):
                pause = await self._gate.throttle(error.retry_after, age)
                rate = self._gate.rate
        except RongCloudError as fault:
            logger.warning("%s; pausing", fault)
            pause, rate = MAX_BACK_OFF, 0.0
            await anyio.sleep(pause)
        finally:
            self._pausing -= 1
        self._log_throttled(error, pause, rate)
        if self._emit:
            self._emit(Throttled(pause, rate))
        resumes_at = get_running_loop().time() + pause
        self._pending.settle(
            [(each, error) for each in resting if self._policy.refused_too_long(_attempts(each), resumes_at)]
        )
        self._requeue(resting)

    def _log_throttled(self, error: ServiceError, pause: float, rate: float) -> None:
        now = get_running_loop().time()
        level = logging.WARNING if now >= self._warn_again_at else logging.INFO
        if level == logging.WARNING:
            self._warn_again_at = now + REPEAT_WARNING_AFTER
        cause = f"the service is not available: {error}"
        if isinstance(error, RateLimited):
            cause = "rate limited although this client is within its limit; "
            cause += f"App Key {self._api.credentials.app_key} probably has another consumer"
        logger.log(level, "%s. Pausing for %.2f s, then resuming at %.0f requests/s", cause, pause, rate)

    def _retry(self, entries: list[PendingId], error: RongCloudError) -> None:
        for entry in entries:
            self._policy.count(_attempts(entry), error)
        self._fail_exhausted(entries, error)
        resting = self._pending.rest(entries)
        if not resting:
            return
        lost = max(_attempts(entry).lost for entry in resting)
        delay = self._policy.delay(lost, error)
        logger.info("retrying %d group IDs in %.2f s: %s", len(resting), delay, error)
        if self._emit:
            self._emit(Retried(len(resting), delay))
        self.retried += len(resting)
        if delay:
            self._start(self._requeue_later, resting, delay)
        else:
            self._requeue(resting)

    def _fail_exhausted(self, entries: list[PendingId], error: RongCloudError) -> None:
        """Settle the entries that have no attempt left with the error that ended the last one."""
        self._pending.settle([(entry, error) for entry in entries if self._policy.exhausted(_attempts(entry))])

    async def _requeue_later(self, entries: list[PendingId], delay: float) -> None:
        await anyio.sleep(delay)
        self._requeue(entries)

    def _requeue(self, entries: list[PendingId]) -> None:
        self._pending.requeue(entries)
        self._changed.set()


def _attempts(entry: PendingId) -> Attempts:
    entry.attempts = entry.attempts or Attempts()
    return entry.attempts


async def _raise(fault: BaseException) -> None:
    raise fault

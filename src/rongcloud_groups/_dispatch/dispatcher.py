"""The dispatcher: a ready connection, a token, up to 50 IDs, sent in one step; then the response is handled."""

import logging
from asyncio import Event, Future, get_running_loop
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from rongcloud_groups._dispatch.containment import contained
from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._dispatch.pending import Batch, PendingId, PendingQueue
from rongcloud_groups._dispatch.retry import Attempts, RetryPolicy
from rongcloud_groups._http import Response
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.responses import BatchResult
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups._transport.pool import PooledConnection
from rongcloud_groups.errors import DecodeError, Phase, RateLimited, RongCloudError, TransportError
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

CLOSED_BEFORE_SENT = "the connection closed before the request could be sent"
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
        self._connect_failures = 0
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
        return self._phase if self._pending.waits(group_id) else "waiting for the service"

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
            self._changed.clear()
            await self._changed.wait()

    async def _connected(self) -> bool:
        self._phase = "connecting"
        try:
            await self._failover.ready()
        except TransportError as error:
            await self._could_not_connect(error)
            return False
        return True

    async def _could_not_connect(self, error: TransportError) -> None:
        """Charge one attempt to every waiting ID, back off, reconnect."""
        waiting = list(self._pending.waiting())
        for entry in waiting:
            _attempts(entry).lost += 1
        self._fail_exhausted(waiting, error)
        self._connect_failures += 1
        await anyio.sleep(self._policy.back_off(self._connect_failures))

    async def _send_one(self) -> None:
        """Nothing may be awaited between the token and the bytes."""
        self._phase = "waiting for budget"
        waited = await self._gate.wait()
        self.budget_wait += waited
        if self._emit:
            self._emit(TokenWaited(waited))
        connection = None if self._closed else self._failover.pick()
        batch = self._pending.take(self._cancel) if connection is not None else None
        if connection is None or batch is None:  # connection lost, or no caller left
            self._gate.unused()
            if connection is None:
                await self._could_not_connect(TransportError(CLOSED_BEFORE_SENT, never_processed=True))
            return
        self._connect_failures = 0
        self._send(connection, batch)

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
        if future.cancelled() or future.exception() is not None:
            self._gate.lost(flight.connection.connection.delivered)
        else:
            self._gate.answered()
        try:
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
        if not answer.unreadable:
            self._pending.settle((entry, answer.found.get(entry.group_id)) for entry in entries)
            return
        unreadable = set(answer.unreadable)
        readable = [entry for entry in entries if entry.group_id not in unreadable]
        self._pending.settle((entry, answer.found.get(entry.group_id)) for entry in readable)
        self._retry(
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
            case "pause":
                assert isinstance(error, RateLimited)  # noqa: S101  nothing else pauses
                self.throttled += 1
                self._start(self._throttled, self._pending.rest(entries), error, age)
            case "bisect":
                self._bisect(entries, error)
            case "retry" | "repeat" | "reconnect":
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

    async def _throttled(self, resting: list[PendingId], error: RateLimited, age: float) -> None:
        pause = await self._gate.throttle(error.retry_after, age)
        self._log_throttled(pause)
        if self._emit:
            self._emit(Throttled(pause, self._gate.rate))
        self._requeue(resting)

    def _log_throttled(self, pause: float) -> None:
        now = get_running_loop().time()
        level = logging.WARNING if now >= self._warn_again_at else logging.INFO
        if level == logging.WARNING:
            self._warn_again_at = now + REPEAT_WARNING_AFTER
        logger.log(
            level,
            "rate limited although this client is within its limit; App Key %s probably has another consumer. "
            "Pausing for %.2f s, then resuming at %.0f requests/s",
            self._api.credentials.app_key,
            pause,
            self._gate.rate,
        )

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
        self._pending.settle((entry, error) for entry in entries if self._policy.exhausted(_attempts(entry)))

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

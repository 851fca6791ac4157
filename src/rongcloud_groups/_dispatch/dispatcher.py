"""The dispatcher: a ready connection, a token, up to 50 IDs, sent in one step; then the response is handled."""

from asyncio import Future, get_running_loop, wait
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from rongcloud_groups._dispatch.connecting import ConnectionWait
from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._dispatch.lanes import Batch
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._dispatch.recovery import Recovery
from rongcloud_groups._dispatch.retry import RetryPolicy
from rongcloud_groups._http import Response
from rongcloud_groups._protocol.api import BatchResult, ServiceApi
from rongcloud_groups._transport.containment import contained
from rongcloud_groups._transport.failover import Failover
from rongcloud_groups._transport.interface import Connection
from rongcloud_groups.errors import DecodeError, Phase, RongCloudError, TransportError
from rongcloud_groups.events import (
    BatchAbandoned,
    BatchAnswered,
    BatchFailed,
    BatchSent,
    Emitter,
    Stats,
    TokenWaited,
    logger,
)


class InFlight(Struct, eq=False):
    """One request in flight."""

    batch: Batch
    connection: Connection
    future: Future[Response]
    sent_at: float
    cancelled: bool = False

    @property
    def age(self) -> float:
        return get_running_loop().time() - self.sent_at

    def cancel(self) -> None:
        self.cancelled = True
        self.future.cancel()


class Dispatcher:
    """Sends the waiting IDs as fast as the budget allows, and settles every ID that it took."""

    def __init__(
        self,
        pending: PendingQueue,
        failover: Failover,
        gate: SendGate,
        api: ServiceApi,
        policy: RetryPolicy,
        emit: Emitter,
        max_in_flight: int,
    ) -> None:
        self._pending = pending
        self._failover = failover
        self._gate = gate
        self._api = api
        self._policy = policy
        self._emit = emit
        self._max_in_flight = max_in_flight
        self._in_flight: dict[Batch, InFlight] = {}
        self._tasks: TaskGroup | None = None
        self._connecting = ConnectionWait(failover, policy)
        self._recovery = Recovery(pending, gate, policy, emit, api.credentials.app_key, self._start)
        self._phase: Phase = "waiting for budget"
        self._without_token = 0
        self._requests = self._group_ids_sent = 0
        self._budget_wait = 0.0

    def stats(self) -> Stats:
        return Stats(
            requests=self._requests,
            found=self._pending.found,
            missing=self._pending.missing,
            failed=self._pending.failed,
            group_ids_sent=self._group_ids_sent,
            retried=self._recovery.retried,
            throttled=self._recovery.throttled,
            connections=self._failover.opened,
            host_switches=self._failover.switches,
            budget_wait=self._budget_wait,
            waiting=len(self._pending),
            in_flight=len(self._in_flight),
            rate=self._gate.rate,
            host=self._failover.host,
        )

    def phase_of(self, group_id: str) -> Phase:
        """The phase that an ID is in, or would be in if it were looked up now."""
        if self._pending.in_flight(group_id):
            return "waiting for the service"
        if self._connecting.in_outage:
            return "connecting"
        rests = self._pending.is_open(group_id) and not self._pending.is_queued(group_id)
        return "waiting for the service" if rests and not self._recovery.pausing else self._phase

    async def run(self) -> None:
        """Send until cancelled; then abandon the requests in flight."""
        async with anyio.create_task_group() as self._tasks:
            try:
                while True:
                    await self._work_for_one_request()
                    try:
                        if await self._connected():
                            await self._send_one()
                    except TransportError as error:
                        self._pending.settle((entry, error) for entry in self._pending.waiting())
            finally:
                self.close()

    def close(self) -> None:
        for flight in list(self._in_flight.values()):
            flight.cancel()

    def __repr__(self) -> str:
        return f"<Dispatcher: {self._requests} requests sent, {len(self._in_flight)} in flight, {self._phase}>"

    async def _work_for_one_request(self) -> None:
        while not self._pending or len(self._in_flight) >= self._max_in_flight:
            self._phase = "waiting for the service" if self._pending else "waiting for budget"
            if not self._pending.open:
                self._connecting.reset()
            self._pending.changed.clear()
            await self._pending.changed.wait()

    async def _connected(self) -> bool:
        if self._failover.pick() is not None:
            return True
        self._phase = "connecting"
        return await self._connecting.step(busy=bool(self._in_flight))

    async def _send_one(self) -> None:
        """Nothing may be awaited between the token and the bytes."""
        self._phase = "waiting for budget"
        try:
            with contained(RongCloudError, "the rate limiter"):
                waited = await (self._gate.wait() if self._gate.rate >= 1 else self._slow_token())
        except RongCloudError as error:
            await self._no_token(error)
            return
        self._without_token = 0
        self._budget_wait += waited
        if self._emit:
            self._emit(TokenWaited(waited, self._gate.rate))
        connection = self._failover.pick()
        if connection is None:
            self._gate.unused()
            self._phase = "connecting"
            await self._connecting.wasted()
        elif (batch := self._pending.take(self._cancel)) is not None:
            self._connecting.reset()
            self._send(connection, batch)
        else:
            self._gate.unused()

    async def _slow_token(self) -> float:
        """Wait for a token that may take longer than a connection may be idle; one that closes is replaced."""
        keeping = get_running_loop().create_task(self._connecting.keep())
        try:
            return await self._gate.wait()
        finally:
            keeping.cancel()
            await wait([keeping])

    async def _no_token(self, error: RongCloudError) -> None:
        """The rate limiter failed: count it as a lost attempt of the next batch, and back off."""
        if self._policy.action(error) == "fatal":
            self._abort_all(error)
        elif batch := self._pending.take(self._cancel):
            self._recovery.retry(self._pending.entries(batch), error)
        self._without_token += 1
        await anyio.sleep(self._policy.back_off(self._without_token))

    def _send(self, connection: Connection, batch: Batch) -> None:
        try:
            with contained(RongCloudError, "building the request"):
                request = self._api.batch_request(batch.group_ids)
        except RongCloudError as error:
            self._gate.unused()
            self._recovery.bisect(self._pending.entries(batch), error)
            return
        sent_at = get_running_loop().time()
        try:
            with contained(TransportError, f"sending to {connection.host}"):
                future = self._failover.send(connection, request, self._policy.attempt_timeout)
        except TransportError as error:
            self._gate.lost(connection.delivered)
            self._failover.failed(connection, error)
            self._recovery.retry(self._pending.entries(batch), error)
            return
        self._gate.sent()
        flight = self._in_flight[batch] = InFlight(batch, connection, future, sent_at)
        batch.request_id = request.request_id
        self._requests += 1
        self._group_ids_sent += len(batch)
        if self._emit:
            self._emit(BatchSent(request.request_id, connection.host, len(batch)))
        future.add_done_callback(partial(self._on_response, flight))

    def _on_response(self, flight: InFlight, future: Future[Response]) -> None:
        del self._in_flight[flight.batch]
        try:
            if future.cancelled() or future.exception() is not None:
                self._gate.lost(flight.connection.delivered)
            else:
                self._gate.answered()
            if not flight.cancelled:
                self._handle(flight, future)
            else:
                batch = flight.batch
                self._emit(BatchAbandoned(batch.request_id, flight.connection.host, len(batch), flight.age))
        except BaseException as fault:  # noqa: BLE001  a callback's error is only logged; this one ends the client
            self._start(_raise, fault)
        self._pending.changed.set()

    def _handle(self, flight: InFlight, future: Future[Response]) -> None:
        try:
            with contained(TransportError, f"the request to {flight.connection.host}"):
                response = future.result()
            with contained(DecodeError, "reading the response"):
                result = self._api.read_batch(response, flight.batch.group_ids, flight.batch.request_id)
        except RongCloudError as error:
            logger.debug("a request failed", exc_info=error)
            drop_frames(error)
            self._failed(flight, error)
        else:
            self._answered(flight, result)

    def _answered(self, flight: InFlight, result: BatchResult) -> None:
        self._failover.succeeded(flight.connection)
        if self._emit:
            found, missing = len(result.found), len(result.missing)
            self._emit(BatchAnswered(flight.batch.request_id, flight.connection.host, found, missing, flight.age))
        if result.found or result.missing:
            self._recovery.undecodable_in_a_row = 0
        if not result.unreadable:
            self._pending.settle_batch(flight.batch, result.found)
            return
        entries = {entry.group_id: entry for entry in self._pending.entries(flight.batch)}
        unreadable = [entries.pop(group_id) for group_id in result.unreadable if group_id in entries]
        outcomes = [(entry, result.found.get(group_id)) for group_id, entry in entries.items()]
        self._pending.settle(outcomes, flight.batch.request_id)
        error = DecodeError("the response has a profile whose group ID cannot be read")
        error.request_id = flight.batch.request_id
        self._recovery.repeat(unreadable, error)

    def _failed(self, flight: InFlight, error: RongCloudError) -> None:
        error.request_id = error.request_id or flight.batch.request_id
        age = flight.age
        self._emit(BatchFailed(flight.batch.request_id, flight.connection.host, len(flight.batch), error, age))
        self._failover.failed(flight.connection, error)
        if self._policy.action(error) == "fatal":
            self._abort_all(error)
        else:
            self._recovery.recover(self._pending.entries(flight.batch), error, age)

    def _abort_all(self, error: RongCloudError) -> None:
        logger.error("not retryable: %s", error)
        self._pending.abort(error)
        self.close()

    def _cancel(self, batch: Batch) -> None:
        if flight := self._in_flight.get(batch):
            flight.cancel()

    def _start(self, task: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        assert self._tasks is not None  # noqa: S101  responses come only inside run()
        self._tasks.start_soon(task, *args)


def drop_frames(error: BaseException) -> None:
    """Drop the frames of an error and of its causes: they would hold the response for as long as a caller has it."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__


async def _raise(fault: BaseException) -> None:
    raise fault

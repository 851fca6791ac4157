"""Recovers the IDs of lost requests: they are retried, bisected, held back, or failed."""

import logging
from asyncio import get_running_loop, sleep
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rongcloud_groups._dispatch.gate import SendGate
from rongcloud_groups._dispatch.lanes import PendingId
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._dispatch.retry import MAX_BACK_OFF, MAX_UNDECODABLE, RetryPolicy
from rongcloud_groups._protocol.responses import TooLargeError
from rongcloud_groups._transport.containment import contained
from rongcloud_groups.errors import RateLimited, RongCloudError, ServiceError
from rongcloud_groups.events import BatchSplit, Emitter, Retried, Throttled, logger

REPEAT_WARNING_AFTER: Final = 60.0
"""Seconds until a warning that still holds is logged again."""


@dataclass(eq=False, repr=False, slots=True)
class Recovery:
    """Returns the IDs of lost requests to the queue, or settles them, as the `RetryPolicy` decides.

    Attributes:
        undecodable_in_a_row: responses.
        pausing: refused requests that wait for the limiter to say how long.
        retried: IDs, so far.
        throttled: requests that were over the rate, so far.
    """

    _pending: PendingQueue
    _gate: SendGate
    _policy: RetryPolicy
    _emit: Emitter
    _app_key: str
    _start: Callable[..., None]
    _warn_again_at: float = field(default=float("-inf"), init=False)
    undecodable_in_a_row: int = field(default=0, init=False)
    pausing: int = field(default=0, init=False)
    retried: int = field(default=0, init=False)
    throttled: int = field(default=0, init=False)

    def recover(self, entries: list[PendingId], error: RongCloudError, age: float) -> None:
        """Handle a request that failed, ``age`` seconds after it was sent."""
        match self._policy.action(error):
            case "pause" if isinstance(error, ServiceError):
                self._refused(entries, error, age)
            case "repeat":
                self.repeat(entries, error)
            case "bisect":
                self.bisect(entries, error)
            case "retry" | "reconnect":
                self.retry(entries, error)
            case _:
                self._pending.settle((entry, error) for entry in entries)

    def bisect(self, entries: list[PendingId], error: RongCloudError) -> None:
        """Find the ID at fault: send each half of the batch alone, down to one ID."""
        if len(entries) == 1:
            self._pending.settle((entry, error) for entry in entries)
            return
        logger.info("%s; sending each half of the batch alone", error)
        self._pending.requeue_halves(self._pending.withdraw(entries))
        self._emit(BatchSplit(len(entries)))

    def repeat(self, entries: list[PendingId], error: RongCloudError) -> None:
        """An undecodable response: retry once, then bisect to the profile at fault."""
        self.undecodable_in_a_row += 1
        repeated = any(entry.attempts.undecodable for entry in entries)
        for entry in entries:
            entry.attempts.undecodable += 1
        if repeated and isinstance(error, TooLargeError) and len(entries) == 1:
            self._pending.settle((entry, error) for entry in entries)
        elif repeated and len(entries) > 1 and self.undecodable_in_a_row <= MAX_UNDECODABLE:
            self.bisect(entries, error)
        else:
            self.retry(entries, error)

    def _refused(self, entries: list[PendingId], error: ServiceError, age: float) -> None:
        self.throttled += isinstance(error, RateLimited)
        now = get_running_loop().time()
        waits = [self._policy.count_refusal(entry.attempts, error, now) for entry in entries]
        resting = self._pending.withdraw(entries)
        if any(waits):
            self._start(self._throttled, resting, error, age)
        else:
            self._requeue(resting)

    async def _throttled(self, resting: list[PendingId], error: ServiceError, age: float) -> None:
        self.pausing += 1
        try:
            with contained(RongCloudError, "the rate limiter"):
                pause = await self._gate.throttle(error.retry_after, age)
                rate = self._gate.rate
        except RongCloudError as fault:
            logger.warning("%s; pausing", fault)
            pause, rate = MAX_BACK_OFF, 0.0
            await sleep(pause)
        finally:
            self.pausing -= 1
        self._log_throttled(error, pause, rate)
        self._emit(Throttled(pause, rate))
        resumes_at = get_running_loop().time() + pause
        self._pending.settle(
            [(each, error) for each in resting if self._policy.refused_too_long(each.attempts, resumes_at)]
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
            cause += f"App Key {self._app_key} probably has another consumer"
        logger.log(level, "%s. Pausing for %.2f s, then resuming at %.0f requests/s", cause, pause, rate)

    def retry(self, entries: list[PendingId], error: RongCloudError) -> None:
        """Count a lost attempt; settle the IDs that have none left, and send the others again."""
        for entry in entries:
            self._policy.count(entry.attempts, error)
        self._pending.settle([(entry, error) for entry in entries if self._policy.exhausted(entry.attempts)])
        resting = self._pending.withdraw(entries)
        if not resting:
            return
        lost = max(entry.attempts.lost for entry in resting)
        delay = self._policy.delay(lost, error)
        logger.info("retrying %d group IDs in %.2f s: %s", len(resting), delay, error)
        self._emit(Retried(len(resting), delay))
        self.retried += len(resting)
        if delay:
            get_running_loop().call_later(delay, self._requeue, resting)
        else:
            self._requeue(resting)

    def _requeue(self, entries: list[PendingId]) -> None:
        if len(entries) == 1 and entries[0].attempts.undecodable > 1:
            self._pending.requeue_halves(entries)  # alone again, so that it costs no other ID its response
        else:
            self._pending.requeue(entries)

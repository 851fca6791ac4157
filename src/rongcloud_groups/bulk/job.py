"""A job: the IDs of a source through the client into a sink, resumable at any moment."""

from asyncio import Event, get_running_loop
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Final

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec import Struct

from rongcloud_groups._protocol.error_codes import RETRIED, action_for
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups.bulk.blocks import Block, ReorderBuffer, input_changed, read_blocks, scan
from rongcloud_groups.bulk.checkpoint import Checkpoint, Counts
from rongcloud_groups.bulk.errors import OutputError, ResumeError, ServiceUnavailable, SourceError
from rongcloud_groups.bulk.failed_ids import Failure, Failures, failure
from rongcloud_groups.bulk.files import locked
from rongcloud_groups.bulk.sinks.interface import Sink
from rongcloud_groups.bulk.sources.interface import Source
from rongcloud_groups.bulk.sources.listing import ListingSource
from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import RongCloudError
from rongcloud_groups.lookup import Lookup

READ_AHEAD_SECONDS: Final = 2.0
"""How long the budget needs for the open IDs at the most: what a stopped job still waits for."""


MOST_HELD: Final = 16_000
"""IDs at the most between the oldest one without an outcome and the newest one that was asked for."""


BLOCKS_READ_AHEAD: Final = 20


SECONDS_BETWEEN_WRITES: Final = 0.25


IDS_IN_A_WRITE: Final = 1000


OUTAGE: Final = 1000
"""IDs without an answer, one after the other, that mean that there is no service."""


MOST_DOUBTFUL: Final = 3000
"""IDs that are kept back at the most while some of them are not answered."""


class Progress(Struct, frozen=True):
    """How far a job is.

    Attributes:
        counts: of the records that are written.
        total: records of the input, where that is known.
        resumed_from: records that earlier runs had done.
        seconds: that this run has taken since its first request.
        requests: that this run has sent.
        rate: requests/s that the limiter lets through.
    """

    counts: Counts
    total: int | None
    resumed_from: int
    seconds: float
    requests: int
    rate: float


class Report(Struct, frozen=True):
    """How a job ended.

    Attributes:
        complete: whether the output is; otherwise the same job goes on where this run stopped.
        counts: what became of the records, all runs together.
        resumed_from: records that earlier runs had done.
        seconds: all runs together.
        requests: all runs together.
        unreadable: entries of the listing without a group ID that can be looked up; they are in no other count.
    """

    complete: bool
    counts: Counts
    resumed_from: int
    seconds: float
    requests: int
    unreadable: int = 0


class Job:
    """Look up every ID of a source once, and write the rows in the order of the input.

    Where an earlier run of the same job was stopped or killed, `run` goes on from its last checkpoint, so that the
    output has each row once, as if the job had run undisturbed. Memory does not depend on the number of IDs.

    Args:
        client: an open client.
        source: where the IDs come from.
        sink: where the rows go.
        failures: where the failed IDs go.
        restart: forget an unfinished run.
        keep: add to the rows that the finished output has already.
        max_attempts: the client's, for the list of failures.
    """

    def __init__(
        self,
        client: GroupClient,
        source: Source,
        sink: Sink,
        failures: Failures,
        *,
        restart: bool = False,
        keep: bool = False,
        max_attempts: int = 5,
    ) -> None:
        self._client = client
        self._source = source
        self._sink = sink
        self._failures = failures
        self._restart = restart
        self._keep = keep
        self._max_attempts = max_attempts
        self._order = ReorderBuffer()
        self._settled_something = Event()
        self._reading = anyio.CancelScope()
        self._stopping = False
        self._read_all = False
        self._source_error: Exception | None = None
        self._saved: Checkpoint | None = None
        self._total: int | None = None
        self._fingerprint: str | None = None
        self._digest = ""
        self._counts = Counts()
        self._unwritten: list[Block] = []
        self._doubtful: list[Block] = []
        self._silent = 0
        self._requests_before = 0
        self._started: float | None = None
        self._written_at = self._committed_at = 0.0
        in_time = int(READ_AHEAD_SECONDS * client.stats().rate)
        # No more than can be in flight, however much the budget lets through: answers wait while rows are written.
        self._read_ahead = max(1, min(in_time, client.max_in_flight)) * BATCH_LIMIT

    async def run(self) -> Report:
        """Do the job, or what is left of it.

        Returns:
            What was done. It is not complete after `stop`.

        Raises:
            SourceError: the input cannot be read, or changed meanwhile.
            ResumeError: an unfinished run cannot be gone on with.
            ConfigError: another process is writing the output, or it cannot be written.
            ServiceUnavailable: nothing is answered any more; what was done is saved.
            RongCloudError: no retry can mend what happened; what was done is saved.
            OSError, OutputError: the output cannot be written; what was committed is safe.
        """
        with locked(self._sink.path):
            return await self._run()

    async def _run(self) -> Report:
        saved = self._saved = None if self._restart else await anyio.to_thread.run_sync(self._sink.load)
        if saved is None or not saved.complete:
            await self._look_through()
        elif await self._finished(saved):
            return self._report(saved)
        else:
            self._saved = None
        self._check_that_resumable()
        try:
            await self._begin()
            checkpoint = await self._work()
            if checkpoint.complete:
                await self._publish()
        finally:
            self._sink.close()
            self._failures.close()
            if isinstance(self._source, ListingSource):
                self._source.close()
        return self._report(checkpoint)

    def stop(self) -> None:
        """Take no more IDs; `run` returns once those under way have ended and are saved."""
        self._stopping = True
        self._reading.cancel()
        self._settled_something.set()

    def progress(self) -> Progress:
        """How far it is."""
        stats = self._client.stats()
        return Progress(
            self._counts,
            self._total,
            0 if self._saved is None else self._saved.counts.records,
            self._seconds(),
            stats.requests - self._requests_before,
            stats.rate,
        )

    async def _finished(self, saved: Checkpoint) -> bool:
        """Put the files of a complete run in their place; whether that run was this very job."""
        try:
            await self._look_through()
        finally:
            await self._publish()
        return self._is_same_input(saved)

    async def _look_through(self) -> None:
        """Read all of a file before anything is asked: what is wrong with it is told at once."""
        if self._source.rereadable:
            self._total, self._fingerprint = await scan(self._source)

    def _is_same_input(self, saved: Checkpoint) -> bool:
        """Whether this job is the one that was killed when all but its last step was done, for sure."""
        same_ids = (saved.kind, saved.fingerprint) == (self._source.kind, self._fingerprint)
        return self._source.rereadable and same_ids and self._is_same_app(saved)

    def _is_same_app(self, saved: Checkpoint) -> bool:
        return saved.app_key in {None, self._client.app_key}

    def _check_that_resumable(self) -> None:
        saved = self._saved
        if saved is None:
            return
        if saved.kind != self._source.kind:
            raise ResumeError(
                f"an unfinished run of {self._sink.name} has another input ({saved.kind}, not {self._source.kind}); "
                "give the same one, or --restart"
            )
        if not self._is_same_app(saved):
            raise ResumeError(
                f"an unfinished run of {self._sink.name} has the groups of another App Key ({saved.app_key}, not "
                f"{self._client.app_key}); use that one, or --restart"
            )
        if saved.fingerprint != self._fingerprint:
            raise input_changed(self._source.name)

    async def _begin(self) -> None:
        saved = self._saved
        if saved is not None:
            self._counts = saved.counts
            self._digest = saved.digest
        await anyio.to_thread.run_sync(lambda: self._sink.begin(saved, keep=self._keep))
        self._failures.begin(None if saved is None else saved.failed_size)
        if isinstance(self._source, ListingSource):
            self._source.begin(None if saved is None else saved.listing)
        self._requests_before = self._client.stats().requests
        self._started = self._written_at = get_running_loop().time()
        await self._commit(complete=False)

    async def _work(self) -> Checkpoint:
        send, receive = anyio.create_memory_object_stream[Block](BLOCKS_READ_AHEAD)
        error: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, send)
            try:
                await self._look_up(receive)
            except (RongCloudError, OSError) as stopped_by:
                error = stopped_by
            finally:
                receive.close()
                tasks.cancel_scope.cancel()
        error = error or self._source_error
        if isinstance(error, OSError | OutputError):
            raise error  # what the output took since the last commit is in doubt
        complete = error is None and self._read_all
        if complete:
            self._unwritten += self._doubtful_at_last()
        await self._write()
        checkpoint = await self._commit(complete=complete)
        if error is not None:
            raise error
        return checkpoint

    async def _read(self, send: MemoryObjectSendStream[Block]) -> None:
        """Pass on blocks of IDs; what is wrong with the source is raised by `_work`, once all before it is saved."""
        with self._reading, send:
            try:
                digest = self._digest
                async with aclosing(read_blocks(self._source, done=self._counts.records, digest=digest)) as blocks:
                    async for block in blocks:
                        digest = block.digest
                        await send.send(block)
                self._check_that_unchanged(digest)
                self._read_all = True
            except Exception as error:  # noqa: BLE001  whatever it is, what came before is saved first
                self._source_error = error

    def _check_that_unchanged(self, digest: str) -> None:
        if self._total and digest != self._fingerprint:
            raise SourceError(f"{self._source.name} changed while it was read; run it again with --restart")

    async def _look_up(self, blocks: MemoryObjectReceiveStream[Block]) -> None:
        async with self._client.stream(self._feed(blocks)) as parts:
            async for part in parts:
                self._settle(part)
                now = get_running_loop().time()
                if self._waiting_to_be_written() >= IDS_IN_A_WRITE or now - self._written_at >= SECONDS_BETWEEN_WRITES:
                    await self._write()
                if now - self._committed_at >= self._sink.seconds_between_commits:
                    await self._write()
                    await self._commit(complete=False)
        self._sort_settled()

    async def _feed(self, blocks: MemoryObjectReceiveStream[Block]) -> AsyncIterator[str]:
        async for block in blocks:
            while not self._has_room() and not self._stopping:
                self._settled_something.clear()
                await self._settled_something.wait()
            if self._stopping:
                self._read_all = False
                return
            self._order.add(block)
            for group_id in block.group_ids:
                yield group_id

    def _has_room(self) -> bool:
        return self._order.open < self._read_ahead and self._order.held < MOST_HELD

    def _settle(self, part: Lookup) -> None:
        encode, settle = self._sink.encode, self._order.settle
        for group_id, profile in part.found.items():
            settle(group_id, encode(profile))
        for group_id in part.missing:
            settle(group_id, None)
        for group_id, error in part.failed.items():
            settle(group_id, error)
        self._settled_something.set()
        self._sort_settled()

    def _sort_settled(self) -> None:
        for block in self._order.settled_blocks():
            self._sort(block)

    def _sort(self, block: Block) -> None:
        """Keep back blocks with IDs that were not answered, until one is answered whole: the service may be gone."""
        unanswered = sum(map(_unanswered, block.outcomes.values()))
        if not unanswered:
            self._unwritten += [*self._doubtful, block]
            self._doubtful.clear()
            self._silent = 0
            return
        self._doubtful.append(block)
        self._silent = self._silent + unanswered if unanswered == len(block.group_ids) else 0
        if self._silent >= OUTAGE:
            raise ServiceUnavailable(f"nothing is answered any more: {_why(block)}")
        while sum(len(each.group_ids) for each in self._doubtful) > MOST_DOUBTFUL:
            self._unwritten.append(self._doubtful.pop(0))

    def _doubtful_at_last(self) -> list[Block]:
        blocks, self._doubtful = self._doubtful, []
        nothing_before = not self._unwritten and not self._counts.found and not self._counts.missing
        if blocks and nothing_before and all(map(_unanswered, _outcomes_of(blocks))):
            raise ServiceUnavailable(f"nothing is answered at all: {_why(blocks[0])}")
        return blocks

    def _waiting_to_be_written(self) -> int:
        return sum(len(block.group_ids) for block in self._unwritten)

    async def _write(self) -> None:
        blocks, self._unwritten = self._unwritten, []
        self._written_at = get_running_loop().time()
        if not blocks:
            return
        rows: list[Any] = []
        failures: list[Failure] = []
        for block in blocks:
            for group_id, outcome in block.in_order():
                if isinstance(outcome, RongCloudError):
                    failures.append(failure(group_id, outcome, self._max_attempts))
                elif outcome is not None:
                    rows.append(outcome)
        await anyio.to_thread.run_sync(self._write_rows, rows, failures)
        self._counts = _added(self._counts, blocks, len(rows), len(failures))
        self._digest = blocks[-1].digest

    def _write_rows(self, rows: list[Any], failures: list[Failure]) -> None:
        if rows:
            self._sink.write(rows)
        if failures:
            self._failures.write(failures)

    async def _commit(self, *, complete: bool) -> Checkpoint:
        self._committed_at = get_running_loop().time()
        listing = self._source if isinstance(self._source, ListingSource) else None
        checkpoint = Checkpoint(
            kind=self._source.kind,
            fingerprint=self._fingerprint,
            digest=self._digest,
            counts=self._counts,
            seconds=self._seconds() + (self._saved.seconds if self._saved else 0.0),
            requests=self._client.stats().requests
            - self._requests_before
            + (self._saved.requests if self._saved else 0),
            complete=complete,
            listing=None if listing is None else listing.place,
            app_key=self._client.app_key,
        )
        return await anyio.to_thread.run_sync(self._make_durable, checkpoint, listing)

    def _make_durable(self, checkpoint: Checkpoint, listing: ListingSource | None) -> Checkpoint:
        if listing is not None:
            listing.make_durable()
        checkpoint = msgspec.structs.replace(checkpoint, failed_size=self._failures.make_durable())
        self._sink.commit(checkpoint)
        return checkpoint

    async def _publish(self) -> None:
        """Put everything in its place; killed in between, the next run does it again."""
        await anyio.to_thread.run_sync(self._sink.publish)
        await anyio.to_thread.run_sync(self._failures.publish)
        if isinstance(self._source, ListingSource):
            self._source.forget()
        await anyio.to_thread.run_sync(self._sink.forget)

    def _seconds(self) -> float:
        return 0.0 if self._started is None else get_running_loop().time() - self._started

    def _report(self, checkpoint: Checkpoint) -> Report:
        return Report(
            complete=checkpoint.complete,
            counts=checkpoint.counts,
            resumed_from=0 if self._saved is None else self._saved.counts.records,
            seconds=checkpoint.seconds,
            requests=checkpoint.requests,
            unreadable=0 if checkpoint.listing is None else checkpoint.listing.unreadable,
        )


def _unanswered(outcome: Any) -> bool:
    return isinstance(outcome, RongCloudError) and action_for(outcome) in RETRIED


def _outcomes_of(blocks: list[Block]) -> Iterator[Any]:
    return (outcome for block in blocks for outcome in block.outcomes.values())


def _why(block: Block) -> Any:
    return next(filter(_unanswered, block.outcomes.values()))


def _added(counts: Counts, blocks: list[Block], found: int, failed: int) -> Counts:
    records = sum(block.records for block in blocks)
    distinct = sum(len(block.group_ids) for block in blocks)
    return Counts(
        records=counts.records + records,
        duplicates=counts.duplicates + records - distinct,
        found=counts.found + found,
        missing=counts.missing + distinct - found - failed,
        failed=counts.failed + failed,
    )

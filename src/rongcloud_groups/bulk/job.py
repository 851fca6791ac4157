"""A job: the IDs of a source through the client into a sink, resumable at any moment."""

from asyncio import TimerHandle, get_running_loop
from contextlib import aclosing
from typing import Final

import anyio
from anyio.to_thread import run_sync

from rongcloud_groups._tables.output import WriteCancelled
from rongcloud_groups.bulk.checkpoint import NOTHING_DONE, Checkpoint
from rongcloud_groups.bulk.errors import ResumeError, SourceError
from rongcloud_groups.bulk.files import OutputLock
from rongcloud_groups.bulk.input import JobInput
from rongcloud_groups.bulk.lists import Failures, MissingIds
from rongcloud_groups.bulk.lookups import OrderedLookups
from rongcloud_groups.bulk.output import JobOutput
from rongcloud_groups.bulk.report import Progress, Report
from rongcloud_groups.bulk.sinks.interface import Sink
from rongcloud_groups.bulk.sources.interface import Source
from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import ConfigError

SECONDS_BETWEEN_WRITES: Final = 0.25
IDS_IN_A_WRITE: Final = 1000
STOP_GRACE: Final = 0.5
"""Seconds that a stopped job leaves to the requests in flight, and to an output that keeps it waiting."""


class Job:
    """Look up every ID of a source once, and write the rows in the order of the input.

    Where an earlier run of the same job was stopped or killed, `run` resumes from its last checkpoint, so that the
    output has each row once, as if the job had run undisturbed. Memory does not depend on the number of IDs.

    Args:
        client: an open client.
        source: where the IDs come from.
        sink: where the rows go.
        failures: where the failed IDs go.
        missing: where the IDs of missing groups go; None counts them only.
        restart: forget an unfinished run.
        keep: add to the rows that the finished output has already.
        allow_empty: an input without any ID is no error.
    """

    def __init__(
        self,
        client: GroupClient,
        source: Source,
        sink: Sink,
        failures: Failures,
        *,
        missing: MissingIds | None = None,
        restart: bool = False,
        keep: bool = False,
        allow_empty: bool = False,
    ) -> None:
        self._client = client
        self._source = source
        self._sink = sink
        lock = OutputLock(sink.path)
        self._output = JobOutput(sink, failures, missing or MissingIds(), source, lock, client.max_attempts)
        self._restart, self._keep = restart, keep
        self._input = JobInput(source, allow_empty=allow_empty)
        self._state = "new"
        self._lookups = OrderedLookups(client, sink.encode)
        self._scanning, self._asking = anyio.CancelScope(), anyio.CancelScope()
        self._give_up: TimerHandle | None = None
        self._requests_before = 0
        self._started: float | None = None
        self._written_at = self._committed_at = 0.0

    def __repr__(self) -> str:
        done, total = self._output.written.counts.records, self._input.total
        return (
            f"<Job {self._source.name} -> {self._sink.name}: {self._state}, {done:,}"
            f"{'' if total is None else f' of {total:,}'} records, {self._lookups.open:,} open IDs>"
        )

    async def run(self) -> Report:
        """Do the job, or the rest of it. A `Job` runs once; make another one to resume.

        Returns:
            The report. It is not complete after `stop`.

        Raises:
            RuntimeError: it has been run before.
            SourceError: the input cannot be read, has no IDs, or changed in the meantime.
            ResumeError: an unfinished run cannot be resumed.
            ConfigError: another process is writing the output, or it cannot be written, or no job wrote it.
            ServiceUnavailable: the service no longer responds; the outcomes so far are saved.
            RongCloudError: not retryable; the outcomes so far are saved.
            OSError, OutputError: the output cannot be written; committed rows are safe.
            OutputLost: the output was removed while it was written.
        """
        if self._state != "new":
            raise RuntimeError("a Job runs once; make another one, which resumes where this one stopped")
        self._state = "running"
        try:
            with self._output.lock:
                return await self._run()
        except WriteCancelled:
            return self._report(self._output.committed)
        finally:
            self._state = "ended"
            if self._give_up is not None:
                self._give_up.cancel()

    def stop(self) -> None:
        """Take no more IDs; `run` returns within a second, once the requests in flight have ended and are saved.

        Work still unfinished then is abandoned, and done by the next run. Call it in the event loop's thread.
        """
        if self._lookups.stopped:
            return
        self._scanning.cancel()
        self._lookups.stop()
        if self._state == "running":
            self._give_up = get_running_loop().call_later(STOP_GRACE, self._abandon)

    def progress(self) -> Progress:
        """How far it is."""
        stats = self._client.stats()
        return Progress(
            self._output.written.counts,
            self._input.total,
            self._output.before.counts.records,
            0.0 if self._started is None else get_running_loop().time() - self._started,
            stats.requests - self._requests_before,
            stats.rate,
            self._input.scanned,
        )

    async def _run(self) -> Report:
        if self._lookups.stopped:
            return self._report(NOTHING_DONE)
        saved = None if self._restart else await run_sync(self._sink.load)
        if saved is not None and saved.complete:  # killed before its files were in place
            await run_sync(self._output.publish)
        elif saved is not None:
            self._check_same_job(saved)
        with self._scanning:
            await self._input.scan(saved)
        if self._lookups.stopped:
            return self._report(saved or NOTHING_DONE)
        if saved is not None and saved.complete:
            before = (saved.kind, saved.app_key, saved.total, saved.fingerprint)
            now = (self._source.kind, self._client.app_key, self._input.total, self._input.fingerprint)
            if self._source.rereadable and now == before:
                self._output.before = saved
                return self._report(saved, complete=True)
            saved = None
        await self._check_app_key()
        try:
            await run_sync(self._output.begin, saved, self._keep)
            self._requests_before = self._client.stats().requests
            self._started = self._written_at = get_running_loop().time()
            await self._commit(complete=False)
            checkpoint = await self._work()
            if checkpoint.complete:
                await run_sync(self._output.publish)
        finally:
            self._output.close()
        return self._report(checkpoint, complete=checkpoint.complete)

    def _check_same_job(self, saved: Checkpoint) -> None:
        """Check the kind of input and the App Key of an unfinished run, without reading the input."""
        if saved.kind != self._source.kind:
            raise ResumeError(
                f"an unfinished run of {self._sink.name} has another input ({saved.kind}, not {self._source.kind}); "
                "give the same one, or --restart"
            )
        if saved.app_key != self._client.app_key:
            raise ResumeError(
                f"an unfinished run of {self._sink.name} has the groups of another App Key ({saved.app_key}, not "
                f"{self._client.app_key}); use that one, or --restart"
            )

    async def _check_app_key(self) -> None:
        other = await run_sync(self._sink.app_key_of_rows)
        if other not in {None, self._client.app_key}:
            raise ConfigError(
                f"{self._sink.name} has the groups of another App Key ({other}, not {self._client.app_key}); give "
                "another output, or --force to add to it"
            )

    async def _work(self) -> Checkpoint:
        with self._asking:
            await self._look_up()
        await self._write()
        if self._lookups.complete:
            try:
                self._input.check_not_empty(self._output.written.counts.records)
            except SourceError:
                await run_sync(self._output.discard)
                raise
        checkpoint = await self._commit(complete=self._lookups.complete)
        if self._lookups.error is not None:
            raise self._lookups.error
        return checkpoint

    async def _look_up(self) -> None:
        counts = self._output.before.counts
        lookups = self._lookups.settled(
            self._input.blocks(done=counts.records, digest=self._output.before.digest),
            within=SECONDS_BETWEEN_WRITES,
            any_answered=bool(counts.found or counts.missing),
        )
        async with aclosing(lookups) as blocks:
            async for block in blocks:
                if block is not None:
                    self._output.added.append(block)
                now = get_running_loop().time()
                commit_is_due = now - self._committed_at >= self._sink.seconds_between_commits
                write_is_due = now - self._written_at >= SECONDS_BETWEEN_WRITES
                unwritten = sum(len(block.group_ids) for block in self._output.added)
                if commit_is_due or write_is_due or unwritten >= IDS_IN_A_WRITE:
                    await self._write()
                if commit_is_due and self._output.written.counts != self._output.committed.counts:
                    await self._commit(complete=False)

    async def _write(self) -> None:
        self._written_at = get_running_loop().time()
        if self._output.added:
            await run_sync(self._output.write)

    async def _commit(self, *, complete: bool) -> Checkpoint:
        self._committed_at = get_running_loop().time()
        progress, before = self.progress(), self._output.before
        return await run_sync(
            self._output.commit,
            Checkpoint(
                kind=self._source.kind,
                total=self._input.total,
                fingerprint=self._input.fingerprint,
                seconds=progress.seconds + before.seconds,
                requests=progress.requests + before.requests,
                complete=complete,
                app_key=self._client.app_key,
            ),
        )

    def _report(self, checkpoint: Checkpoint, *, complete: bool = False) -> Report:
        return Report(
            complete=complete,
            counts=checkpoint.counts,
            resumed_from=self._output.before.counts.records,
            seconds=checkpoint.seconds,
            requests=checkpoint.requests,
            unreadable=0 if checkpoint.listing is None else checkpoint.listing.unreadable,
        )

    def _abandon(self) -> None:
        self._asking.cancel()
        self._sink.cancel()

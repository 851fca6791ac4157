"""The output of a job as one: its sink and the lists beside it."""

from typing import Any

import msgspec

from rongcloud_groups.bulk.checkpoint import Checkpoint, Counts
from rongcloud_groups.bulk.failed_ids import Failure, Failures, MissingIds, failure
from rongcloud_groups.bulk.files import OutputLock
from rongcloud_groups.bulk.input import Block
from rongcloud_groups.bulk.sinks.interface import Sink
from rongcloud_groups.bulk.sources.interface import Source
from rongcloud_groups.errors import RongCloudError


class JobOutput:
    """Takes settled blocks in their order; all parts are committed together, and resumed together.

    All methods but `add` are called in a worker thread, one at a time.

    Attributes:
        counts: of the blocks that are written.
        digest: of their records.
        saved: the checkpoint that it began at.
        committed: the last checkpoint.
    """

    def __init__(
        self, sink: Sink, failures: Failures, missing: MissingIds, source: Source, lock: OutputLock, max_attempts: int
    ) -> None:
        self._sink = sink
        self._failures = failures
        self._missing = missing
        self._source = source
        self._lock = lock
        self._max_attempts = max_attempts
        self._unwritten: list[Block] = []
        self.counts = Counts()
        self.digest = ""
        self.saved: Checkpoint | None = None
        self.committed: Checkpoint | None = None

    @property
    def unwritten(self) -> int:
        """IDs whose block waits for `write`."""
        return sum(len(block.group_ids) for block in self._unwritten)

    @property
    def any_answered(self) -> bool:
        """Whether the service had an outcome for one of the IDs."""
        return bool(self._unwritten or self.counts.found or self.counts.missing)

    def begin(self, saved: Checkpoint | None, keep: bool) -> None:  # noqa: FBT001  called through a thread
        """Open all parts at a checkpoint, or empty; ``keep`` adds to the parts of a finished run."""
        self.saved = self.committed = saved
        if saved is not None:
            self.counts = saved.counts
            self.digest = saved.digest
        self._sink.begin(saved, keep=keep)
        self._failures.begin(None if saved is None else saved.failed_size, keep=keep)
        self._missing.begin(None if saved is None else saved.missing_size, keep=keep)
        self._source.begin(None if saved is None else saved.listing)

    def add(self, blocks: list[Block]) -> None:
        """Take settled blocks, for the next `write`."""
        self._unwritten += blocks

    def write(self) -> None:
        """Write the blocks that were added."""
        blocks, self._unwritten = self._unwritten, []
        rows: list[Any] = []
        missing: list[str] = []
        failures: list[Failure] = []
        for block in blocks:
            for group_id in block.group_ids:
                outcome = block.outcomes[group_id]
                if outcome is None:
                    missing.append(group_id)
                elif isinstance(outcome, RongCloudError):
                    failures.append(failure(group_id, outcome, self._max_attempts))
                else:
                    rows.append(outcome)
        if rows:
            self._sink.write(rows)
        if missing:
            self._sink.remove(missing)
            self._missing.write(missing)
        if failures:
            self._failures.write(failures)
        records = sum(block.records for block in blocks)
        self.counts = self.counts.plus(records, found=len(rows), missing=len(missing), failed=len(failures))
        self.digest = blocks[-1].digest if blocks else self.digest

    def commit(self, checkpoint: Checkpoint) -> Checkpoint:
        """Make everything written durable, then the checkpoint."""
        self._lock.check()
        place = self._source.place  # before it, as more may be read in the meantime
        self._source.make_durable()
        checkpoint = msgspec.structs.replace(
            checkpoint,
            digest=self.digest,
            counts=self.counts,
            failed_size=self._failures.make_durable(),
            missing_size=self._missing.make_durable(),
            listing=place,
        )
        self._sink.commit(checkpoint)
        self.committed = checkpoint
        return checkpoint

    def publish(self) -> None:
        """Put everything in its place; killed in between, the next run does it again."""
        self._sink.publish()
        self._failures.publish()
        self._missing.publish()
        self._source.forget()
        self._sink.forget()

    def discard(self) -> None:
        """Undo `begin`."""
        for part in (self._sink, self._failures, self._missing):
            part.discard()
        self._source.forget()

    def close(self) -> None:
        """Leave everything as it is."""
        for part in (self._sink, self._failures, self._missing, self._source):
            part.close()

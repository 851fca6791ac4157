"""The output of a job as one: its sink and the lists beside it."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from rongcloud_groups.bulk.checkpoint import NOTHING_DONE, Checkpoint, Counts
from rongcloud_groups.bulk.files import OutputLock
from rongcloud_groups.bulk.input import Block
from rongcloud_groups.bulk.lists import Failure, Failures, MissingIds, failure
from rongcloud_groups.bulk.sinks.interface import Sink
from rongcloud_groups.bulk.sources.interface import Source
from rongcloud_groups.errors import RongCloudError


@dataclass(eq=False)
class JobOutput:
    """Takes settled blocks in their order; its parts are committed and resumed together, in a worker thread."""

    sink: Sink
    failures: Failures
    missing: MissingIds
    source: Source
    lock: OutputLock
    max_attempts: int
    added: list[Block] = field(default_factory=list, init=False)
    """Blocks that wait for `write`."""
    before: Checkpoint = field(default=NOTHING_DONE, init=False)
    """Where it began."""
    written: Checkpoint = field(default=NOTHING_DONE, init=False)
    """Where the written blocks end, in counts and digest."""
    committed: Checkpoint = field(default=NOTHING_DONE, init=False)

    def begin(self, saved: Checkpoint | None, keep: bool) -> None:  # noqa: FBT001  called through a thread
        """Open all parts at a checkpoint, or empty; ``keep`` adds to the parts of a finished run."""
        self.before = self.written = self.committed = saved or NOTHING_DONE
        self.source.place = self.before.listing
        self.sink.begin(saved, keep=keep)
        self.failures.begin(self.before.failed_size)
        self.missing.begin(self.before.missing_size, keep=keep and saved is None)
        self.source.noted.begin(0 if self.source.place is None else self.source.place.size)

    def write(self) -> None:
        """Write the blocks that were added."""
        blocks, self.added = self.added, []
        rows: list[Any] = []
        missing: list[str] = []
        failures: list[Failure] = []
        for block in blocks:
            for group_id in block.group_ids:
                outcome = block.outcomes[group_id]
                if outcome is None:
                    missing.append(group_id)
                elif isinstance(outcome, RongCloudError):
                    failures.append(failure(group_id, outcome, self.max_attempts))
                else:
                    rows.append(outcome)
        if rows:
            self.sink.write(rows)
        if missing:
            self.sink.remove(missing)
            self.missing.write(missing)
        if failures:
            self.failures.write(failures)
        records = sum(block.records for block in blocks)
        before = self.written.counts
        counts = Counts(
            before.records + records,
            before.duplicates + records - len(rows) - len(missing) - len(failures),
            before.found + len(rows),
            before.missing + len(missing),
            before.failed + len(failures),
        )
        self.written = msgspec.structs.replace(self.written, counts=counts, digest=blocks[-1].digest)

    def commit(self, checkpoint: Checkpoint) -> Checkpoint:
        """Make everything written durable, then the checkpoint."""
        self.lock.check()
        place = self.source.place  # before it, as more may be read in the meantime
        self.source.noted.make_durable()
        checkpoint = msgspec.structs.replace(
            checkpoint,
            digest=self.written.digest,
            counts=self.written.counts,
            failed_size=self.failures.make_durable(),
            missing_size=self.missing.make_durable(),
            listing=place,
        )
        self.sink.commit(checkpoint)
        self.committed = checkpoint
        return checkpoint

    def publish(self) -> None:
        """Put everything in its place; killed in between, the next run does it again."""
        for part in (self.sink, self.failures, self.missing):
            part.publish()
        self.source.noted.discard()
        self.sink.forget()

    def discard(self) -> None:
        """Undo `begin`."""
        self.sink.forget()
        for part in (self.failures, self.missing, self.source.noted):
            part.discard()

    def close(self) -> None:
        """Leave everything as it is."""
        for part in (self.sink, self.failures, self.missing, self.source.noted):
            part.close()

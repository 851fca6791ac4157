"""From a source to blocks of distinct IDs, and the outcomes back into the order of the input."""

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

from msgspec import Struct

from rongcloud_groups.bulk.errors import ResumeError, SourceError
from rongcloud_groups.bulk.seen_ids import SeenIds
from rongcloud_groups.bulk.sources.interface import BLOCK, Source
from rongcloud_groups.errors import RongCloudError


class Block(Struct, eq=False):
    """Some consecutive records of the input.

    Attributes:
        group_ids: the distinct IDs that occur here for the first time.
        records: how many records there are.
        digest: of all records of the input up to the last one here.
        outcomes: by ID, as far as they have settled: a row, an error, or None for a missing group.
    """

    group_ids: list[str]
    records: int
    digest: str
    outcomes: dict[str, Any | RongCloudError | None] = {}

    @property
    def settled(self) -> bool:
        """Whether every ID has its outcome."""
        return len(self.outcomes) == len(self.group_ids)

    def in_order(self) -> Iterator[tuple[str, Any | RongCloudError | None]]:
        """The outcomes in the order of the input."""
        return ((group_id, self.outcomes[group_id]) for group_id in self.group_ids)


class ReorderBuffer:
    """The blocks whose IDs are being looked up."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self._block_of: dict[str, Block] = {}
        self.held = 0
        """IDs whose block has not been taken out."""

    @property
    def open(self) -> int:
        """IDs without an outcome."""
        return len(self._block_of)

    def add(self, block: Block) -> None:
        """Await the outcomes of one more block."""
        self._blocks.append(block)
        self._block_of.update(dict.fromkeys(block.group_ids, block))
        self.held += len(block.group_ids)

    def settle(self, group_id: str, outcome: Any | RongCloudError | None) -> None:
        """Store the outcome of an ID; that of a dropped block is ignored."""
        if (block := self._block_of.pop(group_id, None)) is not None:
            block.outcomes[group_id] = outcome

    def drop_last(self, can_drop: Callable[[Block], bool]) -> bool:
        """Drop blocks without any outcome, from the last one on, as long as ``can_drop`` agrees; whether one was."""
        blocks = len(self._blocks)
        while self._blocks and not self._blocks[-1].outcomes and can_drop(self._blocks[-1]):
            block = self._blocks.pop()
            self.held -= len(block.group_ids)
            for group_id in block.group_ids:
                del self._block_of[group_id]
        return len(self._blocks) < blocks

    def settled_blocks(self) -> Iterator[Block]:
        """Take out the first blocks, as far as they are settled."""
        while self._blocks and self._blocks[0].settled:
            block = self._blocks.popleft()
            self.held -= len(block.group_ids)
            yield block


def input_changed(name: str) -> ResumeError:
    """The error where an input does not begin with the records that were read from it before."""
    return ResumeError(
        f"{name} is not the input that the unfinished run had; give that one, or use --restart to start over"
    )


class Digest:
    """Identifies a sequence of IDs, however it is cut into lists."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)

    def add(self, group_ids: list[str]) -> None:
        """Take in some IDs, at least one.

        Raises:
            SourceError: one of them is not text.
        """
        try:
            self._hash.update(b"\n".join([group_id.encode() for group_id in group_ids]) + b"\n")
        except AttributeError:
            wrong = next(group_id for group_id in group_ids if not isinstance(group_id, str))
            raise SourceError(f"{wrong!r} is not text, so it is no group ID") from None
        except UnicodeEncodeError as error:
            raise SourceError(f"{error.object!r} is not Unicode text, so it is no group ID") from None

    def __str__(self) -> str:
        return self._hash.hexdigest()


class InputScan:
    """Reads a source to its end, before anything is asked: a fault in it is reported at once.

    Args:
        mark: where `marked_digest` is taken.

    Attributes:
        records: how many there are so far.
        marked_digest: of the first ``mark`` records; None while there are fewer.
    """

    def __init__(self, mark: int | None = None) -> None:
        self.records = 0
        self.marked_digest: str | None = None
        self._mark = mark
        self._digest = Digest()

    @property
    def digest(self) -> str:
        """Of all records."""
        return str(self._digest)

    async def read(self, source: Source) -> None:
        """Read all records.

        Raises:
            SourceError: they cannot be read.
        """
        self._take_mark()
        async for ids in _in_blocks(source, first=self._mark or 0):
            self._digest.add(ids)
            self.records += len(ids)
            self._take_mark()

    def _take_mark(self) -> None:
        if self.records == self._mark:
            self.marked_digest = str(self._digest)


async def read_blocks(source: Source, *, done: int, digest: str) -> AsyncGenerator[Block]:
    """The records in blocks, without the IDs that came before.

    Args:
        source: where they come from.
        done: records at the start that an earlier run did.
        digest: of those.

    Raises:
        ResumeError: the source begins otherwise.
        SourceError: it cannot be read.
    """
    so_far = Digest()
    unsent = 0
    with SeenIds() as seen:
        async for ids in _in_blocks(source, first=done):
            so_far.add(ids)
            new = seen.add(ids)
            if done:
                done -= len(ids)
                if not done and str(so_far) != digest:
                    raise input_changed(source.name)
                continue
            unsent += len(ids)
            if new:  # a block of duplicates alone is part of the next one
                yield Block(new, unsent, str(so_far))
                unsent = 0
        if done:
            raise input_changed(source.name)
        if unsent:
            yield Block([], unsent, str(so_far))


async def _in_blocks(source: Source, *, first: int = 0) -> AsyncGenerator[list[str]]:
    """The records, at most `BLOCK` at a time, and one that ends after the ``first``."""
    count = 0
    async with aclosing(source.records()) as records:
        async for ids in records:
            start = 0
            while start < len(ids):
                end = start + BLOCK
                if count < first:
                    end = min(end, start + first - count)
                some = ids[start:end]
                count += len(some)
                start += len(some)
                yield some

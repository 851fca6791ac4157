"""From a source to blocks of IDs, each distinct ID once, with a digest that knows the input again."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from hashlib import blake2b

from rongcloud_groups.bulk.blocks import Block
from rongcloud_groups.bulk.checkpoint import ResumeError
from rongcloud_groups.bulk.seen_ids import SeenIds
from rongcloud_groups.bulk.sources.files import BLOCK, Source
from rongcloud_groups.bulk.sources.formats import SourceError


def other_input(name: str) -> ResumeError:
    """The error where an input does not begin with the records that were read from it before."""
    return ResumeError(
        f"{name} is not the input that the unfinished run had; give that one, or --restart to begin afresh"
    )


class Digest:
    """Knows a sequence of IDs again, however it is cut into lists."""

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


async def looked_through(source: Source) -> tuple[int, str]:
    """How many records a source has, and the digest of all of them.

    Raises:
        SourceError: it cannot be read.
    """
    digest = Digest()
    records = 0
    async for ids in _in_blocks(source):
        digest.add(ids)
        records += len(ids)
    return records, str(digest)


async def blocks_of(source: Source, *, done: int, digest: str) -> AsyncGenerator[Block]:
    """The records in blocks, without the IDs that were there before.

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
                    raise other_input(source.name)
                continue
            unsent += len(ids)
            if new:  # a block of duplicates alone is part of the next one
                yield Block(new, unsent, str(so_far))
                unsent = 0
        if done:
            raise other_input(source.name)
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

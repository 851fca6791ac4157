"""The input of a job: scanned first where that is possible, then read in blocks of distinct IDs."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from hashlib import blake2b
from typing import Any

from msgspec import Struct

from rongcloud_groups.bulk.checkpoint import Checkpoint
from rongcloud_groups.bulk.errors import ResumeError, SourceError
from rongcloud_groups.bulk.seen_ids import SeenIds
from rongcloud_groups.bulk.sources.interface import BLOCK, Source
from rongcloud_groups.errors import RongCloudError


class Block(Struct, eq=False):
    """Some consecutive records of the input."""

    group_ids: list[str]
    """The distinct IDs that occur here for the first time."""
    records: int
    digest: str
    """Of all records of the input up to the last one here."""
    outcomes: dict[str, Any | RongCloudError | None] = {}
    """By ID, as far as they have settled: a row, an error, or None for a missing group."""


class JobInput:
    """Reads a source: all of it first where that is possible, then in blocks of distinct IDs."""

    def __init__(self, source: Source, *, allow_empty: bool) -> None:
        self._source = source
        self._allow_empty = allow_empty or source.may_be_empty
        self.scanned: int | None = None
        """Records that the scan under way has read."""
        self.total: int | None = None
        """Records that a scan has counted."""
        self.fingerprint: str | None = None
        """The digest of these."""

    async def scan(self, saved: Checkpoint | None) -> None:
        """Read all of a source that can be read twice, before the first request: a fault in it is reported at once."""
        if not self._source.rereadable:
            return
        self.scanned, digest = 0, blake2b(digest_size=16).hexdigest()
        first, begins_with = (0, None) if saved is None or saved.complete else (saved.total or 0, saved.fingerprint)
        begins_alike = begins_with in {None, digest}
        async for ids, digest in _digested(self._source, first=first):
            self.scanned += len(ids)
            begins_alike |= digest == begins_with
        self.check_not_empty(self.scanned)
        if not begins_alike:
            raise self._another_input()
        self.total, self.fingerprint, self.scanned = self.scanned, digest, None

    async def blocks(self, *, done: int, digest: str) -> AsyncGenerator[Block]:
        """The records in blocks, without the ``done`` ones at the start, whose digest is given."""
        unsent, so_far = 0, ""
        with closing(SeenIds()) as seen:
            async for ids, so_far in _digested(self._source, first=done):
                new = seen.add(ids)
                if done:
                    done -= len(ids)
                    if not done and so_far != digest:
                        raise self._another_input()
                    continue
                unsent += len(ids)
                if new:  # a block of duplicates alone is part of the next one
                    yield Block(new, unsent, so_far)
                    unsent = 0
        if done:
            raise self._another_input()
        if unsent:
            yield Block([], unsent, so_far)
        if self.total and so_far != self.fingerprint:
            raise SourceError(
                f"{self._source.name} changed while it was read; run the same command again, or use --restart to start "
                "over"
            )

    def check_not_empty(self, records: int) -> None:
        """Raise a `SourceError` for an input without any ID: most often, the command before the pipe has failed."""
        if not records and not self._allow_empty:
            raise SourceError(
                f"{self._source.name} has no IDs; the output is left as it is (--allow-empty if that is right)"
            )

    def _another_input(self) -> ResumeError:
        return ResumeError(
            f"{self._source.name} is not the input that the unfinished run had; give that one, or use --restart to "
            "start over"
        )


async def _digested(source: Source, *, first: int) -> AsyncGenerator[tuple[list[str], str]]:
    """The records, at most `BLOCK` at a time, the ``first`` ones in lists of their own; each with the digest so far."""
    digest = blake2b(digest_size=16)
    async with aclosing(source.records()) as records:
        async for ids in records:
            start = 0
            while start < len(ids):
                some = ids[start : start + min(BLOCK, first or BLOCK)]
                start += len(some)
                first -= min(first, len(some))
                digest.update(_bytes_of(some))
                yield some, digest.hexdigest()


def _bytes_of(group_ids: list[str]) -> bytes:
    try:
        return b"\n".join([group_id.encode() for group_id in group_ids]) + b"\n"
    except AttributeError:
        wrong = next(group_id for group_id in group_ids if not isinstance(group_id, str))
        raise SourceError(f"{wrong!r} is not text, so it is no group ID") from None
    except UnicodeEncodeError as error:
        raise SourceError(f"{error.object!r} is not Unicode text, so it is no group ID") from None

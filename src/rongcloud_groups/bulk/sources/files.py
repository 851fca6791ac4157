"""Where group IDs come from."""

import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from datetime import datetime
from io import RawIOBase
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol

import anyio

from rongcloud_groups._dispatch.listing import Listing
from rongcloud_groups.bulk.checkpoint import ListingPlace
from rongcloud_groups.bulk.files import PartialFile
from rongcloud_groups.bulk.sources.formats import InputFormat, SourceError, ids_in

BLOCK: Final = 100
"""Records that are taken up at a time; a job stops, writes and goes on between blocks."""
_CHUNK: Final = 64 * 1024


class Source(Protocol):
    """Gives group IDs, in an order that is the same each time.

    Attributes:
        name: what messages call it.
        kind: what must be the same when an unfinished job is gone on with.
        rereadable: whether it can be read twice, so that it is looked through before anything is asked.
    """

    name: str
    kind: str
    rereadable: bool

    def records(self) -> AsyncGenerator[list[str]]:
        """The IDs, some at a time; duplicates and invalid ones as they come.

        Raises:
            SourceError: the input cannot be read; the message names the line.
        """
        ...


class FileSource:
    """A text, CSV, TSV or JSON lines file, in UTF-8; or a pipe that has a name, which can be read only once.

    Args:
        path: the file.
        input_format: how it is read.
    """

    def __init__(self, path: Path, input_format: InputFormat) -> None:
        self.rereadable = not (path.is_fifo() or path.is_char_device())
        self.name = str(path)
        self.kind = f"file, {input_format.description}"
        self._path = path
        self._format = input_format

    def records(self) -> AsyncGenerator[list[str]]:
        """The IDs of the file."""
        return ids_in(self._chunks(), self._format, self.name)

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            with self._path.open("rb", buffering=0) as file:
                async for chunk in _chunks_of(file):
                    yield chunk
        except OSError as error:
            raise SourceError(f"cannot read {self.name}: {error.strerror}") from None


class StdinSource:
    """Whatever comes on stdin; it is waited for, so that a quiet pipe holds up nothing.

    Args:
        input_format: how it is read.
    """

    name = "stdin"
    rereadable = False

    def __init__(self, input_format: InputFormat) -> None:
        self.kind = f"stdin, {input_format.description}"
        self._format = input_format

    def records(self) -> AsyncGenerator[list[str]]:
        """The IDs on stdin."""
        stdin = sys.stdin.buffer.raw if hasattr(sys.stdin.buffer, "raw") else sys.stdin.buffer
        return ids_in(_chunks_of(stdin), self._format, self.name)


async def _chunks_of(file: BinaryIO | RawIOBase) -> AsyncIterator[bytes]:
    """What a file holds, or what comes through a pipe, without holding up anything else meanwhile."""
    pollable = True
    while True:
        if pollable:
            try:
                await anyio.wait_readable(file.fileno())
            except PermissionError:  # a regular file can always be read
                pollable = False
        if not (chunk := file.read(_CHUNK)):
            return
        yield chunk


class IterableSource:
    """The IDs of any iterable or asynchronous iterable.

    To go on with an unfinished job, give the same IDs in the same order again.

    Args:
        group_ids: the IDs.
        name: what messages call it.
    """

    kind = "iterable"
    rereadable = False

    def __init__(self, group_ids: Iterable[str] | AsyncIterable[str], name: str = "the IDs") -> None:
        self.name = name
        self._group_ids = group_ids

    async def records(self) -> AsyncGenerator[list[str]]:
        """The IDs: of an asynchronous iterable one by one, as they come."""
        if isinstance(self._group_ids, AsyncIterable):
            async for group_id in self._group_ids:
                yield [group_id]
        else:
            group_ids = iter(self._group_ids)
            while some := list(islice(group_ids, BLOCK)):
                yield some


class ListingSource:
    """All groups of the app, oldest first, as the listing gives them.

    The IDs are noted in ``OUT.listed`` on the way, so that a resumed job sees the same ones in the same order.

    Args:
        listing: `GroupClient.list_groups`.
        since: leave out groups that were created before; those whose time the listing does not tell stay.
        output: the job's output, beside which the IDs are noted; None where nothing can be resumed.
    """

    name = "the listing"
    rereadable = False

    def __init__(self, listing: Listing, *, since: datetime | None = None, output: Path | None = None) -> None:
        self.kind = "listing" if since is None else f"listing since {since.isoformat()}"
        self._listing = listing
        self._since = since
        self._noted = None if output is None else PartialFile(output.with_name(f"{output.name}.listed"))
        self.place = ListingPlace()

    def begin(self, place: ListingPlace | None) -> None:
        """Open the list: at a checkpoint, or afresh."""
        self.place = place or ListingPlace()
        if self._noted is not None:
            self._noted.begin(None if place is None else place.size)

    def make_durable(self) -> None:
        """Make the list as durable as `place` says."""
        if self._noted is not None:
            self._noted.sync()

    def close(self) -> None:
        """Leave the list as it is."""
        if self._noted is not None:
            self._noted.close()

    def forget(self) -> None:
        """Remove the list."""
        if self._noted is not None:
            self._noted.discard()

    async def records(self) -> AsyncGenerator[list[str]]:
        """The IDs noted by an earlier run, then those of the pages to come."""
        if self._noted is not None and self.place.size:
            with self._noted.partial.open("rb") as noted:
                while lines := noted.readlines(_CHUNK):
                    yield [line.decode().removesuffix("\n") for line in lines]
        if self.place.ended:
            return
        async for page in self._listing.pages(after=self.place.token):
            wanted = [group.group_id for group in page.groups if self._is_wanted(group.create_time)]
            ids = [group_id for group_id in wanted if "\n" not in group_id]  # the list has a line for each
            unreadable = self.place.unreadable + page.unreadable + len(wanted) - len(ids)
            if self._noted is not None:
                self._noted.write("".join(f"{group_id}\n" for group_id in ids).encode())
            size = 0 if self._noted is None else self._noted.size
            token = page.next_page_token
            self.place = ListingPlace(size, token, ended=token is None, unreadable=unreadable)
            yield ids

    def _is_wanted(self, created: datetime | None) -> bool:
        return self._since is None or created is None or created >= self._since


def file_source(path: Path, *, column: str | None = None, field: str | None = None) -> FileSource:
    """The source for a file: its name tells the format, unless a column or a field is named.

    Args:
        path: the file.
        column: the column of a CSV or TSV file.
        field: the field of JSON lines.
    """
    return FileSource(path, input_format(path.suffix.lower(), column=column, field=field))


def input_format(suffix: str, *, column: str | None = None, field: str | None = None) -> InputFormat:
    """How to read IDs.

    Args:
        suffix: of the file's name, or "".
        column: the column of CSV or TSV.
        field: the field of JSON lines.

    Raises:
        SourceError: both are given.
    """
    if column is not None and field is not None:
        raise SourceError("give a column (CSV, TSV) or a field (JSON lines), not both")
    kind: Literal["text", "csv", "tsv", "jsonl"] = "text"
    if column is not None:
        kind = "tsv" if suffix == ".tsv" else "csv"
    elif field is not None or suffix in {".jsonl", ".ndjson"}:
        kind = "jsonl"
    elif suffix in {".csv", ".tsv"}:
        kind = "csv" if suffix == ".csv" else "tsv"
    return InputFormat(kind, column or field or "group_id")

"""The input of a job: scanned first where that is possible, then read in blocks."""

from contextlib import aclosing

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from rongcloud_groups.bulk.blocks import Block, InputScan, read_blocks
from rongcloud_groups.bulk.errors import SourceError
from rongcloud_groups.bulk.sources.interface import Source


class JobInput:
    """Reads a source.

    Args:
        source: where the IDs come from.
        allow_empty: an input without any ID is no error.

    Attributes:
        total: records, where a scan has counted them.
        fingerprint: of these.
        error: that ended the reading.
        ended: whether all was read.
    """

    def __init__(self, source: Source, *, allow_empty: bool) -> None:
        self._source = source
        self._allow_empty = allow_empty or source.may_be_empty
        self._scanning = anyio.CancelScope()
        self._reading = anyio.CancelScope()
        self._scan: InputScan | None = None
        self.total: int | None = None
        self.fingerprint: str | None = None
        self.error: Exception | None = None
        self.ended = False

    @property
    def scanned(self) -> int | None:
        """Records that the scan under way has read; None where there is none."""
        return None if self._scan is None or self.total is not None else self._scan.records

    def stop(self) -> None:
        """End `scan` and `read`."""
        self._scanning.cancel()
        self._reading.cancel()

    async def scan(self, mark: int | None) -> InputScan | None:
        """Read all of a source that can be read twice, before the first request; None where that was stopped.

        Args:
            mark: where the digest of a checkpoint was taken.

        Raises:
            SourceError: it cannot be read, or has no IDs.
        """
        scan = InputScan(mark)
        with self._scanning:
            if self._source.rereadable:
                self._scan = scan
                await scan.read(self._source)
                self.total, self.fingerprint = scan.records, scan.digest
                self.check_not_empty(scan.records)
        return None if self._scanning.cancel_called else scan

    async def read(self, send: MemoryObjectSendStream[Block], *, done: int, digest: str) -> None:
        """Pass on blocks; an error is kept, so that all before it can be saved first.

        Args:
            send: takes the blocks.
            done: records at the start that an earlier run did.
            digest: of those.
        """
        with self._reading, send:
            try:
                async with aclosing(read_blocks(self._source, done=done, digest=digest)) as blocks:
                    async for block in blocks:
                        digest = block.digest
                        await send.send(block)
                if self.total and digest != self.fingerprint:
                    raise SourceError(  # noqa: TRY301  kept as any other
                        f"{self._source.name} changed while it was read; run the same command again, or use --restart "
                        "to start over"
                    )
                self.ended = True
            except Exception as error:  # noqa: BLE001  kept
                self.error = error

    def check_not_empty(self, records: int) -> None:
        """Refuse an input without any ID: more often than not, the command before the pipe failed.

        Raises:
            SourceError: it has none.
        """
        if not records and not self._allow_empty:
            raise SourceError(
                f"{self._source.name} has no IDs; the output is left as it is (--allow-empty if that is right)"
            )

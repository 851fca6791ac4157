"""How far a job is: written after its rows are durable, so that a killed job resumes without losing or doubling one."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from rongcloud_groups._tables.rows import ROW_SCHEMA_VERSION
from rongcloud_groups.bulk.errors import ResumeError

CHECKPOINT_VERSION: Final = 2


class Counts(Struct, frozen=True):
    """The records so far, by outcome.

    Attributes:
        records: IDs read from the input, each time they occur.
        duplicates: how many of them had occurred before.
        found: distinct IDs with a profile.
        missing: distinct IDs that the service does not have.
        failed: distinct IDs that ended in an error.
    """

    records: int = 0
    duplicates: int = 0
    found: int = 0
    missing: int = 0
    failed: int = 0


class ListingPlace(Struct, frozen=True):
    """How far the listing of an app's groups was read.

    Attributes:
        size: bytes of the list of IDs that are good.
        token: asks for the next page; None at the start, and at the end.
        ended: whether the last page was read.
        unreadable: entries so far without a group ID that can be looked up.
    """

    size: int = 0
    token: str | None = None
    ended: bool = False
    unreadable: int = 0


class Checkpoint(Struct, frozen=True, kw_only=True):
    """Everything that a later run needs in order to resume.

    Attributes:
        version: of this structure.
        row_schema_version: of the rows in the output.
        kind: of the input, and how it is read.
        total: records of the whole input, where it can be read twice.
        fingerprint: of these.
        digest: of the records so far.
        counts: these records, by outcome.
        sink_size: how much of the output is good, in the sink's own measure.
        failed_size: bytes of the list of failed IDs that are good.
        missing_size: bytes of the list of missing IDs that are good.
        seconds: that the job ran, all runs together.
        requests: that it sent, all runs together.
        complete: the rows are all there; only the files are not in their place yet.
        listing: where the IDs come from the listing.
        output_format: of a file that can have several.
        app_key: whose groups the rows are.
    """

    version: int = CHECKPOINT_VERSION
    row_schema_version: int = ROW_SCHEMA_VERSION
    kind: str
    total: int | None = None
    fingerprint: str | None = None
    digest: str = ""
    counts: Counts = Counts()
    sink_size: int = 0
    failed_size: int = 0
    missing_size: int = 0
    seconds: float = 0.0
    requests: int = 0
    complete: bool = False
    listing: ListingPlace | None = None
    output_format: str | None = None
    app_key: str | None = None


NOTHING_DONE: Final = Checkpoint(kind="")


def encoded(checkpoint: Checkpoint) -> bytes:
    """The checkpoint as it is stored."""
    return msgspec.json.format(msgspec.json.encode(checkpoint)) + b"\n"


def decoded(text: bytes, where: str) -> Checkpoint:
    """The stored checkpoint; a `ResumeError` if it cannot be read, or is another version's."""
    try:
        stored = msgspec.json.decode(text, type=dict[str, Any])
        if (stored.get("version"), stored.get("row_schema_version")) != (CHECKPOINT_VERSION, ROW_SCHEMA_VERSION):
            raise ResumeError(
                f"the checkpoint in {where} is another version's; finish the run with that one, or use --restart to "
                "start over"
            )
        return msgspec.convert(stored, Checkpoint)
    except msgspec.DecodeError:
        raise ResumeError(f"the checkpoint in {where} cannot be read; use --restart to start over") from None

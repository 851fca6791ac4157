"""How far a job is, and how it ended."""

from msgspec import Struct

from rongcloud_groups.bulk.checkpoint import Counts


class Progress(Struct, frozen=True):
    """How far a job is.

    Attributes:
        counts: of the records that are written.
        total: records of the input, where that is known.
        resumed_from: records that earlier runs had done.
        seconds: that this run has taken since its first request.
        requests: that this run has sent.
        rate: requests/s that the limiter lets through.
        scanned: records of the input read so far by the scan that comes before the first request; None once it is
            over, or where there is none.
    """

    counts: Counts
    total: int | None
    resumed_from: int
    seconds: float
    requests: int
    rate: float
    scanned: int | None = None


class Report(Struct, frozen=True):
    """How a job ended.

    Attributes:
        complete: whether the output is; otherwise the same job resumes where this run stopped.
        counts: the records by outcome, all runs together.
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

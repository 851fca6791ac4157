"""Bulk sync: any number of IDs into a file or a database, resumable to the last checkpoint."""

from rongcloud_groups.bulk.checkpoint import Checkpoint, Counts, ResumeError
from rongcloud_groups.bulk.failed_ids import Failure, Failures, FailuresFile, FailuresTold
from rongcloud_groups.bulk.job import Job, Progress, Report, ServiceGone
from rongcloud_groups.bulk.rows import COLUMNS, ROW_SCHEMA_VERSION
from rongcloud_groups.bulk.sinks.text import Format, OutputError, Sink, open_sink
from rongcloud_groups.bulk.sources.files import (
    FileSource,
    IterableSource,
    ListingSource,
    Source,
    StdinSource,
    file_source,
    input_format,
)
from rongcloud_groups.bulk.sources.formats import InputFormat, SourceError

__all__ = [
    "COLUMNS",
    "ROW_SCHEMA_VERSION",
    "Checkpoint",
    "Counts",
    "Failure",
    "Failures",
    "FailuresFile",
    "FailuresTold",
    "FileSource",
    "Format",
    "InputFormat",
    "IterableSource",
    "Job",
    "ListingSource",
    "OutputError",
    "Progress",
    "Report",
    "ResumeError",
    "ServiceGone",
    "Sink",
    "Source",
    "SourceError",
    "StdinSource",
    "file_source",
    "input_format",
    "open_sink",
]

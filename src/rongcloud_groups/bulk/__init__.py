"""Bulk sync: any number of IDs into a file or a database, resumable to the last checkpoint."""

from rongcloud_groups._tables.rows import COLUMNS, ROW_SCHEMA_VERSION
from rongcloud_groups.bulk.checkpoint import Checkpoint, Counts
from rongcloud_groups.bulk.errors import OutputError, OutputLost, ResumeError, ServiceUnavailable, SourceError
from rongcloud_groups.bulk.job import Job
from rongcloud_groups.bulk.lists import FailedIdsFile, FailedIdsPrinter, Failure, Failures, MissingIds, MissingIdsFile
from rongcloud_groups.bulk.report import Progress, Report
from rongcloud_groups.bulk.sinks.interface import Format, Sink
from rongcloud_groups.bulk.sinks.open import open_sink
from rongcloud_groups.bulk.sources.files import FileSource, StdinSource, file_source, input_format
from rongcloud_groups.bulk.sources.formats import InputFormat
from rongcloud_groups.bulk.sources.interface import Source
from rongcloud_groups.bulk.sources.iterable import IterableSource
from rongcloud_groups.bulk.sources.listing import ListingSource

__all__ = [
    "COLUMNS",
    "ROW_SCHEMA_VERSION",
    "Checkpoint",
    "Counts",
    "FailedIdsFile",
    "FailedIdsPrinter",
    "Failure",
    "Failures",
    "FileSource",
    "Format",
    "InputFormat",
    "IterableSource",
    "Job",
    "ListingSource",
    "MissingIds",
    "MissingIdsFile",
    "OutputError",
    "OutputLost",
    "Progress",
    "Report",
    "ResumeError",
    "ServiceUnavailable",
    "Sink",
    "Source",
    "SourceError",
    "StdinSource",
    "file_source",
    "input_format",
    "open_sink",
]

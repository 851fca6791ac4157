"""Whether an unfinished run can be resumed with the input, and whether a complete one was of the very same input."""

from rongcloud_groups.bulk.blocks import InputScan, input_changed
from rongcloud_groups.bulk.checkpoint import Checkpoint
from rongcloud_groups.bulk.errors import ResumeError
from rongcloud_groups.bulk.sources.interface import Source


class ResumeCheck:
    """Compares a checkpoint with a job.

    Args:
        saved: the checkpoint.
        source: the job's source.
        output: the output's name in messages.
        app_key: the job's App Key.
    """

    def __init__(self, saved: Checkpoint, source: Source, output: str, app_key: str) -> None:
        self._saved = saved
        self._source = source
        self._output = output
        self._app_key = app_key

    def check_source(self) -> None:
        """Check the kind of input and the App Key, without reading the input.

        Raises:
            ResumeError: the job is another one.
        """
        saved = self._saved
        if saved.kind != self._source.kind:
            raise ResumeError(
                f"an unfinished run of {self._output} has another input ({saved.kind}, not {self._source.kind}); "
                "give the same one, or --restart"
            )
        if saved.app_key != self._app_key:
            raise ResumeError(
                f"an unfinished run of {self._output} has the groups of another App Key ({saved.app_key}, not "
                f"{self._app_key}); use that one, or --restart"
            )

    def check_scan(self, scan: InputScan) -> None:
        """Check that the input is the same, or the same with more records at its end.

        Raises:
            ResumeError: it is another one.
        """
        if scan.marked_digest != self._saved.fingerprint:
            raise input_changed(self._source.name)

    def is_same_input(self, scan: InputScan) -> bool:
        """Whether a complete run was this very job, for sure."""
        saved = self._saved
        return (
            self._source.rereadable
            and (saved.kind, saved.app_key) == (self._source.kind, self._app_key)
            and (saved.total, saved.fingerprint) == (scan.records, scan.digest)
        )

"""The base of sinks whose output is a file that is replaced as a whole."""

from pathlib import Path

import msgspec

from rongcloud_groups.bulk.checkpoint import Checkpoint, CheckpointFile
from rongcloud_groups.bulk.files import PartialFile
from rongcloud_groups.bulk.sinks.interface import Format, Sink
from rongcloud_groups.errors import ConfigError


class FileSink(Sink):
    """Rows that are appended to ``PATH.partial``, with the checkpoint beside it.

    Args:
        path: the output.
        file_format: its format.
        force: replace a file that no job wrote.
    """

    def __init__(self, path: Path, file_format: Format, *, force: bool = False) -> None:
        self.name = str(path)
        self.path: Path | None = path
        self._output = path
        self._force = force
        self._file = PartialFile(path)
        self._checkpoint = CheckpointFile(path, file_format)

    def load(self) -> Checkpoint | None:
        saved = self._checkpoint.load()
        if saved is not None and saved.complete:
            self._file.check_complete(saved.sink_size)
        return saved

    def commit(self, checkpoint: Checkpoint) -> None:
        self._checkpoint.save(msgspec.structs.replace(checkpoint, sink_size=self._file.sync()))

    def publish(self) -> None:
        self._file.publish()

    def forget(self) -> None:
        """Remove the file of rows, if it is there, then the checkpoint, which alone would say that all is done."""
        self._file.discard()
        self._checkpoint.remove()

    def discard(self) -> None:
        self._checkpoint.remove()
        self._file.discard()

    def close(self) -> None:
        self._file.close()


def not_an_output(path: Path) -> ConfigError:
    """The error where a file would be replaced that no job wrote."""
    return ConfigError(
        f"{path} exists and does not look like an output of this command in that format; use --force to replace it, or "
        "give another output"
    )

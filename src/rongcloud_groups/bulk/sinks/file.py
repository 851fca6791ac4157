"""The base of sinks whose output is a file that is replaced as a whole."""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

import msgspec

from rongcloud_groups.bulk.checkpoint import Checkpoint, decoded, encoded
from rongcloud_groups.bulk.errors import ResumeError
from rongcloud_groups.bulk.files import PartialFile, check_writable, replacing
from rongcloud_groups.bulk.sinks.interface import Format, Sink
from rongcloud_groups.errors import ConfigError


class FileSink(Sink):
    """Rows that are appended to ``PATH.partial``, with the checkpoint beside it; ``force`` replaces any file."""

    _header = b""

    def __init__(self, path: Path, file_format: Format, *, force: bool = False) -> None:
        self.name = str(path)
        self.path: Path | None = path
        self._output = path
        self._format = file_format
        self._force = force
        self._file = PartialFile(path)
        self._checkpoint = Path(f"{path}.checkpoint")

    def load(self) -> Checkpoint | None:
        try:
            saved = decoded(self._checkpoint.read_bytes(), str(self._checkpoint))
        except FileNotFoundError:
            return None
        if saved.output_format != self._format:
            raise ResumeError(
                f"the unfinished run of {self._output.name} wrote {saved.output_format}, not {self._format}; give the "
                "same format, or --restart"
            )
        if saved.complete:
            self._file.check_complete(saved.sink_size)
        return saved

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:
        check_writable(self._output)
        start: Iterable[bytes] = [self._header]
        if self._output.exists() and self._output.stat().st_size:
            if keep:
                start = self._finished_rows()
            elif not self._force and not self._is_output():
                raise ConfigError(
                    f"{self.name} exists and does not look like an output of this command in that format; use --force "
                    "to replace it, or give another output"
                )
        if saved is not None:
            self._file.begin(saved.sink_size)
            return
        self._checkpoint.unlink(missing_ok=True)
        self._file.begin(0)
        for content in start:
            self._file.append(content)

    def commit(self, checkpoint: Checkpoint) -> None:
        size = self._file.make_durable()
        with replacing(self._checkpoint, like=self._output) as file:
            file.write(encoded(msgspec.structs.replace(checkpoint, sink_size=size, output_format=self._format)))

    def publish(self) -> None:
        self._file.publish()

    def forget(self) -> None:
        self._checkpoint.unlink(missing_ok=True)
        Path(f"{self._checkpoint}.new").unlink(missing_ok=True)
        self._file.discard()

    def close(self) -> None:
        self._file.close()

    @abstractmethod
    def _is_output(self) -> bool:
        """Whether a job wrote the file that is there."""

    @abstractmethod
    def _finished_rows(self) -> Iterable[bytes]:
        """The rows of the file that is there, as this job writes them; a `ConfigError` if none can be added."""

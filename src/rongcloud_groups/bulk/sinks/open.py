"""The sink for an output."""

import re
from pathlib import Path
from typing import Final, get_args

from rongcloud_groups._validation import extra_needed
from rongcloud_groups.bulk.files import check_writable
from rongcloud_groups.bulk.sinks.interface import Format, Sink
from rongcloud_groups.bulk.sinks.text import StdoutSink, TextSink
from rongcloud_groups.errors import ConfigError

_SUFFIXES: Final[dict[Format, set[str]]] = {
    "jsonl": {".jsonl", ".ndjson"},
    "csv": {".csv"},
    "sqlite": {".sqlite", ".sqlite3", ".db"},
    "parquet": {".parquet"},
}
_URL: Final = re.compile(r"[A-Za-z][\w+.-]+:/")  # a drive has one letter


def check_output_name(output: str) -> None:
    """Raise a `ConfigError` for a text that names no file."""
    if not output.strip():
        raise ConfigError("the output's name is empty; give a file")
    if not Path(output).name:
        raise ConfigError(f"cannot write {output}: it is a directory")
    if output == ":memory:" or output.startswith("file:"):
        raise ConfigError(f"{output} is no file; give one, such as groups.db")
    if _URL.match(output):
        raise ConfigError(
            f"{output} is a URL, and only files can be written; write to stdout (-o -) and pipe it into a program that "
            "takes it, or copy the file when it is done"
        )


def open_sink(
    path: Path | str | None, file_format: Format | None = None, *, force: bool = False, keep_missing: bool = False
) -> Sink:
    """The sink for a file, or for stdout where ``path`` is None.

    Args:
        path: the output.
        file_format: its format, where its name does not tell.
        force: replace a file that no job wrote, and add to a database that has the groups of another App Key.
        keep_missing: leave the rows of missing groups in a database.

    Raises:
        ConfigError: no format, one that stdout cannot take, a name that is no file's, a file that cannot be written,
            or a missing extra.
    """
    if path is None:
        if file_format in {"sqlite", "parquet"}:
            raise ConfigError(f"{file_format} cannot go to stdout; give a file with -o")
        return StdoutSink(file_format or "jsonl")
    check_output_name(str(path))
    path = Path(path)
    chosen = file_format or next((name for name, each in _SUFFIXES.items() if path.suffix.lower() in each), None)
    if chosen is None:
        raise ConfigError(f"the name {path.name!r} does not tell a format; give --format {'|'.join(get_args(Format))}")
    check_writable(path)
    if chosen == "sqlite":
        from rongcloud_groups.bulk.sinks.sqlite import SqliteSink

        return SqliteSink(path, force=force, keep_missing=keep_missing)
    if chosen == "parquet":
        try:
            from rongcloud_groups.bulk.sinks.parquet import ParquetSink
        except ModuleNotFoundError:
            raise ConfigError(extra_needed("Parquet", "parquet")) from None
        return ParquetSink(path, force=force)
    return TextSink(path, chosen, force=force)

"""The sink for an output."""

from pathlib import Path
from typing import get_args

from rongcloud_groups.bulk.sinks.interface import Format, Sink
from rongcloud_groups.bulk.sinks.text import StdoutSink, TextSink
from rongcloud_groups.errors import ConfigError

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
    ".parquet": "parquet",
}


def format_of(path: Path | None, given: Format | None = None) -> Format:
    """The format: the one given, or that of the file's name.

    Raises:
        ConfigError: the name does not tell.
    """
    if given is not None:
        return given
    if path is None:
        return "jsonl"
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise ConfigError(
            f"the name {path.name!r} does not tell a format; give --format {'|'.join(get_args(Format))}"
        ) from None


def open_sink(path: Path | None, file_format: Format | None = None) -> Sink:
    """The sink for a file, or for stdout where ``path`` is None.

    Raises:
        ConfigError: no format, one that stdout cannot take, or a missing extra.
    """
    chosen = format_of(path, file_format)
    if path is None:
        if chosen not in {"jsonl", "csv"}:
            raise ConfigError(f"{chosen} cannot go to stdout; give a file with -o")
        return StdoutSink(chosen)
    if chosen == "sqlite":
        from rongcloud_groups.bulk.sinks.sqlite import SqliteSink

        return SqliteSink(path)
    if chosen == "parquet":
        try:
            from rongcloud_groups.bulk.sinks.parquet import ParquetSink
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "pyarrow":
                raise
            raise ConfigError("Parquet needs an extra: pip install 'rongcloud-groups[parquet]'") from None
        return ParquetSink(path)
    return TextSink(path, chosen)

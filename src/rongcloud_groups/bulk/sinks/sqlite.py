"""Rows in a SQLite database, where the checkpoint is part of the same transaction."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Final

from rongcloud_groups._tables.output import WriteCancelled
from rongcloud_groups._tables.rows import COLUMN_KINDS, COLUMNS, ROW_SCHEMA_VERSION, FlatRow, flat_row, time_text
from rongcloud_groups.bulk.checkpoint import Checkpoint, decoded, encoded
from rongcloud_groups.bulk.errors import OutputError, OutputLost
from rongcloud_groups.bulk.files import check_writable
from rongcloud_groups.bulk.sinks.interface import Sink
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.models import GroupProfile

LOCK_TIMEOUT: Final = 60.0
"""Seconds that other programs may keep the database locked."""

_POLL: Final = 0.2
_TYPES: Final = {name: "INTEGER" if kind == "integer" else "TEXT" for name, kind in COLUMN_KINDS.items()}
_TYPES["group_id"] = "TEXT PRIMARY KEY NOT NULL"
_CREATE: Final = ", ".join(f"{column} {_TYPES[column]}" for column in COLUMNS)
_UPSERT: Final = (
    f"INSERT INTO groups ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608  our names
    f"ON CONFLICT (group_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}"
)
_RENEW_TIMES: Final = (
    "UPDATE groups SET create_time = strftime('%Y-%m-%dT%H:%M:%fZ', create_time) "
    "WHERE create_time IS NOT NULL AND length(create_time) <> 24"
)
"""Version 0.1.0 wrote milliseconds only where there were some."""
_NOTE: Final = "INSERT INTO _sync VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_NOTED: Final = "SELECT value FROM _sync WHERE name = ?"
_FORGET_CHECKPOINT: Final = "DELETE FROM _sync WHERE name IN ('checkpoint', 'journal_mode')"


class SqliteSink(Sink):
    """The table ``groups``, a row a group, updated where it is there already; the checkpoint is in ``_sync``."""

    seconds_between_commits = 0.1
    """Rows are in memory until a commit, which locks the database and costs no wait for the disk (WAL)."""

    def __init__(self, path: Path, *, force: bool = False, keep_missing: bool = False) -> None:
        self.name = str(path)
        self.path: Path | None = path
        self._output = path
        self._force = force
        self._keep_missing = keep_missing
        self._connection: sqlite3.Connection | None = None
        self._cancelled = Event()
        self._rows: list[FlatRow] = []
        self._removed: list[tuple[str]] = []
        self._opened: os.stat_result

    def load(self) -> Checkpoint | None:
        text = self._noted("checkpoint")
        return None if text is None else decoded(text.encode(), self.name)

    def app_key_of_rows(self) -> str | None:
        return None if self._force else self._noted("app_key")

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:  # noqa: ARG002  a database keeps its rows
        check_writable(self._output)
        try:
            [[journal_mode]] = self._execute("PRAGMA journal_mode")
            self._execute("PRAGMA journal_mode = WAL")
            self._execute("PRAGMA synchronous = NORMAL")
            self._execute("PRAGMA cache_size = -16000")  # KiB: the index on IDs in any order is read all over
            self._execute("PRAGMA wal_autocheckpoint = 8000")
            self._execute("BEGIN IMMEDIATE")
            self._opened = self._output.stat()
            self._execute(f"CREATE TABLE IF NOT EXISTS groups ({_CREATE})")
            self._execute("CREATE TABLE IF NOT EXISTS _sync (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)")
            _check_table(self._database)
            self._execute(_RENEW_TIMES)
            self._execute(_NOTE, ("row_schema_version", str(ROW_SCHEMA_VERSION)))
            if saved is None:
                self._execute(_FORGET_CHECKPOINT)
                self._execute(_NOTE, ("journal_mode", journal_mode))
            self._execute("COMMIT")
        except (sqlite3.Error, ConfigError) as error:
            self.close()
            raise ConfigError(f"cannot write {self.name}: {error}") from None

    def encode(self, profile: GroupProfile) -> FlatRow:
        return tuple(time_text(value) if isinstance(value, datetime) else value for value in flat_row(profile))

    def write(self, rows: Sequence[Any]) -> None:
        self._rows += rows

    def remove(self, group_ids: Sequence[str]) -> None:
        if not self._keep_missing:
            self._removed += ((group_id,) for group_id in group_ids)

    def commit(self, checkpoint: Checkpoint) -> None:
        try:
            in_place = os.path.samestat(self._opened, self._output.stat())
        except (FileNotFoundError, NotADirectoryError):
            in_place = False
        if not in_place:
            raise OutputLost(f"{self.name} was removed or replaced while it was in use; run the same command again")
        with self._transaction():
            self._database.executemany(_UPSERT, self._rows)
            self._database.executemany("DELETE FROM groups WHERE group_id = ?", self._removed)
            self._execute(_NOTE, ("checkpoint", encoded(checkpoint).decode()))
            if checkpoint.app_key is not None:
                self._execute(_NOTE, ("app_key", checkpoint.app_key))
        self._rows.clear()
        self._removed.clear()

    def forget(self) -> None:
        """Remove the checkpoint and leave the database as one file."""
        with self._transaction():
            noted = self._execute(_NOTED, ("journal_mode",))
            self._execute(_FORGET_CHECKPOINT)
        with suppress(sqlite3.OperationalError):  # another program is reading: it stays as it is
            self._database.execute(f"PRAGMA journal_mode = {noted[0][0] if noted else 'delete'}")
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def cancel(self) -> None:
        self._cancelled.set()

    @property
    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self.name, timeout=_POLL, isolation_level=None, check_same_thread=False)
        return self._connection

    def _noted(self, name: str) -> str | None:
        if not self._output.exists():
            return None
        try:
            rows = self._execute("SELECT 1 FROM sqlite_master WHERE name = '_sync'") and self._execute(_NOTED, (name,))
        except sqlite3.Error as error:
            raise ConfigError(f"cannot read {self.name}: {error}") from None
        finally:
            self.close()
        return str(rows[0][0]) if rows else None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit the statements within; after an error, `close` undoes them."""
        try:
            self._execute("BEGIN IMMEDIATE")
            yield
            self._execute("COMMIT")
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {self.name}: {error}") from error

    def _execute(self, statement: str, parameters: tuple[str, ...] = ()) -> list[Any]:
        """Execute a statement, and return its rows; where another program has locked the database, wait for it."""
        deadline = monotonic() + LOCK_TIMEOUT
        while True:
            try:
                return self._database.execute(statement, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                    raise
                if self._cancelled.is_set():
                    raise WriteCancelled from None
                if monotonic() > deadline:
                    raise


def _check_table(database: sqlite3.Connection) -> None:
    """Check that the table takes any row, by a row that is undone."""
    columns = [row[1] for row in database.execute("PRAGMA table_info(groups)")]
    if absent := [column for column in COLUMNS if column not in columns]:
        raise ConfigError(f"it has a table 'groups' of another kind: it has no column {absent[0]!r}")
    database.execute("SAVEPOINT trial")
    try:
        database.execute(_UPSERT, ("0123", *(None if COLUMN_KINDS[name] != "json" else "{}" for name in COLUMNS[1:])))
        kept = database.execute("SELECT 1 FROM groups WHERE typeof(group_id) = 'text' AND group_id = '0123'").fetchone()
    except sqlite3.Error as error:
        raise ConfigError(f"it has a table 'groups' of another kind: {error}") from None
    finally:
        database.execute("ROLLBACK TO trial")
        database.execute("RELEASE trial")
    if kept is None:
        raise ConfigError("it has a table 'groups' of another kind: the column 'group_id' does not keep texts")

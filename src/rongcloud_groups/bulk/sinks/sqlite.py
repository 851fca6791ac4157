"""Rows in a SQLite database, where the checkpoint is part of the same transaction."""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from rongcloud_groups.bulk.checkpoint import Checkpoint, decoded, encoded
from rongcloud_groups.bulk.errors import OutputError
from rongcloud_groups.bulk.rows import COLUMNS, ROW_SCHEMA_VERSION, FlatRow, flat_row
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.models import GroupProfile

_TYPES: Final = {"group_id": "TEXT PRIMARY KEY NOT NULL", "member_count": "INTEGER"}
_CREATE: Final = ", ".join(f"{column} {_TYPES.get(column, 'TEXT')}" for column in COLUMNS)
_UPSERT: Final = (
    f"INSERT INTO groups ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608  our names
    f"ON CONFLICT (group_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}"
)


class SqliteSink:
    """The table ``groups``, one row a group, updated where it is there already.

    Rows can be read while the job runs. The table ``_sync`` holds the version of the row schema and, while a job is
    unfinished, its checkpoint. Rows of groups that are not among the IDs stay as they are.

    Args:
        path: the database; it is made where it does not exist.
    """

    seconds_between_commits = 1.0

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path: Path | None = path
        self._database: sqlite3.Connection | None = None

    def load(self) -> Checkpoint | None:
        """The checkpoint of an unfinished run, or None."""
        assert self.path is not None  # noqa: S101  an invariant
        if not self.path.exists():
            return None
        try:
            with self._connected() as database:
                if not database.execute("SELECT 1 FROM sqlite_master WHERE name = '_sync'").fetchone():
                    return None
                row = database.execute("SELECT value FROM _sync WHERE name = 'checkpoint'").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(f"cannot read {self.name}: {error}") from None
        finally:
            self.close()
        return None if row is None else decoded(row[0].encode(), self.name)

    def begin(self, saved: Checkpoint | None, *, keep: bool) -> None:  # noqa: ARG002  a database keeps what it has
        """Open the database and make the tables."""
        try:
            database = self._connected()
            [journal_mode] = database.execute("PRAGMA journal_mode").fetchone()
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA cache_size = -16000")  # KiB: the index on IDs in any order is read all over
            database.execute("PRAGMA wal_autocheckpoint = 8000")
            database.execute("BEGIN IMMEDIATE")
            database.execute(f"CREATE TABLE IF NOT EXISTS groups ({_CREATE})")
            database.execute("CREATE TABLE IF NOT EXISTS _sync (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)")
            self._note("row_schema_version", str(ROW_SCHEMA_VERSION))
            columns = [row[1] for row in database.execute("PRAGMA table_info(groups)")]
        except sqlite3.Error as error:
            self.close()
            raise ConfigError(f"cannot write {self.name}: {error}") from None
        if absent := [column for column in COLUMNS if column not in columns]:
            self.close()
            raise ConfigError(f"{self.name} has a table 'groups' of another kind: it has no column {absent[0]!r}")
        if saved is None:
            self._forget_checkpoint()
            self._note("journal_mode", journal_mode)
            self._commit()

    def encode(self, profile: GroupProfile) -> FlatRow:
        """The row."""
        return flat_row(profile)

    def write(self, rows: Sequence[Any]) -> None:
        """Insert or update rows."""
        self._work(lambda database: database.executemany(_UPSERT, rows))

    def commit(self, checkpoint: Checkpoint) -> None:
        """Commit the rows and the checkpoint together."""
        self._note("checkpoint", encoded(checkpoint).decode())
        self._commit()

    def publish(self) -> None:
        """The rows are in their place already."""

    def forget(self) -> None:
        """Remove the checkpoint and leave the database as one file."""
        database = self._database
        if database is None:
            database = self._connected()
            database.execute("BEGIN IMMEDIATE")
        [journal_mode] = database.execute("SELECT value FROM _sync WHERE name = 'journal_mode'").fetchone()
        self._forget_checkpoint()
        self._work(lambda database: database.execute("COMMIT"))
        with suppress(sqlite3.OperationalError):  # somebody is reading: it stays as it is
            database.execute(f"PRAGMA journal_mode = {journal_mode}")
        self.close()

    def close(self) -> None:
        """Close the database; what was not committed is undone."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _connected(self) -> sqlite3.Connection:
        self._database = sqlite3.connect(self.name, timeout=0.5, isolation_level=None, check_same_thread=False)
        return self._database

    def _commit(self) -> None:
        self._work(lambda database: database.execute("COMMIT"))
        self._work(lambda database: database.execute("BEGIN IMMEDIATE"))  # keeps a second job out

    def _note(self, name: str, value: str) -> None:
        statement = "INSERT INTO _sync VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        self._work(lambda database: database.execute(statement, (name, value)))

    def _forget_checkpoint(self) -> None:
        self._work(lambda database: database.execute("DELETE FROM _sync WHERE name IN ('checkpoint', 'journal_mode')"))

    def _work(self, statement: Any) -> None:
        assert self._database is not None, "it was begun"  # noqa: S101  an invariant
        try:
            statement(self._database)
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {self.name}: {error}") from error

"""Which IDs were there before: exact, in flat memory, on disk."""

import sqlite3
from typing import Final

import msgspec

_INSERT: Final = "INSERT OR IGNORE INTO seen SELECT value FROM json_each(?) RETURNING group_id"
_INSERT_ONE: Final = "INSERT OR IGNORE INTO seen VALUES (?)"


class SeenIds:
    """A set of IDs in a temporary database. It need not be durable: a resumed job reads its input again."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # no name: a temporary file
        # IDs come in any order: of a large tree no cache (in KiB) holds the next page; a larger one only fills later.
        for setting in ("cache_size = -512", "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE seen (group_id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, group_ids: list[str]) -> list[str]:
        """Add IDs; return those that were not there before, each once, in the order given."""
        as_json = msgspec.json.encode(group_ids).decode()
        try:
            if "\\u0000" in as_json:  # SQLite's JSON ends a text there
                return [group_id for group_id in group_ids if self._database.execute(_INSERT_ONE, (group_id,)).rowcount]
            new = {row[0] for row in self._database.execute(_INSERT, (as_json,))}
        except sqlite3.OperationalError as error:
            raise OSError(f"cannot keep the IDs that were read in a temporary file (see TMPDIR): {error}") from None
        return [group_id for group_id in dict.fromkeys(group_ids) if group_id in new]

    def close(self) -> None:
        self._database.close()

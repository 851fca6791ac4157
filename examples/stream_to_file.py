"""Look up a file of group IDs: ``python examples/stream_to_file.py group-ids.txt profiles.jsonl``.

The credentials come from the environment; see the README.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rongcloud_groups import GroupClient


async def look_up(ids_file: Path, profiles_file: Path) -> bool:
    """Write a line of JSON for each group that is found; return whether no ID failed."""
    encode_lines = msgspec.json.Encoder().encode_lines
    found = missing = failed = 0
    with profiles_file.open("wb") as profiles:
        async with GroupClient.from_env() as client, client.stream(group_ids_in(ids_file)) as parts:
            async for part in parts:
                profiles.write(encode_lines(part.found.values()))
                found, missing, failed = found + len(part.found), missing + len(part.missing), failed + len(part.failed)
                for group_id, error in part.failed.items():
                    print(f"{group_id}: {error}", file=sys.stderr)
    print(f"{found} found, {missing} missing, {failed} failed, {client.stats().requests} requests")
    return not failed


def group_ids_in(path: Path) -> Iterator[str]:
    """The lines of a file that are not empty, one at a time."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if group_id := line.strip():
                yield group_id


if __name__ == "__main__":
    if len(sys.argv) != 3:  # noqa: PLR2004  two files
        sys.exit(f"usage: {sys.argv[0]} IDS_FILE PROFILES_FILE")
    sys.exit(0 if asyncio.run(look_up(Path(sys.argv[1]), Path(sys.argv[2]))) else 1)

"""Where the client's processor time goes: a profile of a lookup with the rate limit lifted, as text.

``python -m benchmarks.measuring.profile_batches NAME`` writes ``results/profile-NAME.txt``. Under the profiler every
call costs more than it does, so it says where to look, not how long a thing takes; `batch_cost.py` says that.
"""

import argparse
import asyncio
import cProfile
import io
import pstats
import re
import sys
import time
from pathlib import Path

from benchmarks.measuring.measured import RESULTS
from benchmarks.servers.child_processes import raw_server, trusting

from rongcloud_groups import GroupClient
from rongcloud_groups.emulator.program import Address

BATCHES = 1000
SHOWN = 45


async def profile(address: Address) -> cProfile.Profile:
    client = GroupClient(
        address.app_key, address.app_secret, base_urls=address.url, verify=trusting(address), rate=1e6, max_in_flight=20
    )
    profiler = cProfile.Profile(time.process_time)
    async with client:
        await client.get_many([f"warm-{number}" for number in range(1000)])
        with profiler:
            lookup = await client.get_many([f"group-{number:06}" for number in range(50 * BATCHES)])
    assert len(lookup.found) == 50 * BATCHES
    return profiler


def as_text(profiler: cProfile.Profile) -> str:
    written = io.StringIO()
    stats = pstats.Stats(profiler, stream=written)
    for order in ("tottime", "cumtime"):
        stats.sort_stats(order).print_stats(SHOWN)
    packages = r"site-packages/|lib/python[0-9.]+/|(?=rongcloud_groups/|benchmarks/)"
    text = re.sub(rf"\S*/(?:{packages})", "", written.getvalue())
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="what the profile is of, such as before or after")
    path: Path = RESULTS / f"profile-{parser.parse_args().name}.txt"
    with raw_server() as address:
        text = as_text(asyncio.run(profile(address)))
    path.write_text(f"{BATCHES} batches of 50 IDs, processor time in seconds\n{text}", encoding="utf-8")
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()

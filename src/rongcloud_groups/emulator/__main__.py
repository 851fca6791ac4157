"""``python -m rongcloud_groups.emulator``: for other programs, which read its first line of output."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rongcloud_groups.emulator.faults import Faults
from rongcloud_groups.emulator.groups import Universe
from rongcloud_groups.emulator.rate_limit import OtherConsumer
from rongcloud_groups.emulator.serve import Address, serve
from rongcloud_groups.emulator.server import Emulator
from rongcloud_groups.emulator.service import Service


def main(arguments: Sequence[str] | None = None) -> None:
    """Run an emulator; print one line of JSON with its address to stdout, and the report to stderr.

    Args:
        arguments: the command line's; None takes those of the process.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        faults = Faults.parse(options.fault, seed=options.seed)
        universe = _universe(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    service = Service(
        universe=universe,
        faults=faults,
        limit=options.limit or None,
        window=options.window,
        count_refused=options.count_refused,
        retry_after=options.retry_after,
        other=OtherConsumer(rate=options.other) if options.other else None,
        latency=options.latency,
        latency_tail=options.latency_tail,
        seed=options.seed,
    )
    emulator = Emulator(service, host=options.host, port=options.port, tls=options.tls, http2=options.http2)
    asyncio.run(serve(emulator, ca_file=options.ca_file, started=_announce))


def _announce(address: Address) -> None:
    sys.stdout.write(msgspec.json.encode(address).decode() + "\n")
    sys.stdout.flush()


def _universe(options: argparse.Namespace) -> Universe:
    if options.groups is not None:
        return Universe.from_jsonl(options.groups)
    return Universe(options.seed, unknown_share=options.unknown, listed=options.listed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rongcloud_groups.emulator", description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    add("--no-tls", dest="tls", action="store_false", help="HTTP/1.1 in the clear")
    add("--no-http2", dest="http2", action="store_false", help="HTTP/1.1 alone")
    add("--ca-file", type=Path, help="where to write the certificate to trust; else a temporary file")
    add("--groups", type=Path, help="a file with all the groups, one JSON object a line")
    add("--listed", type=int, default=0, help="how many generated groups the listing has")
    add("--unknown", type=float, default=0.1, help="share of the IDs that name no group")
    add("--seed", type=int, default=0, help="of the groups, the faults and the latency")
    add("--limit", type=int, default=100, help="requests per second; 0 lifts the limit")
    add("--window", choices=("sliding", "fixed", "bucket"), default="sliding", help="how they are counted")
    add("--count-refused", action="store_true", help="refused requests count as well")
    add("--retry-after", type=float, help="seconds in a refusal's Retry-After")
    add("--other", type=float, default=0.0, help="requests per second of another consumer of the App Key")
    add("--latency", type=float, default=0.0, help="seconds before each answer")
    add("--latency-tail", type=float, default=0.0, help="mean of an exponential addition, in seconds")
    add("--fault", action="append", default=[], metavar="NAME[=VALUE]", help="what goes wrong; repeatable")
    return parser


if __name__ == "__main__":
    main()

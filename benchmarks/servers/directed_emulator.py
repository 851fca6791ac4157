"""The emulator, with what its command line does not offer.

A request's header ``x-answer-after`` says after how many seconds it is answered, and another consumer may share
the budget for a while. It prints the same line as ``python -m rongcloud_groups.emulator``.
"""

import argparse
import asyncio
from collections.abc import Mapping

from rongcloud_groups.emulator import Emulator, OtherConsumer, Service, serve
from rongcloud_groups.emulator.responses import Response


class DirectedService(Service):
    def respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Response:
        response = super().respond(method, path, headers, body, now)
        return response._replace(delay=float(headers.get("x-answer-after", response.delay)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=100, help="requests/s; 0 lifts the limit")
    parser.add_argument("--count-refused", action="store_true", help="refused requests count as well")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each response")
    parser.add_argument("--other", type=float, default=0.0, help="requests/s of another consumer")
    parser.add_argument("--other-begins", type=float, default=0.0, help="seconds after the first request")
    parser.add_argument("--other-lasts", type=float, default=0.0, help="seconds")
    options = parser.parse_args()
    other = OtherConsumer(rate=options.other, begins=options.other_begins, lasts=options.other_lasts)
    service = DirectedService(
        limit=options.rate or None,
        count_refused=options.count_refused,
        latency=options.latency,
        other=other if options.other else None,
    )
    asyncio.run(serve(Emulator(service)))


if __name__ == "__main__":
    main()

"""Counts requests, connections and responses while the emulator runs, and makes the report."""

import asyncio
from array import array
from collections import Counter

import msgspec

from rongcloud_groups.emulator.rate_limit import worst_second
from rongcloud_groups.emulator.responses import Response
from rongcloud_groups.emulator.service import ROUTES


class Report(msgspec.Struct, kw_only=True):
    """The counters since the emulator started, or since they were cleared.

    Attributes:
        requests: requests received by path, also the refused.
        batch_requests: batch queries received, also the refused.
        refused: requests refused for their rate (code 1008).
        codes: responses by the service's code; 0 stands for one without a code.
        worst_second: the most batch queries received in any second [t, t + 1), also the refused.
        connections: connections accepted.
        max_requests_on_connection: the most requests that one connection carried.
        ids_asked: group IDs in all batch queries that were let in.
        ids_asked_again: distinct IDs among them that were asked for more than once.
        faults: faults played, by name.
        http_versions: requests by HTTP version.
        never_processed: requests that a GOAWAY left out, and which were dropped unanswered.
        protocol_errors: connections that the client broke the protocol on.
        tls_failures: connections whose handshake failed or was given up.
    """

    requests: dict[str, int] = {}
    batch_requests: int = 0
    refused: int = 0
    codes: dict[int, int] = {}
    worst_second: int = 0
    connections: int = 0
    max_requests_on_connection: int = 0
    ids_asked: int = 0
    ids_asked_again: int = 0
    faults: dict[str, int] = {}
    http_versions: dict[str, int] = {}
    never_processed: int = 0
    protocol_errors: int = 0
    tls_failures: int = 0


class Record:
    """Counts requests and responses; IDs are kept as 8-byte hashes.

    Args:
        keep_ids: whether the IDs of each batch are kept, in `batches`.
    """

    def __init__(self, *, keep_ids: bool = False) -> None:
        self._keep_ids = keep_ids
        self._waiting: list[asyncio.Future[None]] = []
        self.clear()

    def clear(self) -> None:
        """Start counting from zero; `wait_for` keeps waiting."""
        self.arrivals: array[float] = array("d")
        self.batches: list[list[str]] = []
        self.counts = Report()
        self._paths: Counter[str] = Counter()
        self._http_versions: Counter[str] = Counter()
        self._codes: Counter[int] = Counter()
        self._seen: Counter[int] = Counter()

    def arrived(self, path: str, http_version: str, at: float, nth: int) -> None:
        """Note the `nth` request of its connection, whose headers came `at` these seconds of the monotonic clock."""
        self._paths[path] += 1
        self._http_versions[http_version] += 1
        self.counts.max_requests_on_connection = max(self.counts.max_requests_on_connection, nth)
        if path in ROUTES and ROUTES[path][1] == "batch":
            self.arrivals.append(at)
        for arrival in self._waiting:
            if not arrival.done():
                arrival.set_result(None)
        self._waiting.clear()

    def responded(self, response: Response) -> None:
        """Count a response."""
        self._codes[response.code] += 1
        if response.group_ids:
            self.counts.ids_asked += len(response.group_ids)
            self._seen.update(map(hash, response.group_ids))
            if self._keep_ids:
                self.batches.append(response.group_ids)

    async def wait_for(self, requests: int) -> None:
        """Return once that many requests have been received, on any path."""
        while self._paths.total() < requests:
            arrival = asyncio.get_running_loop().create_future()
            self._waiting.append(arrival)
            await arrival

    def report(self, faults: Counter[str]) -> Report:
        """The counters as they are now, with the faults that were played so far, by name."""
        return msgspec.structs.replace(
            self.counts,
            requests=dict(self._paths),
            batch_requests=len(self.arrivals),
            refused=self._codes[1008],
            codes={**self._codes},
            worst_second=worst_second(self.arrivals),
            ids_asked_again=sum(times > 1 for times in self._seen.values()),
            faults=dict(faults),
            http_versions=dict(self._http_versions),
        )

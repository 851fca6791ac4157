"""Counts requests, connections and responses while the emulator runs, and makes the report."""

import asyncio
from array import array
from collections import Counter

import msgspec

from rongcloud_groups.emulator.rate_limit import worst_second
from rongcloud_groups.emulator.responses import Response
from rongcloud_groups.emulator.service import ROUTES


class Report(msgspec.Struct, frozen=True, kw_only=True):
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

    requests: dict[str, int]
    batch_requests: int
    refused: int
    codes: dict[int, int]
    worst_second: int
    connections: int
    max_requests_on_connection: int
    ids_asked: int
    ids_asked_again: int
    faults: dict[str, int]
    http_versions: dict[str, int]
    never_processed: int
    protocol_errors: int
    tls_failures: int


class Record:
    """Counts requests and responses; IDs are kept as 8-byte hashes.

    Args:
        keep_ids: whether the IDs of each batch are kept, in `batches`.
    """

    def __init__(self, *, keep_ids: bool = False) -> None:
        self._keep_ids = keep_ids
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.clear()

    def clear(self) -> None:
        """Start counting from zero; `wait_for` keeps waiting."""
        self.arrivals: array[float] = array("d")
        self.batches: list[list[str]] = []
        self.paths: Counter[str] = Counter()
        self.http_versions: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()
        self.connections = 0
        self.max_requests_on_connection = 0
        self.never_processed = 0
        self.protocol_errors = 0
        self.tls_failures = 0
        self._ids_asked = 0
        self._seen: set[int] = set()
        self._seen_again: set[int] = set()

    def arrived(self, path: str, http_version: str, at: float, nth: int) -> None:
        """Note a request.

        Args:
            path: its path.
            http_version: ``HTTP/2`` or ``HTTP/1.1``.
            at: when its headers came, in seconds on the monotonic clock.
            nth: which one on its connection it is, from 1.
        """
        self.paths[path] += 1
        self.http_versions[http_version] += 1
        self.max_requests_on_connection = max(self.max_requests_on_connection, nth)
        route = ROUTES.get(path)
        if route is not None and route.kind == "batch":
            self.arrivals.append(at)
        self._wake()

    def responded(self, response: Response) -> None:
        """Count a response."""
        self.codes[response.code] += 1
        if response.group_ids:
            self._ids_asked += len(response.group_ids)
            marks = [hash(group_id) for group_id in response.group_ids]
            distinct = set(marks)
            self._seen_again |= distinct & self._seen
            if len(distinct) < len(marks):
                self._seen_again |= {mark for mark, times in Counter(marks).items() if times > 1}
            self._seen |= distinct
            if self._keep_ids:
                self.batches.append(response.group_ids)

    async def wait_for(self, requests: int) -> None:
        """Return once that many requests have been received, whatever their path."""
        if self.paths.total() < requests:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((requests, future))
            await future

    def report(self, faults: Counter[str]) -> Report:
        """The counters as they are now.

        Args:
            faults: the faults played so far, by name.
        """
        return Report(
            requests=dict(self.paths),
            batch_requests=len(self.arrivals),
            refused=self.codes[1008],
            codes=dict(self.codes),
            worst_second=worst_second(self.arrivals),
            connections=self.connections,
            max_requests_on_connection=self.max_requests_on_connection,
            ids_asked=self._ids_asked,
            ids_asked_again=len(self._seen_again),
            faults=dict(faults),
            http_versions=dict(self.http_versions),
            never_processed=self.never_processed,
            protocol_errors=self.protocol_errors,
            tls_failures=self.tls_failures,
        )

    def _wake(self) -> None:
        if self._waiting:
            received = self.paths.total()
            for requests, future in self._waiting:
                if requests <= received and not future.done():
                    future.set_result(None)
            self._waiting = [(requests, future) for requests, future in self._waiting if not future.done()]

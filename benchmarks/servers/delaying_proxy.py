"""A TCP proxy that delays: a fixed time each way, ordered jitter, and stalls in which nothing moves.

``python delaying_proxy.py https://HOST:PORT --delay 0.005 --jitter 0.05 --stall 0.3 --stall-at 2``
prints one line of JSON with its own URL. Times are in seconds; stalls begin that long after the first connection.
What it carries may be TLS, or Redis's protocol: the scheme of the target is that of its own URL.
"""

import argparse
import asyncio
import random
from asyncio import StreamReader, StreamWriter, get_running_loop

import httpx
import msgspec

ORDER = 1e-6
"""Seconds between two deliveries of one connection: asyncio keeps no order among timers that are due at once."""


class DelayedPath:
    """When bytes that come now arrive on the other side."""

    def __init__(self, delay: float, jitter: float, stall: float, stall_at: list[float]) -> None:
        self._delay = delay
        self._jitter = jitter
        self._stall = stall
        self._stall_at = stall_at
        self._random = random.Random(0)
        self._began: float | None = None

    def arrival(self) -> float:
        now = get_running_loop().time()
        if self._began is None:
            self._began = now
        due = now + self._delay + self._random.uniform(0, self._jitter)
        for start in self._stall_at:
            if 0 <= due - self._began - start < self._stall:
                due = self._began + start + self._stall
        return due


class DelayingProxy:
    def __init__(self, target: httpx.URL, path: DelayedPath, port: int) -> None:
        self._target = target
        self._path = path
        self._port = port

    async def run(self) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
        port = server.sockets[0].getsockname()[1]
        print(msgspec.json.encode({"url": f"{self._target.scheme}://127.0.0.1:{port}"}).decode(), flush=True)
        await server.serve_forever()

    async def _relay(self, reader: StreamReader, writer: StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer))

    async def _forward(self, reader: StreamReader, writer: StreamWriter) -> None:
        loop = get_running_loop()
        due = 0.0
        while data := await _received(reader):
            due = max(due + ORDER, self._path.arrival())
            loop.call_at(due, writer.write, data)
        loop.call_at(max(due + ORDER, self._path.arrival()), writer.close)


async def _received(reader: StreamReader) -> bytes:
    try:
        return await reader.read(2**16)
    except ConnectionError:
        return b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=httpx.URL, help="where to connect to")
    parser.add_argument("--delay", type=float, default=0.0, help="each way")
    parser.add_argument("--jitter", type=float, default=0.0, help="at most, added to the delay; the order is kept")
    parser.add_argument("--stall", type=float, default=0.0, help="how long each stall lasts")
    parser.add_argument("--stall-at", type=float, action="append", default=[], help="repeatable")
    parser.add_argument("--port", type=int, default=0, help="where to listen; by default where there is room")
    options = parser.parse_args()
    path = DelayedPath(options.delay, options.jitter, options.stall, options.stall_at)
    asyncio.run(DelayingProxy(options.target, path, options.port).run())


if __name__ == "__main__":
    main()

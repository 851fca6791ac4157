"""A real ``redis-server`` on the loopback, and a way to it that takes time."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisUnreachable


class RedisServer:
    """``redis-server`` without persistence, started with more options where they are given.

    Args:
        directory: its working directory.
        *options: of its command line.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            assert not os.environ.get("CI"), "redis-server must be installed in CI"
            pytest.skip("redis-server is not installed")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.socket_path = directory / "redis.sock"
        self.command = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self.command += ["--unixsocket", str(self.socket_path), *options]
        self._directory = directory

    def start(self) -> None:
        self._process = subprocess.Popen(self.command, cwd=self._directory, stdout=subprocess.DEVNULL)  # noqa: S603  ours
        give_up_at = monotonic() + 100
        while not self._responds():
            assert monotonic() < give_up_at
            time.sleep(0.01)

    def suspend(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _responds(self) -> bool:
        try:
            with Redis.from_url(self.url) as redis:
                return bool(redis.ping())
        except RedisUnreachable:
            return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def redis_time(redis: Redis) -> float:
    seconds, microseconds = redis.time()
    return float(seconds + microseconds / 1e6)


def eval_at(now: float, redis: Redis, script: str, keys: Sequence[str], arguments: Iterable[object]) -> list[float]:
    """Run a script at `now`, in seconds since 1970; its text is the same each time, so that Redis compiles it once."""
    assert "redis.call('TIME')" in script
    seconds, fraction = divmod(now, 1)
    at_hand = f"{{KEYS[{len(keys) + 1}], KEYS[{len(keys) + 2}]}}"
    script = script.replace("redis.call('TIME')", at_hand)
    time = (f"{seconds:.0f}", f"{fraction * 1e6:.6f}")
    return [float(value) for value in redis.eval(script, len(keys) + 2, *keys, *time, *map(str, arguments))]


@asynccontextmanager
async def delayed(port: int, seconds: float) -> AsyncIterator[int]:
    """A port that leads to another one, so many seconds away in each direction."""
    loop = asyncio.get_running_loop()
    tasks = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            loop.call_later(seconds, writer.write, data)
        await asyncio.sleep(seconds)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        tasks.update([asyncio.create_task(carry(reader, back)), asyncio.create_task(carry(there, writer))])

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await asyncio.gather(*tasks, return_exceptions=True)

"""A Redis of one's own, which can be stopped, killed and started again."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, cast

import redis

START_WITHIN = 10.0


class RedisProcess:
    """``redis-server`` on a free port of the loopback, without persistence.

    Args:
        directory: its working directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._port = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self._calls_before = 0

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextmanager
    def away(self, how: str) -> Iterator[None]:
        """No Redis in the meantime: it stands still (SIGSTOP), or is killed and started again (SIGKILL)."""
        assert self._process is not None
        if how == "SIGSTOP":
            self._process.send_signal(signal.SIGSTOP)
            yield
            self._process.send_signal(signal.SIGCONT)
        else:
            self._calls_before = self.script_calls()
            self._process.kill()
            self._stop()
            yield
            self._start()

    def script_calls(self) -> int:
        """How many scripts were run."""
        with redis.Redis.from_url(self.url) as client:
            statistics = cast("dict[str, dict[str, int]]", client.info("commandstats"))
        return self._calls_before + sum(statistics.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha",))

    def _start(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "install redis-server"
        options = ["--bind", "127.0.0.1", "--port", str(self._port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(  # noqa: S603  our own server
            [program, *options], cwd=self._directory, stdout=subprocess.DEVNULL
        )
        give_up_at = time.monotonic() + START_WITHIN
        while not self._answers():
            assert time.monotonic() < give_up_at, "redis-server does not start"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def _stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

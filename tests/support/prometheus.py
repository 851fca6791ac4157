"""A real Prometheus, which scrapes what its configuration names."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support.redis_server import free_port


class Prometheus:
    """The HTTP API of a Prometheus that runs.

    Args:
        browser: an HTTP client for where it listens.
    """

    def __init__(self, browser: httpx.Client) -> None:
        self._browser = browser

    def query(self, text: str) -> list[float]:
        """The values that PromQL gives, one for each series."""
        response = self._browser.get("/api/v1/query", params={"query": text}).json()
        assert response["status"] == "success", response
        return [float(each["value"][1]) for each in response["data"]["result"]]

    def wait_for(self, text: str, *, count: int) -> list[float]:
        """The values of a query, once there are so many."""
        give_up_at = time.monotonic() + 60
        while len(values := self.query(text)) < count:
            assert time.monotonic() < give_up_at, f"no {count} values of {text}"
            time.sleep(0.05)  # Prometheus announces no scrape
        return values

    def wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + 60
        while not self._is_ready():
            assert time.monotonic() < give_up_at, "Prometheus did not start"
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            return self._browser.get("/-/ready").is_success
        except httpx.TransportError:
            return False


@contextmanager
def prometheus(configuration: str, directory: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the text of a configuration; without the program, the test is skipped."""
    program = shutil.which("prometheus")
    if program is None:
        assert not os.environ.get("CI"), "prometheus must be installed in CI"
        pytest.skip("prometheus is not installed")
    (directory / "prometheus.yml").write_text(configuration, encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    options = ["--config.file=prometheus.yml", f"--web.listen-address={address}", "--storage.tsdb.path=series"]
    with (
        httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=20) as browser,
        subprocess.Popen([program, *options, "--log.level=error"], cwd=directory) as process,  # noqa: S603  a real one
    ):
        try:
            running = Prometheus(browser)
            running.wait_until_ready()
            yield running
        finally:
            process.terminate()

"""The programs and commands of the pages run, against the emulator, Redis, Prometheus and real exporters."""

import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.command_line import APP_SECRET, Ended, run
from support.emulators import emulator_process
from support.pages import PAGES, Block
from support.prometheus import prometheus
from support.redis_server import RedisServer, free_port
from support.shell import AT_ITS_END, command_of, readers_environment, run_lines

UNTIL_SCRAPED = """
import time
from pathlib import Path

while not Path("scraped").exists():
    time.sleep(0.02)
"""
"""What keeps a worker's metrics there until they were read."""


@pytest.fixture
def env() -> Iterator[dict[str, str]]:
    """The environment of a service that refuses some requests, and fails others."""
    with emulator_process("--fault", "storm=3-4", "--fault", "error-500=30%") as address:
        yield readers_environment(address)


def run_program(block: Block, env: dict[str, str], here: Path, *, more: str = "") -> Ended:
    (here / "program.py").write_text(block.text + more, encoding="utf-8")
    return run("program.py", env=env, command=(sys.executable, "-W", "error"), cwd=here)


@pytest.mark.runs(
    "getting-started/A service to talk to/console",
    "getting-started/One group/python",
    "getting-started/Many groups/python",
    "getting-started/Many groups/console",
)
def test_getting_started_runs_from_the_emulator_to_a_file(blocks: list[Block], tmp_path: Path) -> None:
    emulate, one, many, sync = blocks
    (tmp_path / one.file).write_text(one.text, encoding="utf-8")
    (tmp_path / "many.py").write_text(many.text, encoding="utf-8")
    lines = [*emulate.commands, "python one.py", "python many.py", *sync.commands]
    ended = run_lines(*lines, env=readers_environment(), here=tmp_path)
    assert ended.code == 0, ended
    counts = re.search(r"^(\d+) found, (\d+) missing, 1 failed$", ended.stdout, re.MULTILINE)
    assert counts is not None, ended
    assert int(counts[1]) + int(counts[2]) == 1000
    assert "no good: 'no good' is not a group ID" in ended.stdout
    assert len((tmp_path / "groups.csv").read_text(encoding="utf-8").splitlines()) > 800


@pytest.mark.runs("getting-started/The real service/console", "getting-started/Options that matter/python 2")
def test_getting_started_runs_with_credentials(blocks: list[Block], tmp_path: Path) -> None:
    console, blocking = blocks
    (tmp_path / "secret").write_text(APP_SECRET, encoding="utf-8")
    (tmp_path / "program.py").write_text(blocking.text, encoding="utf-8")
    lines = [
        line.replace("…", "emulator-app-key").replace("/run/secrets/rongcloud", str(tmp_path / "secret"))
        for line in console.commands
    ]
    with emulator_process("--unknown", "0") as address:
        env = readers_environment(address, RONGCLOUD_APP_KEY=None, RONGCLOUD_APP_SECRET=None)
        ended = run_lines(*lines, "python program.py", env=env, here=tmp_path)
    assert ended.code == 0, ended
    assert "lookups can succeed" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("GroupProfile(group_id='g1'")


@pytest.mark.runs("getting-started/Options that matter/python")
def test_getting_started_opens_and_closes_a_client(blocks: list[Block], env: dict[str, str], tmp_path: Path) -> None:
    more = """
async def main():
    client = await start_up()
    print(await client.get("g1"))
    await shut_down(client)

import asyncio
asyncio.run(main())
"""
    ended = run_program(blocks[0], env, tmp_path, more=more)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("GroupProfile(group_id='g1'")


@pytest.mark.runs("observability/Metrics with Prometheus/python")
def test_prometheus_finds_the_metrics_of_the_page(blocks: list[Block], env: dict[str, str], tmp_path: Path) -> None:
    port = str(free_port())
    scrape = (
        f"import urllib.request\nprint(urllib.request.urlopen('http://127.0.0.1:{port}/metrics').read().decode())\n"
    )
    (tmp_path / "program.py").write_text(blocks[0].text.replace("9464", port) + scrape, encoding="utf-8")
    ended = run("program.py", env=env, command=(sys.executable, "-W", "error"), cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    page = PAGES["observability"].read_text(encoding="utf-8")
    queried = set(re.findall(r"\((\w+_(?:sum|count|total|bucket))\[", page))
    assert len(queried) == 4
    for name in queried:
        assert re.search(rf"^{name}\{{", ended.stdout, re.MULTILINE), name
    table = page.partition("| metric |")[2].partition("\n\n")[0]
    described = {name.replace(".", "_") for name in re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)}
    types = re.findall(
        r"^# TYPE ((?:http|rongcloud)\w+?)(?:_seconds|_total|_per_second)? \w+$", ended.stdout, re.MULTILINE
    )
    assert described == set(types)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[str]]]:
    """An OTLP collector that notes the paths of what it is sent."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()


@pytest.mark.runs("observability/Metrics and spans over OTLP/python")
def test_otlp_sends_metrics_and_spans(
    blocks: list[Block], env: dict[str, str], collector: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, paths = collector
    ended = run_program(blocks[0], env | {"OTEL_EXPORTER_OTLP_ENDPOINT": url}, tmp_path)
    assert ended.code == 0, ended.stderr
    assert set(paths) == {"/v1/traces", "/v1/metrics"}


@pytest.mark.runs("observability/Events/python")
def test_the_hook_prints_failed_requests(blocks: list[Block], env: dict[str, str], tmp_path: Path) -> None:
    ended = run_program(blocks[0], env, tmp_path)
    assert ended.code == 0, ended.stderr
    assert re.match(r"request \S+ failed: ", ended.stdout)


@pytest.mark.runs(
    "fleets/Four workers, one Redis, metrics in Prometheus/python",
    "fleets/Four workers, one Redis, metrics in Prometheus/console",
    "fleets/Four workers, one Redis, metrics in Prometheus/yaml",
)
def test_prometheus_scrapes_four_workers_of_one_budget(blocks: list[Block], tmp_path: Path) -> None:
    program, console, configuration = blocks
    ports = [str(free_port()) for _ in range(4)]
    redis = RedisServer(tmp_path)
    (tmp_path / program.file).write_text(program.text.replace("100_000", "4_000") + UNTIL_SCRAPED, encoding="utf-8")
    lines = [AT_ITS_END, f"ports=({' '.join(ports)})", *console.commands, "wait $(jobs -p | tail -n 4)"]
    lines = [
        line.replace("946$n", "${ports[$n]}").replace("127.0.0.1:6379", f"127.0.0.1:{redis.port}") for line in lines
    ]
    scraped = configuration.text.replace("5s", "1s")
    for number, port in enumerate(ports):
        scraped = scraped.replace(f"946{number}", port)
    redis.start()
    try:
        with (
            prometheus(scraped, tmp_path) as metrics,
            subprocess.Popen(  # noqa: S603  the page's commands
                command_of(*lines),
                cwd=tmp_path,
                env=readers_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as workers,
        ):
            try:
                metrics.wait_for("rate(http_client_request_duration_seconds_count[1m])", count=4)
                for query in queries_of("observability"):
                    metrics.query(query)
                (rate,) = (metrics.query(query)[0] for query in queries_of("fleets"))
            finally:
                (tmp_path / "scraped").touch()
            stdout, stderr = workers.communicate(timeout=100)
    finally:
        redis.kill()
    assert workers.returncode == 0, stderr
    assert rate <= 100
    sums = re.findall(r"found=(\d+), missing=(\d+), failed=(\d+)", stdout)
    assert [(int(found) + int(missing), int(failed)) for found, missing, failed in sums] == [(1000, 0)] * 4


def queries_of(page: str) -> set[str]:
    """The PromQL in backticks of a page."""
    return set(re.findall(r"`((?:sum|histogram_quantile)\([^`]+\))`", PAGES[page].read_text(encoding="utf-8")))

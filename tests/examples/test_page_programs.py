"""The programs and commands of the pages run, against the emulator, Redis, PostgreSQL and real exporters."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from support.command_line import Ended, environment, run
from support.pages import PAGES, Block, blocks_of, commands_of
from support.postgres import SERVER, postgres
from support.redis_server import RedisServer, free_port

from rongcloud_groups.cli.emulator_process import emulator_process

BASH = ("bash", "-euo", "pipefail", "-c")
UNTIL_SCRAPED = """
import time
from pathlib import Path

while not Path("scraped").exists():
    time.sleep(0.02)
"""
"""What keeps a worker's metrics there until they were read."""
NOT_RUN = ("pip install", "python3 -m venv", "kill $RONGCLOUD_EMULATOR_PID", "…")
"""What lines that set up the reader's own machine have in them."""


def on_path(env: dict[str, str]) -> dict[str, str]:
    scripts = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    return env | {"PATH": os.pathsep.join([*scripts, os.environ["PATH"]])}


@pytest.fixture
def env() -> Iterator[dict[str, str]]:
    """The environment of a service that refuses some requests, and fails others."""
    with emulator_process("--fault", "storm=3-4", "--fault", "error-500=30%") as address:
        yield on_path(environment(address.url, address.ca_file))


def run_program(block: Block, env: dict[str, str], here: Path, *, more: str = "") -> Ended:
    (here / "program.py").write_text(block.text + more, encoding="utf-8")
    return run("program.py", env=env, command=(sys.executable, "-W", "error"), cwd=here)


def test_each_page_with_code_is_tried() -> None:
    tried = {"README", "bulk-sync", "engines", "fleets", "getting-started", "observability", "testing", "web-apps"}
    assert {page for page in PAGES if any(block.language != "text" for block in blocks_of(page))} == tried


def test_getting_started_runs_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    script = ["trap 'kill $RONGCLOUD_EMULATOR_PID' EXIT"]
    for number, block in enumerate(blocks_of("getting-started")):
        if block.language == "python":
            name = block.file or f"program_{number}.py"
            (tmp_path / name).write_text(block.text, encoding="utf-8")
            script += [f"echo '== {name}'", f"python {name}"]
        else:
            script += [line for line in commands_of(block) if not any(word in line for word in NOT_RUN)]
    ended = subprocess.run(  # noqa: S603  the page's commands
        [*BASH, "\n".join(script)],
        env=on_path(environment()),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == 0, ended
    found, missing = re.search(r"^(\d+) found, (\d+) missing, 1 failed$", ended.stdout, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert int(found) + int(missing) == 1000
    assert "no good: 'no good' is not a group ID" in ended.stdout
    assert "lookups can succeed" in ended.stdout
    assert ended.stdout.endswith("problems=(), extra={})\n")
    assert len((tmp_path / "groups.csv").read_text(encoding="utf-8").splitlines()) > 800


def test_prometheus_finds_the_metrics_of_the_page(env: dict[str, str], tmp_path: Path) -> None:
    block = blocks_of("observability", "python")[0]
    port = str(free_port())
    scrape = (
        f"import urllib.request\nprint(urllib.request.urlopen('http://127.0.0.1:{port}/metrics').read().decode())\n"
    )
    ended = run_program(block._replace(text=block.text.replace("9464", port)), env, tmp_path, more=scrape)
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


def test_otlp_sends_metrics_and_spans(env: dict[str, str], collector: tuple[str, list[str]], tmp_path: Path) -> None:
    url, paths = collector
    block = blocks_of("observability", "python")[1]
    ended = run_program(block, env | {"OTEL_EXPORTER_OTLP_ENDPOINT": url}, tmp_path)
    assert ended.code == 0, ended.stderr
    assert set(paths) == {"/v1/traces", "/v1/metrics"}


def test_the_hook_prints_failed_requests(env: dict[str, str], tmp_path: Path) -> None:
    ended = run_program(blocks_of("observability", "python")[2], env, tmp_path)
    assert ended.code == 0, ended.stderr
    assert re.match(r"request \S+ failed: ", ended.stdout)


def test_four_workers_share_a_budget_and_serve_metrics(tmp_path: Path) -> None:
    program, console = blocks_of("fleets", "python")[0], blocks_of("fleets", "console")[0]
    assert program.file == "worker.py"
    (tmp_path / "worker.py").write_text(program.text.replace("100_000", "4_000") + UNTIL_SCRAPED, encoding="utf-8")
    ports = [str(free_port()) for _ in range(4)]
    redis = RedisServer(tmp_path)
    commands = [line for line in commands_of(console) if not any(word in line for word in NOT_RUN)]
    script = "\n".join(["trap 'kill $RONGCLOUD_EMULATOR_PID' EXIT", f"ports=({' '.join(ports)})", *commands, "wait"])
    script = script.replace("946$n", "${ports[$n]}").replace("127.0.0.1:6379", f"127.0.0.1:{redis.port}")
    redis.start()
    try:
        with subprocess.Popen(  # noqa: S603  the page's commands
            [*BASH, script],
            cwd=tmp_path,
            env=on_path(environment()),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as workers:
            scraped = [scraped_from(port) for port in ports]
            (tmp_path / "scraped").touch()
            stdout, stderr = workers.communicate(timeout=100)
    finally:
        redis.kill()
    assert workers.returncode == 0, stderr
    assert all("http_client_request_duration_seconds_count" in text for text in scraped)
    sums = re.findall(r"found=(\d+), missing=(\d+), failed=(\d+)", stdout)
    assert [(int(found) + int(missing), int(failed)) for found, missing, failed in sums] == [(1000, 0)] * 4


def scraped_from(port: str) -> str:
    """The metrics of a worker, once it has some."""
    give_up_at = time.monotonic() + 25
    while time.monotonic() < give_up_at:
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                text = str(response.read(), "utf-8")
            if "http_client_request_duration_seconds_count" in text:
                return text
        except URLError:
            time.sleep(0.02)
    return ""


def test_the_nightly_sync_fills_a_table_in_postgresql(tmp_path: Path) -> None:
    if SERVER is None or shutil.which("psql") is None:
        pytest.skip("PostgreSQL is not installed")
    import psycopg2  # type: ignore[import-untyped]

    for language, name in (("sql", "groups.sql"), ("bash", "nightly.sh")):
        (block,) = blocks_of("bulk-sync", language)
        assert block.file == name
        (tmp_path / name).write_text(block.text, encoding="utf-8")
    with emulator_process("--no-tls", "--listed", "300", "--unknown", "0") as address, postgres() as url:
        env = on_path(environment(address.url)) | {"DATABASE_URL": url}
        for _ in range(2):
            ended = run("nightly.sh", env=env, command=("bash",), cwd=tmp_path)
            assert ended.code == 0, ended
            with psycopg2.connect(url) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT count(*), count(create_time), count(permissions->>'join_perm') FROM groups")
                assert cursor.fetchall() == [(300, 300, 300)]

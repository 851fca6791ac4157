"""The web apps of README.md and the pages answer HTTP requests, under uvicorn, with the statuses that they promise."""

import asyncio
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.emulators import emulator_process
from support.pages import Block
from support.redis_server import free_port
from support.shell import AT_ITS_END, command_of, readers_environment, run_lines

from rongcloud_groups.pytest_plugin import InProcessEmulator

APPS = [
    pytest.param(marks=pytest.mark.runs("README/Three uses/python"), id="README"),
    pytest.param(marks=pytest.mark.runs("web-apps/FastAPI/python"), id="web-apps"),
    pytest.param(marks=pytest.mark.runs("engines/Django/python"), id="engines"),
]
DJANGO = """
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")
from django.core.asgi import get_asgi_application
from django.urls import path
urlpatterns = [path("groups/<group_id>", group)]
app = get_asgi_application()
"""
"""What a Django project has beside the view of the page on engines."""


@contextmanager
def serving(app: Block, here: Path, env: dict[str, str]) -> Iterator[httpx.Client]:
    """A browser of the page's app, which runs as its readers run it."""
    (here / "app.py").write_text(app.text + (DJANGO if "django" in app.text else ""), encoding="utf-8")
    port = free_port()
    uvicorn = [str(Path(sysconfig.get_path("scripts")) / "uvicorn"), "app:app", "--port", str(port)]
    with (
        subprocess.Popen([*uvicorn, "--log-level", "warning"], cwd=here, env=env) as process,  # noqa: S603  the page's app
        browsing(port, process) as browser,
    ):
        try:
            yield browser
        finally:
            process.terminate()


@contextmanager
def browsing(port: int, process: subprocess.Popen[Any]) -> Iterator[httpx.Client]:
    """A browser of a server that is starting."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=100) as browser:
        give_up_at = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < give_up_at:
            try:
                browser.get("/")
                break
            except httpx.ConnectError:
                time.sleep(0.02)
        yield browser


@pytest.mark.parametrize((), APPS)
def test_the_app_responds_with_its_statuses(blocks: list[Block], tmp_path: Path) -> None:
    with (
        emulator_process("--unknown", "0.5") as address,
        serving(blocks[0], tmp_path, readers_environment(address)) as browser,
    ):
        statuses = {}
        for group_id in [*(f"g{number}" for number in range(12)), "a,b"]:
            response = browser.get(f"/groups/{group_id}")
            statuses[group_id] = response.status_code
            if response.status_code == httpx.codes.OK:
                assert {"name", "group_name"} & response.json().keys()
    assert statuses.pop("a,b") == 400
    assert set(statuses.values()) == {200, 404}


@pytest.mark.parametrize((), APPS)
def test_the_app_responds_with_503_while_the_service_hangs(blocks: list[Block], tmp_path: Path) -> None:
    with (
        emulator_process("--fault", "hang=100%") as address,
        serving(blocks[0], tmp_path, readers_environment(address)) as browser,
    ):
        assert browser.get("/groups/g1").status_code == 503


@pytest.mark.runs("web-apps/FastAPI/python", "web-apps/FastAPI/console")
def test_the_commands_of_the_page_start_the_app(blocks: list[Block], tmp_path: Path) -> None:
    app, console = blocks
    (tmp_path / app.file).write_text(app.text, encoding="utf-8")
    port = str(free_port())
    commands = (line.replace("8000", port) for line in console.commands)
    ended = run_lines(AT_ITS_END, *commands, env=readers_environment(), here=tmp_path)
    assert "HTTP/1.1 200 OK" in ended.stdout, ended
    assert '"group_id":"g1"' in ended.stdout


@pytest.mark.runs("web-apps/FastAPI/python", "web-apps/Several processes/console")
def test_several_processes_share_a_budget(blocks: list[Block], tmp_path: Path) -> None:
    app, console = blocks
    (tmp_path / app.file).write_text(app.text, encoding="utf-8")
    port = free_port()
    commands = [line.replace("/tmp", str(tmp_path)) for line in console.commands]  # noqa: S108  the page's
    with emulator_process("--unknown", "0") as address:
        command = command_of(*commands[:-1], f"exec {commands[-1]} --port {port} --log-level warning")
        with (
            subprocess.Popen(command, cwd=tmp_path, env=readers_environment(address)) as process,  # noqa: S603  the page's
            browsing(port, process) as browser,
        ):
            try:
                assert browser.get("/groups/g1").status_code == 200
            finally:
                process.terminate()
    assert (tmp_path / "rongcloud-budget").stat().st_size > 0


@pytest.mark.runs("web-apps/Pages with many groups/python")
async def test_a_page_has_the_names_that_came_in_time(
    blocks: list[Block], rongcloud_emulator: InProcessEmulator
) -> None:
    rongcloud_emulator.add("g1", group_name="Tea")
    names: dict[str, Any] = {}
    exec(compile(blocks[0].text, "web-apps.md", "exec"), names)  # noqa: S102  our own text
    async with rongcloud_emulator.client() as client:
        assert await names["names"](client, ["g1", "unknown"]) == {"g1": "Tea"}
        rongcloud_emulator.fail_next("hang")
        assert await asyncio.wait_for(names["names"](client, ["g1"]), 60) == {}

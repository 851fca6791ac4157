"""The web apps of README.md and the pages answer HTTP requests, under uvicorn, with the statuses that they promise."""

import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support.command_line import environment
from support.pages import blocks_of, commands_of
from support.redis_server import free_port

from rongcloud_groups.cli.emulator_process import emulator_process

PAGES = ["README", "web-apps", "engines"]
DJANGO = """
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DEFAULT_CHARSET="utf-8")
from django.core.asgi import get_asgi_application
from django.urls import path
urlpatterns = [path("groups/<group_id>", group)]
app = get_asgi_application()
"""
"""What a Django project has beside the view of the page on engines."""


def web_app(page: str) -> str:
    (text,) = (block.text for block in blocks_of(page, "python") if "FastAPI(" in block.text or "django" in block.text)
    return text + DJANGO if "django" in text else text


@contextmanager
def serving(page: str, here: Path, env: dict[str, str]) -> Iterator[httpx.Client]:
    """A browser of the page's app, which runs as its readers run it."""
    (here / "app.py").write_text(web_app(page), encoding="utf-8")
    port = free_port()
    uvicorn = [str(Path(sysconfig.get_path("scripts")) / "uvicorn"), "app:app", "--port", str(port)]
    with (
        subprocess.Popen([*uvicorn, "--log-level", "warning"], cwd=here, env=env) as process,  # noqa: S603  the page's app
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=100) as browser,
    ):
        give_up_at = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < give_up_at:
            try:
                browser.get("/")
                break
            except httpx.ConnectError:
                time.sleep(0.02)
        try:
            yield browser
        finally:
            process.terminate()


@pytest.mark.parametrize("page", PAGES)
def test_the_app_responds_with_its_statuses(page: str, tmp_path: Path) -> None:
    with (
        emulator_process("--unknown", "0.5") as address,
        serving(page, tmp_path, environment(address.url, address.ca_file)) as browser,
    ):
        statuses = {}
        for group_id in [*(f"g{number}" for number in range(12)), "a,b"]:
            response = browser.get(f"/groups/{group_id}")
            statuses[group_id] = response.status_code
            if response.status_code == httpx.codes.OK:
                assert {"name", "group_name"} & response.json().keys()
    assert statuses.pop("a,b") == 400
    assert set(statuses.values()) == {200, 404}


@pytest.mark.parametrize("page", PAGES)
def test_the_app_responds_with_503_while_the_service_hangs(page: str, tmp_path: Path) -> None:
    with (
        emulator_process("--fault", "hang=100%") as address,
        serving(page, tmp_path, environment(address.url, address.ca_file)) as browser,
    ):
        assert browser.get("/groups/g1").status_code == 503


def test_the_commands_of_the_page_start_the_app(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(web_app("web-apps"), encoding="utf-8")
    port = str(free_port())
    commands = [line for line in commands_of(blocks_of("web-apps", "console")[0]) if "pip install" not in line]
    script = "\n".join(["trap 'kill $RONGCLOUD_EMULATOR_PID %1' EXIT", *commands]).replace("8000", port)
    path = f"{sysconfig.get_path('scripts')}:{Path(sys.executable).parent}:/usr/bin:/bin"
    ended = subprocess.run(  # noqa: S603  the page's commands
        ["/bin/bash", "-c", script],
        cwd=tmp_path,
        env=environment() | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert "HTTP/1.1 200 OK\n" in ended.stdout, ended
    assert '"group_id":"g1"' in ended.stdout

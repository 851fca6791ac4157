"""A real HTTP proxy: Debian's tinyproxy."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

USER, PASSWORD = "proxy-user", "pass.word-1"


class ProxyProcess(NamedTuple):
    """A proxy that runs, and its log."""

    port: int
    log: list[str]

    @property
    def url(self) -> str:
        return f"http://{USER}:pass%2Eword%2D1@127.0.0.1:{self.port}"


@asynccontextmanager
async def tinyproxy(directory: Path) -> AsyncIterator[ProxyProcess]:
    """A proxy that asks for USER and PASSWORD, and connects to any port."""
    if (program := shutil.which("tinyproxy")) is None:
        pytest.skip("tinyproxy is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = directory / "tinyproxy.conf"
    settings.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 60\nBasicAuth {USER} {PASSWORD}\nLogLevel Info\n")
    process = await asyncio.create_subprocess_exec(
        program, "-d", "-c", str(settings), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    log: list[str] = []
    while "Accepting connections" not in (line := (await process.stdout.readline()).decode()):
        assert line, log
        log.append(line)

    async def read_log(lines: asyncio.StreamReader) -> None:
        log.extend([line.decode() async for line in lines])

    reading = asyncio.create_task(read_log(process.stdout))
    try:
        yield ProxyProcess(port, log)
    finally:
        process.kill()
        await process.wait()
        await reading

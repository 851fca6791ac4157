"""nginx, HAProxy, Caddy and Node's http2 in front of an emulator, with few streams and short-lived connections."""

import asyncio
import functools
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

import trustme
from benchmarks.servers.gateways import HAPROXY, NGINX, prepare

_NGINX_RULES: Final = """keepalive_requests 50; http2_max_concurrent_streams 8;
  gzip on; gzip_proxied any; gzip_types application/json; gzip_min_length 1;"""
_HAPROXY_RULES: Final = """compression algo gzip
  compression type application/json"""
_CADDY: Final = Template("""
{
  admin unix/$directory/admin.sock
  auto_https disable_redirects
  grace_period 3s
}
https://localhost:$port {
  bind 127.0.0.1
  tls $directory/chain.pem $directory/key.pem
  encode gzip {
    minimum_length 1
  }
  reverse_proxy 127.0.0.1:$backend
}
""")
_NODE: Final = Template("""
const http = require('http'), http2 = require('http2'), fs = require('fs'), zlib = require('zlib');
const agent = new http.Agent({keepAlive: true});
const server = http2.createSecureServer({
  key: fs.readFileSync('$directory/key.pem'), cert: fs.readFileSync('$directory/chain.pem'),
  settings: {maxConcurrentStreams: 8},
});
server.on('session', session => {
  let streams = 0;
  session.on('error', () => {});
  session.on('stream', (stream, headers) => {
    if (++streams === 50) session.close();
    stream.on('error', () => {});
    const fields = Object.fromEntries(Object.entries(headers).filter(([name]) => !name.startsWith(':')));
    const request = http.request(
      {agent, host: '127.0.0.1', port: $backend, path: headers[':path'], method: 'POST', headers: fields},
      response => {
        if (stream.destroyed) return response.resume();
        stream.respond({
          ':status': response.statusCode, 'content-type': response.headers['content-type'], 'content-encoding': 'gzip',
        });
        response.pipe(zlib.createGzip()).pipe(stream);
      });
    request.on('error', () => stream.destroyed || stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR));
    stream.pipe(request);
  });
});
server.listen($port, '127.0.0.1');
""")


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


@dataclass
class WebServer:
    """A running server; `reload` makes it take its configuration again, or starts it again, under load."""

    url: str
    reload: Callable[[], Awaitable[None]]


@asynccontextmanager
async def nginx(directory: Path, backend: int) -> AsyncIterator[WebServer]:
    port = prepare(directory / "nginx.conf", NGINX, authority(), backend, rules=_NGINX_RULES)
    command = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]
    async with _running(directory, port, *command) as process:
        yield WebServer(f"https://localhost:{port}", functools.partial(_signalled, process, signal.SIGHUP))


@asynccontextmanager
async def haproxy(directory: Path, backend: int) -> AsyncIterator[WebServer]:
    few_streams = "tune.h2.max-concurrent-streams 8"
    port = prepare(directory / "haproxy.cfg", HAPROXY, authority(), backend, options=few_streams, rules=_HAPROXY_RULES)
    async with _running(directory, port, "haproxy", "-W", "-db", "-f", str(directory / "haproxy.cfg")) as process:
        yield WebServer(f"https://localhost:{port}", functools.partial(_signalled, process, signal.SIGUSR2))


@asynccontextmanager
async def caddy(directory: Path, backend: int) -> AsyncIterator[WebServer]:
    port = prepare(directory / "Caddyfile", _CADDY, authority(), backend)
    config = ["--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]

    async def reload() -> None:
        address = f"unix/{directory}/admin.sock"
        process = await _start(directory, "caddy", "reload", "--force", "--address", address, *config)
        assert await process.wait() == 0, (directory / "output").read_text()

    async with _running(directory, port, "caddy", "run", *config):
        yield WebServer(f"https://localhost:{port}", reload)


@asynccontextmanager
async def node(directory: Path, backend: int) -> AsyncIterator[WebServer]:
    port = prepare(directory / "server.js", _NODE, authority(), backend)
    command = ["node", str(directory / "server.js")]
    processes = [await _start(directory, *command)]

    async def reload() -> None:
        await _end(processes[-1], signal.SIGKILL)
        processes.append(await _start(directory, *command))
        await _listening(port, directory)

    try:
        await _listening(port, directory)
        yield WebServer(f"https://localhost:{port}", reload)
    finally:
        await _end(processes[-1], signal.SIGKILL)


WEB_SERVERS: Final = {server.__name__: server for server in (nginx, haproxy, caddy, node)}


def reason_to_skip(name: str) -> str:
    """Why a server cannot run here; empty where it can."""
    return "" if shutil.which(name) else f"{name} is not installed"


async def _signalled(process: asyncio.subprocess.Process, number: int) -> None:
    process.send_signal(number)


async def _start(directory: Path, *command: str) -> asyncio.subprocess.Process:
    places = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(directory))
    with (directory / "output").open("ab") as output:
        return await asyncio.create_subprocess_exec(*command, env=os.environ | places, stdout=output, stderr=output)


async def _end(process: asyncio.subprocess.Process, number: int) -> None:
    if process.returncode is None:
        process.send_signal(number)
    await process.wait()


@asynccontextmanager
async def _running(directory: Path, port: int, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await _start(directory, *command)
    try:
        await _listening(port, directory)
        yield process
    finally:
        await _end(process, signal.SIGTERM)


async def _listening(port: int, directory: Path) -> None:
    """Waits until a server that cannot say so listens."""
    try:
        async with asyncio.timeout(60):
            while not await _accepts(port):  # noqa: ASYNC110  another process, which sets no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError((directory / "output").read_text()) from None


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True

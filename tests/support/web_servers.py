"""nginx, HAProxy, Caddy and Node's http2 in front of an emulator, with few streams and short-lived connections."""

import asyncio
import functools
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

import trustme

_NGINX: Final = Template("""
user root;
daemon off;
worker_processes 1;
pid $directory/nginx.pid;
error_log $directory/error.log;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path $directory/body; proxy_temp_path $directory/proxy; fastcgi_temp_path $directory/fastcgi;
  uwsgi_temp_path $directory/uwsgi; scgi_temp_path $directory/scgi;
  keepalive_requests 50; http2_max_concurrent_streams 8;
  gzip on; gzip_proxied any; gzip_types application/json; gzip_min_length 1;
  upstream emulator { server 127.0.0.1:$backend; keepalive 16; }
  server {
    listen 127.0.0.1:$port ssl http2;
    ssl_certificate $directory/chain.pem; ssl_certificate_key $directory/key.pem;
    location / { proxy_pass http://emulator; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
""")
_HAPROXY: Final = Template("""
global
  tune.h2.max-concurrent-streams 8
  hard-stop-after 3s
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend client
  bind 127.0.0.1:$port ssl crt $directory/both.pem alpn h2,http/1.1
  compression algo gzip
  compression type application/json
  default_backend emulator
backend emulator
  server emulator 127.0.0.1:$backend
""")
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
    port = _prepare(directory, "nginx.conf", _NGINX, backend)
    command = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]
    async with _running(directory, port, *command) as process:
        yield WebServer(f"https://localhost:{port}", functools.partial(_signalled, process, signal.SIGHUP))


@asynccontextmanager
async def haproxy(directory: Path, backend: int) -> AsyncIterator[WebServer]:
    port = _prepare(directory, "haproxy.cfg", _HAPROXY, backend)
    async with _running(directory, port, "haproxy", "-W", "-db", "-f", str(directory / "haproxy.cfg")) as process:
        yield WebServer(f"https://localhost:{port}", functools.partial(_signalled, process, signal.SIGUSR2))


@asynccontextmanager
async def caddy(directory: Path, backend: int) -> AsyncIterator[WebServer]:
    port = _prepare(directory, "Caddyfile", _CADDY, backend)
    config = ["--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]

    async def reload() -> None:
        address = f"unix/{directory}/admin.sock"
        process = await _start(directory, "caddy", "reload", "--force", "--address", address, *config)
        assert await process.wait() == 0, (directory / "output").read_text()

    async with _running(directory, port, "caddy", "run", *config):
        yield WebServer(f"https://localhost:{port}", reload)


@asynccontextmanager
async def node(directory: Path, backend: int) -> AsyncIterator[WebServer]:
    port = _prepare(directory, "server.js", _NODE, backend)
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


def _prepare(directory: Path, name: str, template: Template, backend: int) -> int:
    """Writes a server's files, and returns the port that it is to listen on."""
    certificate = authority().issue_cert("localhost", "127.0.0.1")
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    (directory / "chain.pem").write_bytes(chain)
    (directory / "key.pem").write_bytes(certificate.private_key_pem.bytes())
    (directory / "both.pem").write_bytes(chain + certificate.private_key_pem.bytes())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    (directory / name).write_text(template.substitute(directory=directory, port=port, backend=backend))
    return port


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
        async with asyncio.timeout(20):
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

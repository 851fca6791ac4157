"""HAProxy and nginx in front of the emulator, each limiting requests in its own way; a refusal is a 429."""

import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import httpx
import trustme

START_WITHIN = 10.0

HAPROXY = Template("""
global
  hard-stop-after 3s
  $options
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend client
  bind 127.0.0.1:$port ssl crt $directory/both.pem alpn h2,http/1.1
  $rules
  default_backend emulator
backend emulator
  server emulator 127.0.0.1:$backend
""")
NGINX = Template("""
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
  $rules
  upstream emulator { server 127.0.0.1:$backend; keepalive 64; }
  server {
    listen 127.0.0.1:$port ssl http2;
    ssl_certificate $directory/chain.pem; ssl_certificate_key $directory/key.pem;
    location / { proxy_pass http://emulator; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
""")
LIMITS = {
    "haproxy": """stick-table type ip size 1k expire 10s store http_req_rate(1s)
  http-request track-sc0 src
  http-request deny deny_status 429 if { sc_http_req_rate(0) gt 100 }""",
    "nginx": """limit_req_zone $binary_remote_addr zone=clients:1m rate=100r/s;
  limit_req zone=clients burst=3 nodelay;
  limit_req_status 429;""",
}
GATEWAYS = {"haproxy": (HAPROXY, ("haproxy", "-db", "-f")), "nginx": (NGINX, ("nginx", "-c"))}


@contextmanager
def gateway(name: str, backend: str) -> Iterator[tuple[str, ssl.SSLContext]]:
    """Run it; the URL to ask, and what trusts it.

    Args:
        name: one of `GATEWAYS`.
        backend: the URL of an emulator without TLS.
    """
    template, command = GATEWAYS[name]
    assert shutil.which(command[0]), f"install {command[0]}"
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        config = directory / "config"
        port = prepare(config, template, authority, int(httpx.URL(backend).port or 0), rules=LIMITS[name])
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen([*command, str(config)], stdout=output, stderr=output)  # noqa: S603  our own
        try:
            _wait_for(port, directory / "output")
            yield f"https://127.0.0.1:{port}", trusting
        finally:
            process.terminate()
            process.wait()


def prepare(config: Path, template: Template, authority: trustme.CA, backend: int, **options: str) -> int:
    """Write a server's configuration, and beside it the certificate of 127.0.0.1 and localhost; return a free port."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = b"".join(pem.bytes() for pem in certificate.cert_chain_pems), certificate.private_key_pem.bytes()
    for name, content in (("chain.pem", chain), ("key.pem", key), ("both.pem", chain + key)):
        (config.parent / name).write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    blank = {"options": "", "rules": ""}
    config.write_text(template.substitute(blank | options, directory=config.parent, port=port, backend=backend))
    return port


def _wait_for(port: int, output: Path) -> None:
    give_up_at = time.monotonic() + START_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < give_up_at, output.read_text()
            time.sleep(0.02)
        else:
            return

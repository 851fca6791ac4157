"""Redis as it is run: passwords, permissions, TLS, sockets, replicas, clusters; and URLs as they are written."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from threading import enumerate as enumerate_threads

import pytest
import trustme
from redis import Redis
from support.redis_server import RedisServer, free_port

from rongcloud_groups import ConfigError, GroupClient
from rongcloud_groups.diagnostics import check
from rongcloud_groups.limiters.redis import RedisLimiter
from rongcloud_groups.limiters.url import limiter_from_url

SECRET = "SECRETpa"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may configure."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


async def opened(url: str) -> None:
    async with RedisLimiter(url, app_key="app"):
        pass


# ---- what Redis refuses


async def test_a_wrong_password_is_an_error_when_a_client_opens_and_in_check(redis: Redis, server: RedisServer) -> None:
    url = f"redis://user:{SECRET}@127.0.0.1:{server.port}/0"
    client = GroupClient("app", "secret", limiter=url)
    for refused in (client.__aenter__(), check("app", "secret", limiter=url), opened(url)):
        with pytest.raises(ConfigError, match="refuses the URL's user or password") as raised:
            await refused
        assert f"127.0.0.1:{server.port}" in str(raised.value)
        assert SECRET not in shown(raised.value)
    await client.aclose()
    assert len(redis.client_list()) == 1


async def test_an_opening_that_redis_refuses_closes_all_that_the_client_made(server: RedisServer) -> None:
    before = set(enumerate_threads())
    client = GroupClient("app", "secret", limiter=f"redis://user:{SECRET}@127.0.0.1:{server.port}/0")
    with pytest.raises(ConfigError):
        await client.open()
    for thread in set(enumerate_threads()) - before:
        thread.join(20)
        assert not thread.is_alive()


async def test_acquire_of_a_limiter_never_opened_has_the_same_error(server: RedisServer) -> None:
    limiter = RedisLimiter(f"redis://:{SECRET}@127.0.0.1:{server.port}/0", app_key="app")
    for _ in range(2):
        with pytest.raises(ConfigError, match="refuses the URL's user or password"):
            await limiter.acquire()
    await limiter.aclose()


async def test_a_password_that_is_required_is_asked_for(own_server: RedisServer) -> None:
    with Redis.from_url(own_server.url) as redis:
        redis.config_set("requirepass", SECRET)
    with pytest.raises(ConfigError, match="refuses the URL's user or password"):
        await opened(own_server.url)
    await opened(own_server.url.replace("redis://", f"redis://:{SECRET}@"))


@pytest.mark.parametrize(
    ("keys", "commands"),
    [
        ("*", ["+get"]),
        ("other:*", ["+@all"]),
        ("*", ["+@all", "-hset"]),
        ("*", ["+@all", "-time"]),
        ("*", ["+@all", "-zadd"]),
        ("*", ["+@all", "-evalsha"]),
    ],
)
async def test_a_missing_permission_is_an_error(own_server: RedisServer, keys: str, commands: list[str]) -> None:
    with Redis.from_url(own_server.url) as redis:
        redis.acl_setuser("limited", enabled=True, nopass=True, keys=[keys], commands=commands)
    with pytest.raises(ConfigError, match=r"denies a permission|cannot keep a budget.*can't run this command"):
        await opened(own_server.url.replace("redis://", "redis://limited:x@"))


async def test_the_permissions_that_the_error_names_are_enough(own_server: RedisServer) -> None:
    with Redis.from_url(own_server.url) as redis:
        commands = ["+evalsha", "+script|load", "+time", "+hmget", "+hset", "+del", "+zadd", "+zrem"]
        commands += ["+zrangebyscore", "+zremrangebyrank", "+zrevrange", "+zscore"]
        redis.acl_setuser("limited", enabled=True, nopass=True, keys=["rongcloud-groups:*"], commands=commands)
    url = own_server.url.replace("redis://", "redis://limited:x@")
    async with RedisLimiter(url, app_key="app", limit=1000) as limiter:
        for _ in range(5):
            await limiter.acquire()


async def test_a_replica_is_refused(own_server: RedisServer) -> None:
    with Redis.from_url(own_server.url) as redis:
        redis.replicaof("127.0.0.1", str(free_port()))
        redis.config_set("replica-serve-stale-data", "yes")
    with pytest.raises(ConfigError, match="is a read-only replica, give the URL of its primary"):
        await opened(own_server.url)


async def test_a_database_that_is_not_there_is_refused(server: RedisServer) -> None:
    with pytest.raises(ConfigError, match="DB index is out of range"):
        await opened(server.url.replace("/0", "/999"))


async def test_a_node_of_a_cluster_that_does_not_have_the_key_is_refused() -> None:
    moved = redis_that_says(b"-MOVED 1234 127.0.0.1:7001", to=b"EVALSHA")
    message = "is a node of a Redis Cluster, give the URL of a single Redis"
    with moved as url, pytest.raises(ConfigError, match=message):
        await opened(url)


async def test_a_sentinel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sentinel.conf").write_text("")
    server = RedisServer(tmp_path)
    server.command[1:] = [str(tmp_path / "sentinel.conf"), "--sentinel", "--port", str(server.port)]
    server.start()
    try:
        with pytest.raises(ConfigError, match=r"cannot keep a budget, .* of no Sentinel"):
            await opened(server.url)
    finally:
        server.kill()


async def test_an_error_of_redis_that_quotes_the_password_is_shown_without_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    quoting = f"-ERR unknown command 'AUTH', with args beginning with: '{SECRET}'"
    message = r"unknown command 'AUTH', with args beginning with: '\*\*\*'"
    with redis_that_says(quoting.encode(), to=b"AUTH") as url, pytest.raises(ConfigError, match=message) as raised:
        await opened(url)
    with redis_that_says(f"-LOADING busy with {SECRET}".encode(), to=b"EVALSHA") as url:
        await opened(url)
    assert "busy with ***" in caplog.text
    assert SECRET not in caplog.text + shown(raised.value)


@contextmanager
def redis_that_says(reply: bytes, *, to: bytes) -> Iterator[str]:
    """A server that gives this reply to a command, and OK to all others."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(65536):
                for command in re.split(rb"(?m)^(?=\*)", data)[1:]:
                    self.request.sendall((reply if to in command else b"+OK") + b"\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"redis://:{SECRET}@127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def shown(error: BaseException | None) -> str:
    """All that a traceback shows of an error."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} {error.args}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


# ---- ways to Redis


async def test_a_unix_socket_works(server: RedisServer) -> None:
    limiter = RedisLimiter(f"unix://{server.socket_path}?db=3", app_key="app", limit=1000)
    async with limiter:
        await limiter.acquire()
        assert repr(limiter).startswith(f"<RedisLimiter at {server.socket_path}, ")


@pytest.mark.parametrize("url", ["valkey://127.0.0.1:{port}/0", "redis://127.0.0.1:{port}/0?protocol=3"])
async def test_other_urls_of_the_same_server_work(server: RedisServer, url: str) -> None:
    limiter = limiter_from_url(url.format(port=server.port), app_key="app", limit=1000)
    await limiter.open()
    await limiter.acquire()
    await limiter.aclose()


async def test_tls_works_and_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    authority, certificate = trustme.CA(), tmp_path / "certificate.pem"
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    tls_port = free_port()
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(certificate))
    server = RedisServer(tmp_path, "--tls-port", str(tls_port), *files, "--tls-auth-clients", "no")
    server.start()
    try:
        url = f"rediss://127.0.0.1:{tls_port}/0"
        async with RedisLimiter(f"{url}?ssl_ca_certs={tmp_path}/authority.pem", app_key="app") as limiter:
            await limiter.acquire()
        with pytest.raises(ConfigError, match="has a certificate that is not trusted"):
            await opened(url)
    finally:
        server.kill()


# ---- URLs


def test_a_url_carries_the_limit_and_share_and_other_options() -> None:
    limiter = limiter_from_url("redis://host:7/3?share=0.25&client_name=me", app_key="app", limit=40)
    assert repr(limiter) == "<RedisLimiter at host:7, 40, rate=40.0>"


@pytest.mark.parametrize("options", ["", "?ssl_cert_reqs=none&ssl_check_hostname=no"])
def test_options_of_tls_are_those_of_a_rediss_url(options: str) -> None:
    assert "at host:7," in repr(RedisLimiter(f"rediss://host:7/0{options}", app_key="app"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://host?share=0", "share is"),
        ("redis://host?share=1.5", "part of the limit that this process may use while Redis is away"),
        ("redis://host?share=half", "share is 'half'.* while Redis is away, 1 / the number of processes"),
        ("redis://host?share=", "share is ''"),
        ("redis://host?protocol=some", "cannot be read: Invalid value for 'protocol'"),
        ("redis://host:port", "cannot be read"),
        ("redis://host/database", "database of the Redis URL is not a number"),
        ("redis://host?shares=0.25", "option of the Redis URL cannot be used: .*'shares'"),
        ("redis://host?ssl_cert_reqs=none", "option of the Redis URL cannot be used: .*'ssl_cert_reqs'"),
        ("rediss://host?ssl_cert_reqs=maybe", "option of the Redis URL cannot be used: .*maybe"),
        ("redis://host?socket_timeout=1", "leave socket_timeout out of the Redis URL: the limiter sets it"),
        ("redis://host?socket_connect_timeout=9", "leave socket_connect_timeout out of the Redis URL"),
        ("redis://[::1", "the Redis URL cannot be read"),
        ("redis://host?retry=3", "leave retry out of the Redis URL"),
        ("redis://", "redis://HOST:PORT/DATABASE"),
        ("redis:///0", "redis://HOST:PORT/DATABASE"),
        ("redis://user:password@:6379/0", "redis://HOST:PORT/DATABASE"),
        ("redis:127.0.0.1", "a Redis URL starts with redis://"),
        ("unix://", "unix:///PATH"),
        ("unix://host/path", "unix:///PATH"),
        ("redis+sentinel://host", "Sentinel and Cluster URLs are not supported"),
        ("redis-cluster://host", "Sentinel and Cluster URLs are not supported"),
        ("memcached://host", "limiter memcached:… is not known; write file:PATH or redis://"),
        ("file:", "write file:PATH or redis://"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        limiter_from_url(url, app_key="app", limit=100)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://default:{SECRET}/ss@host:6379/0",
        f"redis://default:{SECRET}?ss@host",
        f"redis://default:{SECRET}#ss@host",
        f"redis://default:ss/{SECRET}@host",
        f"redis://default:ss?{SECRET}@host",
        f"redis://default:ss#{SECRET}@host",
        f"redis://default:12/{SECRET}@host",
        f"redis://default:{SECRET}",
        f"redis://:{SECRET}[@host",
        f"redis://:{SECRET}@[::1",
        f"redis://:{SECRET}@host:port",
        f"redis://:{SECRET}@host/database",
        f"redis://:{SECRET}@host?nonsense=1",
        f"redis://host?password={SECRET}&nonsense=1",
        f"redis://host?password={SECRET}&protocol={SECRET}",
        f"redis://:{SECRET}@host?share=2",
        f"redis://:{SECRET}@",
        f"redis:{SECRET}@host",
        f"unix://:{SECRET}@",
        f"unix://:{SECRET}/ss@host/path",
        f"valkey://:{SECRET}/ss@host",
        f"valkeyx://:{SECRET}@host",
        f"sentinel://:{SECRET}@host",
        f"{SECRET}",
        f"{SECRET}:ss@host",
    ],
)
def test_no_error_shows_any_part_of_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        limiter_from_url(url, app_key="app", limit=100)
    assert SECRET not in shown(raised.value)


@pytest.mark.parametrize("url", [f"redis://:{SECRET}@host", f"redis://u:{SECRET}@[::1]:7", f"unix://u:{SECRET}@/path"])
def test_no_repr_shows_a_password(url: str) -> None:
    assert SECRET not in repr(limiter_from_url(url, app_key="app", limit=100))


def test_without_redis_py_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rongcloud_groups.limiters.redis", None)
    with pytest.raises(ConfigError, match=r"rongcloud-groups\[redis\]"):
        limiter_from_url("redis://host", app_key="app", limit=100)

import asyncio
import gc
import logging
import socket
import traceback
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from support.clients import trusting
from support.h2_peer import QUERY, opened, serving
from support.proxy_process import PASSWORD, USER, tinyproxy
from support.silent_server import Silent, listening

from rongcloud_groups import ConfigError, GroupClient, TransportError
from rongcloud_groups._http import Origin, Proxy
from rongcloud_groups.diagnostics import check
from rongcloud_groups.emulator import Emulator
from rongcloud_groups.events import ConnectionOpened, Event

IDS = [f"g{number}" for number in range(500)]


@pytest.mark.parametrize(("http2", "version"), [(True, "HTTP/2"), (False, "HTTP/1.1")])
async def test_lookups_go_through_a_proxy_in_a_tunnel(http2: bool, version: str, tmp_path: Path) -> None:  # noqa: FBT001  a parameter
    events: list[Event] = []
    async with Emulator() as emulator, tinyproxy(tmp_path) as proxy:
        async with GroupClient(
            emulator.app_key,
            emulator.app_secret,
            base_urls=emulator.url,
            verify=trusting(emulator),
            proxy=proxy.url,
            http2=http2,
            hooks=[events.append],
        ) as client:
            lookup = await client.get_many(IDS)
            assert (len(lookup), lookup.failed) == (500, {})
        opened_versions = [event.http_version for event in events if isinstance(event, ConnectionOpened)]
        assert set(opened_versions) == {version}
        diagnosis = await check(
            emulator.app_key,
            emulator.app_secret,
            base_urls=emulator.url,
            verify=trusting(emulator),
            proxy=proxy.url,
            http2=http2,
        )
        assert diagnosis.ok
        connections = emulator.report().connections
    assert len(opened_versions) < connections <= sum("CONNECT" in line for line in proxy.log)


async def test_lookups_without_tls_go_through_a_proxy_by_their_whole_url(tmp_path: Path) -> None:
    async with Emulator(tls=False) as emulator, tinyproxy(tmp_path) as proxy:
        with pytest.raises(ConfigError, match="would send the App Key and signatures unencrypted"):
            GroupClient(emulator.app_key, emulator.app_secret, base_urls=emulator.url, proxy=proxy.url)
        async with GroupClient(
            emulator.app_key, emulator.app_secret, base_urls=emulator.url, proxy=proxy.url, allow_insecure=True
        ) as client:
            lookup = await client.get_many(IDS)
            assert (len(lookup), lookup.failed) == (500, {})
    assert any(f"POST {emulator.url}/" in line for line in proxy.log)


def _but_this_file(shown: traceback.TracebackException) -> list[str]:
    """A traceback with the local variables of each frame but the tests' own."""
    texts = [str(shown)]
    for each in (shown, shown.__cause__, shown.__context__):
        if each is not None:
            texts += [str(frame.locals) for frame in each.stack if "/tests/" not in frame.filename]
    return texts


async def test_a_proxy_that_refuses_its_password_is_named_and_the_password_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving() as server, tinyproxy(tmp_path) as proxy:
        wrong = Proxy.of(f"http://{USER}:wr0ng@127.0.0.1:{proxy.port}")
        with pytest.raises(
            TransportError, match=r"tunnel through proxy .*: 40[17] .*: check the user and pass"
        ) as refused:
            await opened(server.url, proxy=wrong)
        assert refused.value.never_processed
        encoded = b64encode(f"{USER}:wr0ng".encode()).decode()
        shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
        texts = [repr(refused.value.__cause__), repr(wrong), caplog.text, *_but_this_file(shown)]
        assert not any("wr0ng" in text or USER in text or encoded in text for text in texts)
        assert server.peers == []


async def test_a_proxy_that_cannot_reach_the_host_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with tinyproxy(tmp_path) as proxy:
        with pytest.raises(TransportError, match=r"tunnel through proxy 127\.0\.0\.1:\d+ failed: the proxy refused: 5"):
            await opened(Origin.parse(f"https://127.0.0.1:{port}"), proxy=Proxy.of(proxy.url))


async def test_a_proxy_that_is_not_there_is_named() -> None:
    async with listening(Silent()) as url:
        pass
    with pytest.raises(TransportError, match=rf"group\.test:443: connecting to proxy 127.0.0.1:{url.port} failed"):
        await opened(Origin.parse("https://group.test"), proxy=Proxy.of(str(url)))


@pytest.mark.parametrize(
    ("greeting", "text"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "failed: not an HTTP proxy: illegal status line"),
        (b"HTTP/1.1 200 OK\r\n\r\nsurplus", "failed: the proxy sent more than its response"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", "the proxy refused: 302 Found"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "failed: not an HTTP proxy: Receive buffer too long"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1_000, "failed: not an HTTP proxy: it sends no end of"),
        (b"", "timed out after 1 s"),
    ],
)
async def test_a_proxy_that_responds_badly_leaves_no_socket(greeting: bytes, text: str) -> None:
    protocol = Silent(greeting)
    async with listening(protocol) as url:
        with pytest.raises(TransportError, match=f"tunnel through proxy 127.0.0.1:{url.port} .*{text}"):
            await opened(Origin.parse("https://group.test"), proxy=Proxy.of(str(url)), timeout=1)
        await protocol.lost.wait()


async def test_a_proxy_that_closes_without_a_response_is_reported() -> None:
    async with listening(Silent(then_close=True)) as url:
        with pytest.raises(TransportError, match=r"closed the connection without a response|reset by peer|Broken pipe"):
            await opened(Origin.parse("https://group.test"), proxy=Proxy.of(str(url)))


async def test_a_tunnel_that_is_cancelled_leaves_no_socket() -> None:
    protocol = Silent()
    async with listening(protocol) as url:
        connecting = asyncio.create_task(opened(Origin.parse("https://group.test"), proxy=Proxy.of(str(url))))
        await protocol.made.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await protocol.lost.wait()
    gc.collect()  # an open socket would be a ResourceWarning


@pytest.mark.parametrize(
    "proxy",
    [
        "https://user:s3cret@proxy.test",
        "socks5://user:s3cret@proxy.test",
        "user:s3cret@proxy.test:8080",
        "http://user:s3cret@proxy.test/path",
        "http://user:s3cret@pro xy.test",
        "http://user:s3cr/et@",
        b"http://user:s3cret@proxy.test",
        7,
        "",
    ],
)
def test_a_proxy_that_is_none_is_refused_without_its_password(proxy: Any) -> None:
    with pytest.raises(ConfigError, match=r"proxy .* must be http://\[user:password@\]host\[:port\]") as refused:
        GroupClient("key", "secret", proxy=proxy)
    assert "s3cr" not in str(refused.value)
    assert "user:" not in str(refused.value).replace("[user:password@]", "")


def test_the_password_of_a_proxy_is_shown_nowhere() -> None:
    proxy = Proxy.of(f"http://{USER}:{PASSWORD}@proxy.test:8080")
    client = GroupClient("key", "secret", proxy=proxy)
    for shown in (repr(proxy), str(proxy), repr(client), repr(client._parts.failover)):
        assert PASSWORD not in shown
        assert USER not in shown
    assert repr(proxy) == "<Proxy http://proxy.test:8080>"
    with pytest.raises(TypeError, match="set RONGCLOUD_PROXY instead"):
        proxy.__reduce__()


def test_a_proxy_of_the_environment_that_is_not_used_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:s3cret@proxy.test")
    GroupClient("key", "secret", proxy="http://proxy.test")
    assert caplog.messages == []
    GroupClient("key", "secret")
    assert caplog.messages == ["HTTPS_PROXY is set and not used: pass proxy=, or set RONGCLOUD_PROXY, to use a proxy"]


@pytest.mark.parametrize(
    ("no_proxy", "served"),
    [
        ("", True),
        ("other.test, groups.test.other", True),
        ("groups.test", False),
        (".test", False),
        ("other,TEST ", False),
        ("*", False),
        ("groups.test:443", False),
        ("groups.test:8443", True),
    ],
)
def test_the_proxy_of_the_environment_leaves_out_the_hosts_in_no_proxy(
    monkeypatch: pytest.MonkeyPatch,
    no_proxy: str,
    served: bool,  # noqa: FBT001  a parameter
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:8080")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    proxy = Proxy.from_environment()
    assert proxy is not None
    assert proxy.serves(Origin.parse("https://groups.test")) is served


async def test_a_host_in_no_proxy_is_connected_to_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setenv("NO_PROXY", "localhost")
    async with serving() as server:
        connection = await opened(server.url, proxy=Proxy.from_environment())
        assert (await connection.send(QUERY, 5)).status == 200
        await connection.aclose()


def test_a_transport_has_a_proxy_of_its_own() -> None:
    with pytest.raises(ConfigError, match="give the transport a proxy of its own"):
        GroupClient("key", "secret", proxy="http://proxy.test", transport=lambda: None)  # type: ignore[arg-type]

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohappyeyeballs import start_connection
from support.h2_peer import QUERY, authority, opened, server_context, serving
from support.silent_server import Silent, listening

from rongcloud_groups._http import Origin
from rongcloud_groups._transport.connect import Dialler
from rongcloud_groups.errors import TransportError


def replace_resolver(monkeypatch: pytest.MonkeyPatch, resolve: Callable[[str, int], list[tuple[object, ...]]]) -> None:
    """Let this function resolve names; IP addresses are read as always, which asks no resolver."""
    read = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *, flags: int, **options: Any) -> Any:
        return read(host, port, flags=flags, **options) if flags & socket.AI_NUMERICHOST else resolve(host, port)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_a_server_that_offers_http2_is_spoken_to_in_http2() -> None:
    async with serving() as server:
        connection = await opened(server.url)
        assert connection.http_version == "HTTP/2"
        assert connection.open_slots == 64
        assert (await connection.send(QUERY, 5)).status == 200
        await connection.aclose()
        await server.peer.lost.wait()


async def test_settings_that_come_with_the_handshake_are_not_lost() -> None:
    async with serving(settings={3: 7}) as server:
        for _ in range(20):
            connection = await opened(server.url)
            assert connection.open_slots == 7
            await connection.aclose()


async def test_a_refused_connection_names_host_port_and_cause() -> None:
    protocol = Silent()
    async with listening(protocol) as url:
        pass
    with pytest.raises(TransportError, match=f"127.0.0.1:{url.port}: connecting failed: ") as refused:
        await opened(url._replace(scheme="https"))
    assert refused.value.never_processed


async def test_a_refused_address_is_reported_in_plain_words() -> None:
    protocol = Silent()
    async with listening(protocol) as url:
        pass
    with pytest.raises(TransportError, match="connecting failed: connection refused"):
        await opened(url._replace(host="127.0.0.1"))


async def test_a_connection_that_is_reset_at_once_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets: list[socket.socket] = []

    async def reset_connection(*args: Any, **options: Any) -> socket.socket:
        connected = await start_connection(*args, **options)
        accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()  # with a reset, before the event loop has the socket
        sockets.append(connected)
        return connected

    monkeypatch.setattr("rongcloud_groups._transport.connect.start_connection", reset_connection)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(TransportError):
            await opened(Origin("https", "127.0.0.1", port))
    for _ in range(3):  # steps in which the event loop closes it
        await asyncio.sleep(0)
    assert sockets[0].fileno() == -1


@pytest.mark.parametrize("first", ["127.0.0.2", "192.0.2.1"])
async def test_an_address_that_refuses_or_is_silent_is_passed_over(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:

        def resolved(_host: str, port: int) -> list[tuple[object, ...]]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*kind, (first, port)), (*kind, ("127.0.0.1", port))]

        replace_resolver(monkeypatch, resolved)
        connection = await opened(server.url)
        assert (await connection.send(QUERY, 5)).status == 200
        await connection.aclose()
        assert len(server.peers) == 1


async def test_the_slower_of_two_addresses_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rongcloud_groups._transport.connect._ATTEMPT_DELAY", 0)
    async with serving() as server:

        def resolved(_host: str, port: int) -> list[tuple[object, ...]]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*kind, ("127.0.0.1", port))] * 5

        replace_resolver(monkeypatch, resolved)
        connection = await opened(server.url)
        await connection.aclose()


async def test_an_unknown_name_is_reported_in_plain_words() -> None:
    with pytest.raises(TransportError, match=r"no-such-host\.invalid:443: name resolution failed: name not resolved"):
        await opened(Origin.parse("https://no-such-host.invalid"))


async def test_a_name_that_cannot_be_one_is_reported_in_plain_words() -> None:
    with pytest.raises(TransportError, match="name resolution failed: not a host name"):
        await opened(Origin.parse(f"https://{'a' * 70}.example"))


async def test_a_certificate_that_is_not_trusted_is_reported_with_its_reason() -> None:
    async with serving() as server:
        with pytest.raises(TransportError, match="TLS handshake failed: certificate not trusted: unable to get"):
            await opened(server.url, verify=ssl.create_default_context())


async def test_a_certificate_for_another_name_is_reported_with_its_reason() -> None:
    async with serving() as server:
        url = server.url._replace(host="127.0.0.2")
        with pytest.raises(TransportError, match=r"certificate not trusted: IP address mismatch|connection refused"):
            await opened(url)


async def test_a_server_that_speaks_no_tls_is_reported_in_plain_words() -> None:
    protocol = Silent(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    async with listening(protocol) as url:
        with pytest.raises(TransportError, match="TLS handshake failed: "):
            await opened(url._replace(scheme="https"))
        await protocol.lost.wait()


async def test_a_server_that_closes_in_the_handshake_is_a_transport_error() -> None:
    async with listening(Silent(then_close=True)) as url:
        with pytest.raises(TransportError, match="TLS handshake failed: "):
            await opened(url._replace(scheme="https"))


async def test_a_tls_handshake_that_hangs_times_out_and_leaves_no_socket() -> None:
    protocol = Silent()
    async with listening(protocol) as url:
        with pytest.raises(TransportError, match=r"TLS handshake timed out after 1 s") as late:
            await opened(url._replace(scheme="https"), timeout=1)
        assert isinstance(late.value.__cause__, TimeoutError)
        await protocol.lost.wait()


async def test_settings_that_never_come_time_out_and_leave_no_socket() -> None:
    protocol = Silent()
    async with listening(protocol, server_context("h2")) as url:
        with pytest.raises(TransportError, match=r"HTTP/2 SETTINGS timed out after 1 s"):
            await opened(url, timeout=1)
        await protocol.lost.wait()


async def test_a_server_that_closes_before_its_settings_is_a_transport_error() -> None:
    protocol = Silent(then_close=True)
    async with listening(protocol, server_context("h2")) as url:
        with pytest.raises(TransportError, match=r"failed: .*closed by the server|connection lost"):
            await opened(url)
        await protocol.lost.wait()


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("turns", range(8))
async def test_a_connect_that_is_cancelled_leaves_no_socket(turns: int, tls: bool) -> None:  # noqa: FBT001  a parameter
    protocol = Silent()
    async with listening(protocol, server_context("h2") if tls else None) as url:
        connecting = asyncio.create_task(opened(url._replace(scheme="https")))
        await protocol.made.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await protocol.lost.wait()


async def test_the_default_context_honours_ssl_cert_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("trust") / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with serving() as server:
        connection = await opened(server.url, verify=None)
        assert (await connection.send(QUERY, 5)).status == 200
        await connection.aclose()


async def test_without_http2_only_http1_is_offered() -> None:
    protocol = Silent()
    async with listening(protocol, server_context("h2", "http/1.1")) as url:
        connection = await opened(url, http2=False)
        assert connection.http_version == "HTTP/1.1"
        await connection.aclose()
        await protocol.lost.wait()


def offered_by(context: ssl.SSLContext) -> str | None:
    """The protocol that a server which knows them all chooses of those that the context offers."""
    server = server_context("h2", "own/2", "own/1")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        context.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(3):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].selected_alpn_protocol()


@pytest.mark.parametrize("own", [None, "own/1", "own/2"])
async def test_the_callers_context_is_unchanged_and_serves_both_http_versions_at_once(own: str | None) -> None:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    if own:
        context.set_alpn_protocols(["unknown", own])
    async with serving() as server, listening(Silent(), server_context("h2", "http/1.1")) as either:
        with_http2 = Dialler(verify=context, http2=True, timeout=30, max_in_flight=1)
        without = Dialler(verify=context, http2=False, timeout=30, max_in_flight=1)
        versions = []
        for dialler, url in ((with_http2, server.url), (without, either), (with_http2, server.url)):
            connection = await dialler.connect(url, lambda: None)
            versions.append(connection.http_version)
            await connection.aclose()
        assert versions == ["HTTP/2", "HTTP/1.1", "HTTP/2"]
        assert offered_by(context) == own


def resolving(monkeypatch: pytest.MonkeyPatch, *results: str | Exception) -> list[str]:
    """Makes the resolver return one result after the other; returns the hosts that it was asked for."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[tuple[object, ...]]:
        asked.append(host)
        result = results[min(len(asked), len(results)) - 1]
        if isinstance(result, Exception):
            raise result
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (result, port))]

    replace_resolver(monkeypatch, resolve)
    return asked


async def test_a_name_that_fails_recovers_and_moves_is_resolved_for_each_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as server:
        asked = resolving(monkeypatch, socket.gaierror(-3, "try again"), "127.0.0.9", "127.0.0.1")
        with pytest.raises(TransportError, match="name resolution failed: name not resolved: try again") as failed:
            await opened(server.url)
        assert failed.value.never_processed
        with pytest.raises(TransportError, match="connecting failed: connection refused"):
            await opened(server.url)
        connection = await opened(server.url)
        assert (await connection.send(QUERY, 5)).status == 200
        await connection.aclose()
        assert asked == ["localhost"] * 3


async def test_an_ip_address_needs_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, RuntimeError("no resolver"))
    async with listening(Silent()) as url:
        connection = await opened(url._replace(host="127.0.0.1"))
        await connection.aclose()
    with pytest.raises(TransportError, match="::1:9: connecting failed"):
        await opened(Origin.parse("http://[::1]:9"))
    assert asked == []


async def test_a_resolver_that_hangs_holds_one_thread_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    asked: list[str] = []

    def hang(host: str, _port: int) -> list[tuple[object, ...]]:
        asked.append(host)
        released.wait()
        raise socket.gaierror(-3, "try again")

    replace_resolver(monkeypatch, hang)
    dialler = Dialler(verify=None, http2=True, timeout=0.05, max_in_flight=1)
    before = asyncio.all_tasks()
    try:
        for _ in range(20):
            with pytest.raises(TransportError, match=r"name resolution timed out after 0\.05 s"):
                await dialler.connect(Origin.parse("https://slow.test"), lambda: None)
        assert asked == ["slow.test"]
        assert asyncio.all_tasks() == before
    finally:
        released.set()


async def test_a_machine_without_threads_left_costs_the_connection_and_not_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolving(monkeypatch, RuntimeError("can't start new thread"))
    with pytest.raises(TransportError, match="name resolution failed: can't start new thread"):
        await opened(Origin.parse("https://group.test"))

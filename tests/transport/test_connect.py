import asyncio
import socket
import ssl

import pytest
from support.h2_peer import QUERY, authority, opened, server_context, serving
from support.silent_server import Silent, listening

from rongcloud_groups._http import Origin
from rongcloud_groups.errors import TransportError


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
    with pytest.raises(TransportError, match=f"localhost:{url.port}: connecting failed: ") as refused:
        await opened(url._replace(scheme="https"))
    assert refused.value.never_processed


async def test_a_refused_address_is_told_in_plain_words() -> None:
    protocol = Silent()
    async with listening(protocol) as url:
        pass
    with pytest.raises(TransportError, match="connecting failed: connection refused"):
        await opened(url._replace(host="127.0.0.1"))


@pytest.mark.parametrize("first", ["127.0.0.2", "192.0.2.1"])
async def test_an_address_that_refuses_or_is_silent_is_passed_over(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:

        def resolved(_host: str, port: int, **_options: object) -> list[tuple[object, ...]]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*kind, (first, port)), (*kind, ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        connection = await opened(server.url)
        assert (await connection.send(QUERY, 5)).status == 200
        await connection.aclose()
        assert len(server.peers) == 1


async def test_the_slower_of_two_addresses_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rongcloud_groups._transport.connect._ATTEMPT_DELAY", 0)
    async with serving() as server:

        def resolved(_host: str, port: int, **_options: object) -> list[tuple[object, ...]]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*kind, ("127.0.0.1", port))] * 5

        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        connection = await opened(server.url)
        await connection.aclose()


async def test_an_unknown_name_is_told_in_plain_words() -> None:
    with pytest.raises(TransportError, match=r"no-such-host\.invalid:443: name resolution failed: name not resolved"):
        await opened(Origin.parse("https://no-such-host.invalid"))


async def test_a_name_that_cannot_be_one_is_told_in_plain_words() -> None:
    with pytest.raises(TransportError, match="name resolution failed: not a host name"):
        await opened(Origin.parse(f"https://{'a' * 70}.example"))


async def test_a_certificate_that_is_not_trusted_is_told_with_its_reason() -> None:
    async with serving() as server:
        with pytest.raises(TransportError, match="TLS handshake failed: certificate not trusted: unable to get"):
            await opened(server.url, verify=ssl.create_default_context())


async def test_a_certificate_for_another_name_is_told_with_its_reason() -> None:
    async with serving() as server:
        url = server.url._replace(host="127.0.0.2")
        with pytest.raises(TransportError, match=r"certificate not trusted: IP address mismatch|connection refused"):
            await opened(url)


async def test_a_server_that_speaks_no_tls_is_told_in_plain_words() -> None:
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
        with pytest.raises(TransportError, match=r"TLS handshake timed out after 0.05 s") as late:
            await opened(url._replace(scheme="https"), timeout=0.05)
        assert isinstance(late.value.__cause__, TimeoutError)
        await protocol.lost.wait()


async def test_settings_that_never_come_time_out_and_leave_no_socket() -> None:
    protocol = Silent()
    async with listening(protocol, server_context("h2")) as url:
        with pytest.raises(TransportError, match=r"HTTP/2 SETTINGS timed out after 0.2 s"):
            await opened(url, timeout=0.2)
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

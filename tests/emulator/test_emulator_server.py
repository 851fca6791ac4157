import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame
from support.raw_http2 import RawHttp2
from support.service_requests import KEY, SECRET, V1_BATCH, V4_BATCH, form, signed

from rongcloud_groups.emulator import Emulator, Faults, GoAway, Report, Service, Universe

EVERY = Universe(unknown_share=0)


@asynccontextmanager
async def client_of(emulator: Emulator, *, http2: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    timeout = httpx.Timeout(10)
    async with httpx.AsyncClient(
        verify=emulator.ssl_context, base_url=emulator.url, http2=http2, timeout=timeout
    ) as client:
        yield client


async def ask(client: httpx.AsyncClient, *group_ids: str) -> httpx.Response:
    return await client.post(V1_BATCH, content=form(group_ids), headers=signed())


@pytest.mark.parametrize(
    ("options", "version"), [({}, "HTTP/2"), ({"http2": False}, "HTTP/1.1"), ({"tls": False}, "HTTP/1.1")]
)
async def test_a_stock_client_gets_responses(options: dict[str, Any], version: str) -> None:
    async with Emulator(universe=EVERY, **options) as emulator, client_of(emulator) as client:
        first = await ask(client, "a", "b")
        second = await client.post(
            V4_BATCH, json={"channelIds": ["a", "c"]}, headers=signed(content_type="application/json")
        )
    assert (first.http_version, first.status_code) == (version, 200)
    assert [profile["groupId"] for profile in first.json()["profiles"]] == ["a", "b"]
    assert [profile["channelId"] for profile in second.json()["result"]["profiles"]] == ["a", "c"]
    report = emulator.report()
    assert report.requests == {V1_BATCH: 1, V4_BATCH: 1}
    assert report.http_versions == {version: 2}
    assert (report.connections, report.max_requests_on_connection) == (1, 2)
    assert (report.ids_asked, report.ids_asked_again) == (4, 1)
    assert report.codes == {200: 2}


async def test_the_report_says_how_to_reach_it() -> None:
    async with Emulator() as emulator:
        assert emulator.url.startswith("https://127.0.0.1:")
        assert (emulator.app_key, emulator.app_secret) == (KEY, SECRET)
        trusting = ssl.create_default_context(cadata=emulator.ca_pem.decode())
        async with httpx.AsyncClient(verify=trusting) as client:
            for url in (emulator.url, emulator.url.replace("127.0.0.1", "localhost")):
                assert (await client.get(f"{url}/nothing")).status_code == 404
    async with Emulator(tls=False) as emulator:
        assert emulator.ca_pem == b""


async def test_the_rate_holds_and_the_worst_second_counts_the_refused() -> None:
    async with Emulator(limit=5, universe=EVERY) as emulator, client_of(emulator) as client:
        responses = await asyncio.gather(*(ask(client, "a") for _ in range(12)))
    assert sorted(response.status_code for response in responses) == [200] * 5 + [429] * 7
    report = emulator.report()
    assert (report.batch_requests, report.refused, report.worst_second) == (12, 7, 12)


async def test_batches_are_kept_on_request() -> None:
    async with Emulator(record_ids=True) as emulator, client_of(emulator) as client:
        await ask(client, "a", "b")
        await ask(client, "c")
        assert emulator.batches == [["a", "b"], ["c"]]
    async with Emulator() as emulator, client_of(emulator) as client:
        await ask(client, "a", "b")
        assert emulator.batches == []


async def test_an_id_asked_twice_in_one_batch_was_asked_again() -> None:
    async with Emulator(universe=EVERY) as emulator, client_of(emulator) as client:
        await ask(client, "a", "a", "b")
        assert (emulator.report().ids_asked, emulator.report().ids_asked_again) == (3, 1)


async def test_another_process_can_read_and_clear_the_counters() -> None:
    async with Emulator(faults=Faults(at={2: "error-500"})) as emulator, client_of(emulator) as client:
        await ask(client, "a")
        await ask(client, "a")
        response = await client.get("/_emulator/report")
        assert msgspec.json.decode(response.content, type=Report) == emulator.report()
        assert emulator.report().faults == {"error-500": 1}
        assert (await client.get("/_emulator/arrivals")).json() == emulator.arrivals
        assert len(emulator.arrivals) == 2
        await client.post("/_emulator/reset")
        assert emulator.report().batch_requests == 0
        assert emulator.report().faults == {}
        assert (await client.get("/_emulator/nothing")).status_code == 404


async def test_waiting_ends_when_that_many_requests_have_arrived() -> None:
    async with Emulator() as emulator, client_of(emulator) as client:
        three = asyncio.ensure_future(emulator.wait_for(3))
        one = asyncio.ensure_future(emulator.wait_for(1))
        given_up = asyncio.ensure_future(emulator.wait_for(2))
        await asyncio.sleep(0)
        given_up.cancel()
        await ask(client, "a")
        await one
        assert not three.done()
        await ask(client, "a")
        await ask(client, "a")
        await three
        await emulator.wait_for(2)


async def test_a_service_may_be_given_and_then_takes_no_options() -> None:
    faults = Faults()
    service = Service(app_key="mine", universe=EVERY, faults=faults)
    emulator = Emulator(service)
    assert emulator.app_key == "mine"
    assert emulator.faults is faults
    with pytest.raises(TypeError, match="limit"):
        Emulator(service, limit=5)


async def test_connections_may_be_closed_while_it_keeps_listening() -> None:
    async with Emulator() as emulator, client_of(emulator) as client:
        await ask(client, "a")
        await emulator.close_connections()
        assert not emulator.connections
        async with client_of(emulator) as another:
            assert (await ask(another, "a")).status_code == 200
    assert emulator.report().connections == 2


async def test_leaving_closes_what_is_open_even_if_the_client_does_not_read() -> None:
    async with Emulator(universe=EVERY, tls=False, latency=60) as emulator:
        host, port = emulator.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await emulator.wait_for(1)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection(host, int(port))


async def test_the_port_can_be_taken_again_at_once() -> None:
    async with Emulator() as emulator, client_of(emulator) as client:
        await ask(client, "a")
        port = int(emulator.url.rpartition(":")[2])
    async with Emulator(port=port) as again, client_of(again) as client:
        assert (await ask(client, "a")).status_code == 200


async def test_a_black_hole_accepts_and_says_nothing() -> None:
    async with Emulator(faults=Faults(black_hole=True)) as emulator:
        host, port = emulator.url.removeprefix("https://").split(":")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.open_connection(host, int(port), ssl=emulator.ssl_context)
        reader, writer = await asyncio.open_connection(host, int(port))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read()
        writer.close()
        await writer.wait_closed()
        _, unclosed = await asyncio.open_connection(host, int(port))
    assert emulator.report().connections == 3
    assert emulator.report().faults == {"black-hole": 3}
    unclosed.close()
    await unclosed.wait_closed()


async def test_a_slow_handshake_comes_to_its_end() -> None:
    async with Emulator(faults=Faults(handshake=0.05)) as emulator, client_of(emulator) as client:
        assert (await ask(client, "a")).status_code == 200
    assert emulator.report().faults == {"handshake": 1}


async def test_a_handshake_that_is_under_way_does_not_keep_it_from_closing() -> None:
    async with Emulator(faults=Faults(handshake=60)) as emulator:
        host, port = emulator.url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        while not emulator.report().connections:  # noqa: ASYNC110  accepting a connection is no request, so there is no event
            await asyncio.sleep(0)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_does_not_trust_it_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with Emulator() as emulator:
            async with httpx.AsyncClient(verify=ssl.create_default_context()) as client:
                with pytest.raises(httpx.ConnectError):
                    await client.get(emulator.url)
            async with client_of(emulator) as client:
                assert (await ask(client, "a")).status_code == 200
    assert emulator.report().connections == 2
    assert not caplog.records


@pytest.mark.parametrize("fault", ["rst", "refuse", "drop", "cut", "goaway-lower", "goaway-close"])
async def test_over_http1_faults_of_the_stream_end_the_connection(fault: str) -> None:
    faults = Faults(at={1: fault})
    async with Emulator(universe=EVERY, http2=False, faults=faults) as emulator, client_of(emulator) as client:
        with pytest.raises(httpx.TransportError):
            await ask(client, "a")
        assert (await ask(client, "a")).json()["profiles"]
    assert emulator.report().connections == 2


@pytest.mark.parametrize("kind", ["goaway-lower", "goaway-close"])
async def test_over_http1_other_kinds_of_goaway_drop_each_connection_at_their_request(kind: str) -> None:
    faults = Faults(goaway=GoAway(kind, 2))
    async with Emulator(universe=EVERY, http2=False, faults=faults) as emulator, client_of(emulator) as client:
        for _ in range(2):
            assert (await ask(client, "a")).json()["profiles"]
            with pytest.raises(httpx.TransportError):
                await ask(client, "a")
    assert emulator.report().connections == 2


@pytest.mark.parametrize("faults", [Faults(goaway=GoAway("goaway", 2)), Faults(at={2: "goaway"})])
async def test_over_http1_a_graceful_end_is_connection_close(faults: Faults) -> None:
    async with Emulator(universe=EVERY, http2=False, faults=faults) as emulator, client_of(emulator) as client:
        responses = [await ask(client, "a") for _ in range(3)]
    assert [response.headers.get("connection") for response in responses] == [None, "close", None]
    assert emulator.report().connections == 2


async def test_over_http1_a_body_may_be_slow() -> None:
    faults = Faults(at={1: "slow-body"}, piece_pause=0.001)
    async with Emulator(universe=EVERY, http2=False, faults=faults) as emulator, client_of(emulator) as client:
        assert (await ask(client, "a")).json()["profiles"]
        assert (await ask(client, "b")).json()["profiles"]
    assert emulator.report().connections == 1


async def test_over_http1_a_hung_request_gets_no_response() -> None:
    faults = Faults(at={1: "hang"})
    async with Emulator(http2=False, faults=faults) as emulator, client_of(emulator) as client:
        hung = asyncio.ensure_future(ask(client, "a"))
        await emulator.wait_for(1)
        assert (await ask(client, "b")).status_code == 200
        assert not hung.done()
        hung.cancel()


async def raw_http1(emulator: Emulator, *chunks: bytes) -> bytes:
    host, port = emulator.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.writelines(chunks)
    writer.write_eof()
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


async def test_over_http1_pipelined_requests_get_responses_in_turn() -> None:
    async with Emulator(tls=False) as emulator:
        two = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert (await raw_http1(emulator, two)).count(b"HTTP/1.1 404") == 2
    assert emulator.report().requests == {"/a": 1, "/b": 1}


async def test_over_http1_nonsense_is_counted_and_ends_the_connection() -> None:
    async with Emulator(tls=False) as emulator:
        assert await raw_http1(emulator, b"nonsense\r\n\r\n") == b""
    assert emulator.report().protocol_errors == 1


async def test_over_http1_a_connection_can_turn_into_a_black_hole_or_be_closed_for_idling() -> None:
    async with Emulator(tls=False, faults=Faults(idle=0.05)) as emulator, client_of(emulator) as client:
        assert (await ask(client, "a")).status_code == 200
        emulator.faults.black_hole = True
        with pytest.raises(httpx.TransportError):
            await ask(client, "a")
    assert emulator.report().batch_requests == 1


async def test_an_endless_body_over_http1_is_refused_early() -> None:
    async with Emulator(tls=False) as emulator:
        reader, writer = await asyncio.open_connection(*emulator.url.removeprefix("http://").split(":"))
        fields = [f"{name}: {value}" for name, value in signed().items()]
        writer.write(
            "\r\n".join([f"POST {V1_BATCH} HTTP/1.1", "host: x", "transfer-encoding: chunked", *fields]).encode()
        )
        writer.write(b"\r\n\r\n" + (b"10000\r\n" + b"g" * 65_536 + b"\r\n") * 8)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert b"connection: close" in head.lower()
        assert msgspec.json.decode(await reader.read())["code"] == 1005
        writer.close()
        await writer.wait_closed()


async def test_an_endless_body_over_http2_is_refused_early_and_costs_its_stream_alone() -> None:
    async with Emulator(universe=EVERY) as emulator, RawHttp2(emulator) as client:
        endless = client.ask("a", end=False)
        client.flush()
        for _ in range(20):
            client.write(DataFrame(endless, b"g" * 16_384))
        response = await client.response(endless)
        assert msgspec.json.decode(response.body)["code"] == 1005
        while response.reset is None:
            await client.read()
        assert response.reset == ErrorCodes.NO_ERROR
        later = client.ask("a")
        client.flush()
        assert len((await client.response(later)).profiles) == 1


@pytest.mark.parametrize("http2", [True, False], ids=["HTTP/2", "HTTP/1.1"])
async def test_a_body_that_announces_too_much_gets_a_response(http2: bool) -> None:  # noqa: FBT001  a parameter
    async with Emulator(http2=http2) as emulator, client_of(emulator, http2=http2) as client:
        response = await client.post(V1_BATCH, content=b"groupIds=" + b"g" * 300_000, headers=signed())
        assert (response.status_code, response.json()["code"]) == (400, 1005)


@pytest.mark.parametrize("http2", [True, False], ids=["HTTP/2", "HTTP/1.1"])
async def test_bytes_that_are_no_text_are_refused_without_a_traceback(
    http2: bool,  # noqa: FBT001  a parameter
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Emulator(http2=http2) as emulator, client_of(emulator, http2=http2) as client:
        for path, content_type, body in (
            (V1_BATCH, "application/x-www-form-urlencoded", b"groupIds=\xff\xfe"),
            (V4_BATCH, "application/json", b'{"channelIds": ["\xff"]}'),
        ):
            response = await client.post(path, content=body, headers=signed(content_type=content_type))
            assert (response.status_code, response.json()["code"]) == (400, 1002)
        headers = [*signed().items(), ("x-note", b"\xff\xfe")]
        assert (await client.post(V1_BATCH, content=form(["a"]), headers=headers)).status_code == 200  # type: ignore[arg-type]
    assert not caplog.records
    assert emulator.report().protocol_errors == 0

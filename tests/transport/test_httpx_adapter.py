import asyncio
import gzip
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import httpx
import httpx2
import pytest
import respx
from support.virtual_time import at, now, settle, virtual_time

from rongcloud_groups import ConfigError, GroupClient, RongCloudError, TransportError
from rongcloud_groups._http import Origin, Request
from rongcloud_groups._transport.httpx_adapter import HttpxConnection

PATH = "/entrust/group/profile/query.json"
Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]


def group_ids_of(request: httpx.Request) -> list[str]:
    return parse_qs(request.content.decode())["groupIds"]


def profiles_for(request: httpx.Request) -> httpx.Response:
    profiles = [{"groupId": group_id, "groupName": f"name of {group_id}"} for group_id in group_ids_of(request)]
    return httpx.Response(200, json={"code": 200, "profiles": profiles})


async def answering(request: httpx.Request) -> httpx.Response:
    return profiles_for(request)


class Transport(httpx.AsyncBaseTransport):
    """A transport in memory that notes what it carried, and whether it was closed."""

    def __init__(self, handler: Handler = answering, *, closing: float = 0.0) -> None:
        self.requests: list[httpx.Request] = []
        self.in_flight = self.most_in_flight = 0
        self.closed = 0
        self._handler = handler
        self._closing = closing

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert not self.closed
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._handler(request)
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        assert not self.in_flight
        await asyncio.sleep(self._closing)
        self.closed += 1


def ids(number: int) -> list[str]:
    return [f"g{index}" for index in range(number)]


@virtual_time
async def test_a_transport_carries_every_request_and_is_closed_once() -> None:
    transport = Transport()
    async with GroupClient("key", "secret", transport=transport) as client:
        lookup = await client.get_many(ids(5000))
        assert list(lookup.found) == ids(5000)
        await at(200.0)
        assert await client.get("again")
    assert len(transport.requests) == 101
    assert transport.closed == 1


@virtual_time
async def test_a_transport_that_was_not_used_is_closed_too() -> None:
    transport = Transport()
    async with GroupClient("key", "secret", transport=transport):
        pass
    assert transport.closed == 1


@virtual_time
async def test_a_request_goes_to_the_base_url_with_the_headers_of_the_service() -> None:
    transport = Transport()
    async with GroupClient(
        "key", "secret", base_urls="http://group.test:8080", transport=transport, allow_insecure=True
    ) as client:
        await client.get("g1")
    (request,) = transport.requests
    assert request.method == "POST"
    assert str(request.url) == f"http://group.test:8080{PATH}"
    assert request.headers["host"] == "group.test:8080"
    assert request.headers["app-key"] == "key"
    assert len(request.headers["signature"]) == 40
    assert request.content == b"groupIds=g1"
    assert request.headers["content-length"] == "11"


@virtual_time
async def test_a_function_makes_a_transport_for_each_connection_and_each_is_closed_once() -> None:
    made: list[Transport] = []

    def make() -> Transport:
        made.append(Transport(closing=0.5 if made else 5.0))
        return made[-1]

    async with GroupClient("key", "secret", transport=make, requests_per_connection=10) as client:
        await client.get_many(ids(50 * 42))
        assert sum(len(transport.requests) for transport in made) == 42
        assert max(len(transport.requests) for transport in made) <= 9
    assert [transport.closed for transport in made] == [1] * len(made)


@pytest.mark.parametrize(
    "error", [httpx.ReadError("torn"), httpx.PoolTimeout("full"), OSError("no route"), RuntimeError("odd"), KeyError(1)]
)
@virtual_time
async def test_whatever_a_transport_raises_is_a_transport_error_and_retried(error: Exception) -> None:
    async def failing(request: httpx.Request) -> httpx.Response:
        if len(transport.requests) < 3:
            raise error
        return profiles_for(request)

    transport = Transport(failing)
    async with GroupClient("key", "secret", base_urls="https://group.test", transport=transport) as client:
        assert await client.get("g1")
    assert len(transport.requests) == 3


@virtual_time
async def test_an_error_that_a_transport_keeps_raising_is_named_with_its_host() -> None:
    async def failing(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("torn")

    transport = Transport(failing)
    async with GroupClient("key", "secret", base_urls="https://group.test", transport=transport) as client:
        with pytest.raises(TransportError, match=r"group\.test failed: ReadError: torn"):
            await client.get("g1")
    assert len(transport.requests) == 5


@virtual_time
async def test_a_transport_that_hangs_is_given_up_after_the_attempts_time() -> None:
    async def hanging(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    transport = Transport(hanging)
    options = {"base_urls": "https://group.test", "attempt_timeout": 2.5, "max_attempts": 1}
    async with GroupClient("key", "secret", transport=transport, **options) as client:  # type: ignore[arg-type]
        with pytest.raises(TransportError, match=r"no response within 2\.5 s from group\.test"):
            await client.get("g1")
    assert now() == pytest.approx(2.5, abs=0.01)
    assert transport.requests[0].extensions["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), 2.5)


@virtual_time
async def test_no_more_calls_are_under_way_than_may_be_in_flight() -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(1.0)
        return profiles_for(request)

    transport = Transport(slow)
    async with GroupClient("key", "secret", transport=transport, max_in_flight=3) as client:
        assert len(await client.get_many(ids(500))) == 500
    assert transport.most_in_flight == 3


@virtual_time
async def test_a_compressed_response_is_read() -> None:
    async def compressed(request: httpx.Request) -> httpx.Response:
        plain = profiles_for(request).content
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=gzip.compress(plain))

    async with GroupClient("key", "secret", transport=Transport(compressed)) as client:
        assert await client.get("g1")


@virtual_time
async def test_a_failing_host_is_left_for_the_backup_on_the_same_transport() -> None:
    async def primary_failing(request: httpx.Request) -> httpx.Response:
        if request.url.host == "primary.test":
            return httpx.Response(500, json={"code": 1000, "errorMessage": "internal error"})
        return profiles_for(request)

    transport = Transport(primary_failing)
    urls = ["https://primary.test", "https://backup.test"]
    async with GroupClient("key", "secret", base_urls=urls, transport=transport) as client:
        for group_id in ids(10):
            assert await client.get(group_id)
        assert client.stats().host == "backup.test"
    assert Counter(request.url.host for request in transport.requests) == {"primary.test": 1, "backup.test": 10}


@virtual_time
async def test_cancelling_the_only_waiter_cancels_the_call() -> None:
    async def hanging(request: httpx.Request) -> httpx.Response:
        if group_ids_of(request) == ["slow"]:
            await asyncio.Event().wait()
        return profiles_for(request)

    transport = Transport(hanging)
    async with GroupClient("key", "secret", transport=transport) as client:
        asking = asyncio.create_task(client.get("slow"))
        await settle()
        assert transport.in_flight == 1
        asking.cancel()
        await settle()
        assert transport.in_flight == 0
        assert await client.get("g1")


@virtual_time
async def test_an_id_asked_for_again_while_its_cancelled_call_fails_has_an_outcome() -> None:
    async def failing_when_cancelled(request: httpx.Request) -> httpx.Response:
        if len(transport.requests) > 1:
            return profiles_for(request)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.005)
            raise httpx.ReadError("cut off") from None
        raise AssertionError

    transport = Transport(failing_when_cancelled)
    async with GroupClient("key", "secret", base_urls="https://group.test", transport=transport) as client:
        asking = asyncio.create_task(client.get("g1"))
        await at(1.0)
        asking.cancel()
        await settle()
        await client.get("other")
        assert await client.get("g1", deadline=60.0)


@virtual_time
async def test_leaving_the_client_cancels_its_calls_before_the_transport_is_closed() -> None:
    async def hanging(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    transport = Transport(hanging)
    async with GroupClient("key", "secret", transport=transport) as client:
        asking = asyncio.create_task(client.get("g1"))
        await settle()
    assert transport.in_flight == 0
    assert transport.closed == 1
    with pytest.raises(RongCloudError):
        await asking


@virtual_time
async def test_a_retired_connection_takes_no_call_and_closes_its_transport_after_the_last() -> None:
    release = asyncio.Event()

    async def held(request: httpx.Request) -> httpx.Response:
        await release.wait()
        return profiles_for(request)

    transport = Transport(held)
    changes: list[float] = []
    connection = HttpxConnection(
        transport, Origin.parse("https://group.test"), 2, lambda: changes.append(now()), owned=True
    )
    assert connection.open_slots == 2
    call = connection.send(Request(PATH, [], b"groupIds=g1"), 5.0)
    assert (connection.open_slots, connection.in_flight, connection.sent) == (1, 1, 1)
    connection.retire("used up")
    assert connection.open_slots == 0
    assert not connection.closed
    release.set()
    response = await call
    assert response.status == 200
    assert json.loads(response.body)["code"] == 200
    await settle()
    assert connection.closed
    assert changes
    assert connection.closed_reason == "used up"
    await connection.aclose()
    await connection.aclose()
    assert transport.closed == 1


@virtual_time
async def test_a_connection_that_is_retired_while_idle_reports_that_it_is_closed() -> None:
    changes: list[bool] = []
    connection = HttpxConnection(
        Transport(), Origin.parse("https://group.test"), 2, lambda: changes.append(connection.closed), owned=True
    )
    connection.retire("used up")
    assert changes == [True]
    await connection.aclose()


async def test_an_asgi_app_serves_as_transport() -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        profiles = [{"groupId": group_id} for group_id in parse_qs(body.decode())["groupIds"]]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"code": 200, "profiles": profiles}).encode()})

    async with GroupClient("key", "secret", transport=httpx.ASGITransport(app)) as client:
        lookup = await client.get_many(ids(120))
    assert len(lookup.found) == 120


async def test_a_respx_router_serves_as_transport() -> None:
    router = respx.Router()
    route = router.post(f"https://api.rong-api.com{PATH}").mock(side_effect=profiles_for)
    transport = httpx.MockTransport(router.async_handler)
    async with GroupClient("key", "secret", transport=transport) as client:
        profile = await client.get("g1")
    assert profile is not None
    assert profile.group_name == "name of g1"
    assert route.call_count == 1


@respx.mock(using="httpx")
async def test_respx_sees_an_httpx_transport(respx_mock: respx.MockRouter) -> None:
    route = respx_mock.post(f"https://api.rong-api.com{PATH}").mock(side_effect=profiles_for)
    async with GroupClient("key", "secret", transport=httpx.AsyncHTTPTransport()) as client:
        lookup = await client.get_many(["g1", "g2"])
    assert list(lookup.found) == ["g1", "g2"]
    assert route.call_count == 1
    assert group_ids_of(route.calls.last.request) == ["g1", "g2"]


async def test_a_transport_that_cancels_its_own_call_costs_an_attempt_and_loses_no_id() -> None:
    async def cancelled(_: httpx.Request) -> httpx.Response:
        raise asyncio.CancelledError

    transport = httpx.MockTransport(cancelled)
    async with GroupClient("key", "secret", transport=transport, max_attempts=2) as client:
        lookup = await client.get_many(["g1", "g2"])
        assert client.stats().requests == 2
    assert [type(error) for error in lookup.failed.values()] == [TransportError] * 2


async def test_a_transport_that_cannot_be_made_costs_attempts_and_not_the_client() -> None:
    made: list[Transport] = []

    def make() -> httpx.AsyncBaseTransport:
        made.append(Transport())
        if len(made) == 1:
            raise RuntimeError("no more sockets")
        return made[-1]

    async with GroupClient("key", "secret", transport=make) as client:
        lookup = await client.get_many(["g1", "g2"])
        assert list(lookup.found) == ["g1", "g2"]


async def test_a_transport_that_cannot_be_made_is_named_with_its_cause() -> None:
    def make() -> httpx.AsyncBaseTransport:
        raise RuntimeError("no more sockets")

    async with GroupClient("key", "secret", transport=make, max_attempts=1) as client:
        with pytest.raises(TransportError, match="making the transport failed: RuntimeError: no more sockets"):
            await client.get("g1")


def mock_of(library: Any) -> Any:
    """A mock transport of httpx or httpx2 that has one group."""
    body = {"code": 200, "profiles": [{"groupId": "g1", "groupName": "Tea"}]}
    return library.MockTransport(lambda _request: library.Response(200, json=body))


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("from_a_function", [False, True])
async def test_transports_of_both_httpx_libraries_carry_requests(library: Any, from_a_function: bool) -> None:  # noqa: FBT001
    transport = mock_of(library)
    async with GroupClient("key", "secret", transport=(lambda: transport) if from_a_function else transport) as client:
        profile = await client.get("g1")
    assert profile is not None
    assert profile.group_name == "Tea"


def test_a_function_that_makes_no_transport_is_refused_when_the_client_is_made() -> None:
    with pytest.raises(ConfigError, match="transport makes 5; it must make transports of httpx or httpx2"):
        GroupClient("key", "secret", transport=lambda: 5)  # type: ignore[arg-type]


def test_a_library_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="transport is 'requests'; a library is one of httpx, httpx2"):
        GroupClient("key", "secret", transport="requests")  # type: ignore[arg-type]


@respx.mock
async def test_with_one_line_respx_sees_what_the_default_client_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RONGCLOUD_TRANSPORT", "httpx")
    monkeypatch.setenv("RONGCLOUD_APP_KEY", "key")
    monkeypatch.setenv("RONGCLOUD_APP_SECRET", "secret")
    route = respx.post(path="/entrust/group/profile/query.json").respond(json={"code": 200, "profiles": []})
    async with GroupClient.from_env() as client:
        assert await client.get("g1") is None
    assert route.call_count == 1


@respx.mock
async def test_a_request_without_a_respx_route_reaches_no_real_host(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[object] = []

    def look_up(*arguments: object, **_: object) -> list[object]:
        looked_up.append(arguments)
        return []

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    async with GroupClient("key", "secret", transport="httpx", max_attempts=1) as client:
        lookup = await client.get_many(["g1"])
    assert isinstance(lookup.failed["g1"], TransportError)
    assert looked_up == []

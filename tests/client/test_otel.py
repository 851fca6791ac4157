import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from support.signals import Signals

from rongcloud_groups import Event, InvalidGroupId, ParameterError
from rongcloud_groups.events import BatchSent, CallEnded, ConnectionOpened, TokenWaited
from rongcloud_groups.otel import OpenTelemetry
from rongcloud_groups.pytest_plugin import InProcessEmulator

SERVER = {"server.address": "rongcloud.test", "server.port": 443}


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return {name: value for name, value in (span.attributes or {}).items() if "request-id" not in name}


async def test_a_call_is_a_span_within_its_callers(signals: Signals, rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.add("g1", group_name="one")
    tracer = signals.tracing.get_tracer("app")
    async with rongcloud_emulator.client(hooks=[signals.hook]) as client:
        with tracer.start_as_current_span("page") as page:
            await client.get("g1")
            await client.get_many(["g1", "g2", "a b"])
    (get,), (get_many,) = signals.spans("rongcloud_groups.get"), signals.spans("rongcloud_groups.get_many")
    assert get.parent == get_many.parent == page.get_span_context()
    assert get.kind is SpanKind.INTERNAL
    assert attributes_of(get) == {
        "rongcloud_groups.call": "get",
        "rongcloud_groups.found": 1,
        "rongcloud_groups.missing": 0,
        "rongcloud_groups.failed": 0,
    }
    assert attributes_of(get_many) == {
        "rongcloud_groups.call": "get_many",
        "rongcloud_groups.found": 1,
        "rongcloud_groups.missing": 1,
        "rongcloud_groups.failed": 1,
    }
    assert get.status.status_code is StatusCode.UNSET


async def test_a_batch_is_a_client_span_of_its_own(signals: Signals, rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.add("g1", group_name="one")
    rongcloud_emulator.service.latency = 0.02
    with signals.tracing.get_tracer("app").start_as_current_span("page"):
        async with rongcloud_emulator.client(hooks=[signals.hook]) as client:
            await client.get_many(["g1", "g2"])
    (batch,) = signals.spans("rongcloud_groups.batch")
    assert batch.parent is None
    assert batch.kind is SpanKind.CLIENT
    assert attributes_of(batch) == SERVER | {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "rongcloud_groups.found": 1,
        "rongcloud_groups.missing": 1,
    }
    assert len((batch.attributes or {})["http.request.header.x-request-id"]) == 1  # type: ignore[arg-type]
    assert batch.start_time is not None
    assert batch.end_time is not None
    assert 0.02e9 <= batch.end_time - batch.start_time < 5e9


async def test_requests_their_fill_and_their_wait_are_measured(
    signals: Signals, rongcloud_emulator: InProcessEmulator
) -> None:
    async with rongcloud_emulator.client(hooks=[signals.hook]) as client:
        await client.get_many([f"g{number}" for number in range(120)])
    duration = signals.histogram("http.client.request.duration")
    assert duration.count == 3
    assert duration.attributes == SERVER | {"http.request.method": "POST", "http.response.status_code": 200}
    size = signals.histogram("rongcloud_groups.batch.size")
    assert (size.count, size.sum, size.max) == (3, 120, 50)
    wait = signals.histogram("rongcloud_groups.budget.wait.duration")
    assert wait.count == 3
    assert wait.sum == pytest.approx(client.stats().budget_wait)
    call = signals.histogram("rongcloud_groups.call.duration")
    assert (call.count, call.attributes) == (1, {"rongcloud_groups.call": "get_many"})


async def test_a_call_is_linked_to_the_requests_that_served_it(
    signals: Signals, rongcloud_emulator: InProcessEmulator
) -> None:
    rongcloud_emulator.fail_next("error-500")
    async with rongcloud_emulator.client(hooks=[signals.hook]) as client:
        await client.get("g0")
        lookup = await client.get_many([f"g{number}" for number in range(1, 121)])
    refused, of_get, *of_many = signals.spans("rongcloud_groups.batch")
    (get,), (get_many,) = signals.spans("rongcloud_groups.get"), signals.spans("rongcloud_groups.get_many")
    assert refused.status.status_code is StatusCode.ERROR
    assert [link.context for link in get.links] == [of_get.get_span_context()]
    assert [link.context for link in get_many.links] == [span.get_span_context() for span in of_many]
    sent = [span.attributes["http.request.header.x-request-id"] for span in of_many if span.attributes]
    assert sent == [(request_id,) for request_id in lookup.request_ids]
    assert len(sent) == 3


async def test_requests_in_flight_and_the_rate_are_gauges(
    signals: Signals, rongcloud_emulator: InProcessEmulator
) -> None:
    async with rongcloud_emulator.client(hooks=[signals.hook], rate=250) as client:
        rongcloud_emulator.fail_next("hang", 2)
        lookup = asyncio.create_task(client.get_many([f"g{number}" for number in range(100)]))
        while len(rongcloud_emulator.requests) < 2:  # noqa: ASYNC110  nothing else says it
            await asyncio.sleep(0)
        gauges = signals.counts("http.client.active_requests", "rongcloud_groups.rate")
        assert gauges == [client.stats().in_flight, client.stats().rate] == [2, 250]
        lookup.cancel()
        await asyncio.wait([lookup])
        await client.get("g1")
        assert signals.count("http.client.active_requests") == 0


async def test_units_are_those_of_ucum(signals: Signals, rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.fail_next("error-500")
    rongcloud_emulator.fail_next("429")
    async with rongcloud_emulator.client(hooks=[signals.hook]) as client:
        await client.get("g1")
    assert {name: metric.unit for name, metric in signals.metrics().items()} == {
        "http.client.active_requests": "{request}",
        "http.client.request.duration": "s",
        "rongcloud_groups.rate": "{request}/s",
        "rongcloud_groups.budget.wait.duration": "s",
        "rongcloud_groups.batch.size": "{group}",
        "rongcloud_groups.retries": "{group}",
        "rongcloud_groups.throttles": "{request}",
        "rongcloud_groups.call.duration": "s",
    }


async def test_failed_requests_retries_and_throttles_are_reported(
    signals: Signals, rongcloud_emulator: InProcessEmulator
) -> None:
    for fault in ("error-500", "drop", "429"):
        rongcloud_emulator.fail_next(fault)
    async with rongcloud_emulator.client(hooks=[signals.hook]) as client:
        await client.get_many(["g1", "g2", "g3"])
    batches = signals.spans("rongcloud_groups.batch")
    reported = [
        {name: attributes_of(span).get(name) for name in ("error.type", "rongcloud_groups.code")} for span in batches
    ]
    assert reported == [
        {"error.type": "500", "rongcloud_groups.code": 1000},
        {"error.type": "rongcloud_groups.errors.TransportError", "rongcloud_groups.code": None},
        {"error.type": "429", "rongcloud_groups.code": 1008},
        {"error.type": None, "rongcloud_groups.code": None},
    ]
    assert [span.status.status_code for span in batches] == [StatusCode.ERROR] * 3 + [StatusCode.UNSET]
    assert attributes_of(batches[1]).get("http.response.status_code") is None
    assert signals.count("rongcloud_groups.retries") == 6
    assert signals.count("rongcloud_groups.throttles") == 1
    points = signals.metrics()["http.client.request.duration"].data.data_points
    assert {(point.attributes or {}).get("error.type") for point in points} == {
        None,
        "429",
        "500",
        "rongcloud_groups.errors.TransportError",
    }


async def test_a_refusal_with_status_200_is_still_an_error(
    signals: Signals, rongcloud_emulator: InProcessEmulator
) -> None:
    rongcloud_emulator.service.refuse_with_200 = True
    rongcloud_emulator.fail_next("429")
    async with rongcloud_emulator.client(hooks=[signals.hook]) as client:
        await client.get("g1")
    refused, _ = signals.spans("rongcloud_groups.batch")
    assert attributes_of(refused)["http.response.status_code"] == 200
    assert attributes_of(refused)["error.type"] == "rongcloud_groups.errors.RateLimited"
    assert refused.status.status_code is StatusCode.ERROR


async def test_no_signal_holds_a_group_id(signals: Signals, rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.add("known-group", group_name="a name")
    rongcloud_emulator.service.faults.poison = frozenset({"poisoned-group"})
    async with rongcloud_emulator.client(hooks=[signals.hook]) as client:
        await client.get_many(["known-group", "unknown-group", "bad group", "poisoned-group"])
        with pytest.raises(InvalidGroupId, match="bad group"):
            await client.get("bad group")
        with pytest.raises(ParameterError):
            await client.get("poisoned-group")
    bad, poisoned = signals.spans("rongcloud_groups.get")
    assert attributes_of(bad)["error.type"] == "rongcloud_groups.errors.InvalidGroupId"
    assert attributes_of(poisoned)["error.type"] == "rongcloud_groups.errors.ParameterError"
    assert bad.status.status_code is StatusCode.ERROR
    assert "rongcloud_groups.batch" in signals.text()
    for word in ("known-group", "unknown-group", "bad group", "poisoned-group", "a name"):
        assert word not in signals.text()


class Sent(asyncio.Event):
    """Set once a request has left."""

    def note(self, event: Event) -> None:
        if isinstance(event, BatchSent):
            self.set()


async def test_a_cancelled_call_is_reported_as_such(signals: Signals, rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.fail_next("hang")
    sent = Sent()
    async with rongcloud_emulator.client(hooks=[signals.hook, sent.note]) as client:
        call = asyncio.create_task(client.get("g1"))
        await sent.wait()
        call.cancel()
        await asyncio.wait([call])
    (get,) = signals.spans("rongcloud_groups.get")
    assert attributes_of(get) == {"rongcloud_groups.call": "get", "error.type": "asyncio.exceptions.CancelledError"}


@pytest.mark.parametrize("how", ["cancelled", "deadline", "closed"])
async def test_an_abandoned_request_is_reported_as_such(
    signals: Signals, rongcloud_emulator: InProcessEmulator, how: str
) -> None:
    rongcloud_emulator.fail_next("hang")
    sent = Sent()
    async with rongcloud_emulator.client(hooks=[signals.hook, sent.note]) as client:
        call = asyncio.create_task(client.get("g1", deadline=0.05 if how == "deadline" else None))
        await sent.wait()
        if how == "cancelled":
            call.cancel()
        if how != "closed":
            await asyncio.wait([call])
    await asyncio.wait([call])
    (batch,) = signals.spans("rongcloud_groups.batch")
    given_up = SERVER | {"http.request.method": "POST", "error.type": "asyncio.exceptions.CancelledError"}
    assert attributes_of(batch) == given_up
    assert batch.status.status_code is StatusCode.ERROR
    assert call.cancelled() or call.exception()
    duration = signals.histogram("http.client.request.duration")
    assert (duration.count, duration.attributes) == (client.stats().requests, given_up)


async def test_hooks_hear_how_calls_end(rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.add("g1", group_name="one")
    heard: list[Event] = []
    async with rongcloud_emulator.client(hooks=[heard.append]) as client:
        await client.get("g1")
        await client.get("g2")
        await client.get_many(["g1", "g2", "", "g3"])
        with pytest.raises(InvalidGroupId):
            await client.get("")
    ends = [event for event in heard if isinstance(event, CallEnded)]
    assert [(end.call, end.found, end.missing, end.failed, type(end.error)) for end in ends] == [
        ("get", 1, 0, 0, type(None)),
        ("get", 0, 1, 0, type(None)),
        ("get_many", 1, 2, 1, type(None)),
        ("get", 0, 0, 0, InvalidGroupId),
    ]
    assert all(end.seconds >= 0 for end in ends)


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("api.example.com", "api.example.com", 443),
        ("api.example.com:8443", "api.example.com", 8443),
        ("[::1]:80", "::1", 80),
        ("[::1]", "::1", 443),
    ],
)
def test_a_host_is_an_address_and_a_port(signals: Signals, host: str, address: str, port: int) -> None:
    signals.hook(BatchSent("request-1", host, 7))
    point = signals.histogram("rongcloud_groups.batch.size")
    assert point.attributes == {"server.address": address, "server.port": port}


def test_other_events_make_no_signal(signals: Signals) -> None:
    signals.hook(ConnectionOpened("api.example.com", "HTTP/2", 0.1))
    assert signals.text() == ""


def test_without_an_sdk_it_does_nothing() -> None:
    OpenTelemetry()(TokenWaited(0.1, 100.0))

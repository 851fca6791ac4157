"""Outages, refusals and responses that cannot be decoded: how long they are waited for, and how they end."""

import asyncio
import gc
import gzip
import json
import logging
import socket
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from support.clients import ClientFor, trusting
from support.virtual_time import now, virtual_time

from rongcloud_groups import (
    DeadlineExceeded,
    DecodeError,
    GroupClient,
    RateLimited,
    ServerError,
    ServiceError,
    TransportError,
)
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups.emulator import Emulator, Faults
from rongcloud_groups.events import ConnectFailed, Event

IDS = [f"g{number}" for number in range(5_000)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def requested(request: httpx.Request) -> list[str]:
    return [value for name, value in parse_qsl(request.content.decode()) if name == "groupIds"]


def found(group_ids: list[str]) -> httpx.Response:
    return httpx.Response(200, json={"code": 200, "profiles": [{"groupId": each} for each in group_ids]})


def client_of(answer: Callable[[list[str]], httpx.Response], **options: Any) -> GroupClient:
    return GroupClient(
        "key", "secret", transport=httpx.MockTransport(lambda request: answer(requested(request))), **options
    )


# Waits for a token that are longer than a connection may be idle


@virtual_time
async def test_a_rate_of_one_request_in_hours_sends() -> None:
    async with client_of(found, rate=1 / 7200, max_attempts=1) as client:
        times = []
        for group_id in ("a", "b", "c"):
            assert await client.get(group_id) is not None
            times.append(now())
        assert [round((later - earlier) / 60) for earlier, later in pairwise(times)] == [120, 120]


# Outages


async def test_an_outage_in_the_middle_is_ridden_out_and_costs_no_attempts(client_for: ClientFor) -> None:
    port, failed_attempts = free_port(), asyncio.Semaphore(0)
    before, after = (Emulator(limit=None, port=port) for _ in range(2))

    def count(event: Event) -> None:
        if isinstance(event, ConnectFailed):
            failed_attempts.release()

    async with before:
        client = client_for(before, rate=1000, max_attempts=2, verify=trusting(before, after), hooks=[count])
        await client.open()
        lookup = asyncio.create_task(client.get_many(IDS))
        await before.wait_for(20)
    try:
        for _ in range(3):
            await failed_attempts.acquire()
        assert not lookup.done()
        with pytest.raises(DeadlineExceeded, match="connecting"):
            await client.get("during", deadline=0.2)
        waiting = await client.get_many(["during", "too"], deadline=0.2)
        assert {str(error).partition(": ")[2] for error in waiting.failed.values()} == {"connecting"}
        async with after:
            result = await lookup
        assert (len(result), result.failed) == (len(IDS), {})
    finally:
        await client.aclose()


@pytest.mark.parametrize("call", ["get", "get_many", "stream", "list_groups"])
async def test_an_outage_is_waited_for_as_long_as_its_option_says(call: str, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    url = f"http://127.0.0.1:{free_port()}"
    async with GroupClient("key", "secret", base_urls=url, outage_timeout=0.5) as client:
        if call == "get":
            with pytest.raises(TransportError, match=r"no host could be reached for 0\.5 s: .*refused"):
                await client.get("g1")
        elif call == "get_many":
            errors = (await client.get_many(IDS[:200])).failed.values()
            assert {type(error) for error in errors} == {TransportError}
        elif call == "stream":
            async with client.stream(IDS[:200]) as parts:
                assert sum([len(part.failed) async for part in parts]) == 200
        else:
            with pytest.raises(TransportError, match="no host could be reached"):
                await anext(aiter(client.list_groups()))
    assert 0.5 <= loop.time() - began < 30  # the default
    assert any("retrying for up to 0.5 s" in record.getMessage() for record in caplog.records)


async def test_an_outage_that_ended_while_the_client_was_idle_does_not_count() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    loop = asyncio.get_running_loop()
    async with GroupClient("key", "secret", base_urls=url, outage_timeout=0.5) as client:
        with pytest.raises(DeadlineExceeded, match="connecting"):
            await client.get("g1", deadline=0.2)
        await asyncio.sleep(0.6)
        began = loop.time()
        with pytest.raises(TransportError):
            await client.get("g1")
        assert loop.time() - began >= 0.4


async def test_a_switch_to_the_backup_fails_no_id_that_was_not_sent() -> None:
    async with Emulator(faults=Faults(share={"html-502": 1.0})) as primary, Emulator() as backup:
        client = GroupClient(
            primary.app_key,
            primary.app_secret,
            base_urls=[primary.url, backup.url],
            verify=trusting(primary, backup),
            rate=10,
            max_attempts=1,
        )
        async with client:
            lookup = await client.get_many(IDS[:200])
        sent = 50 * sum(primary.report().requests.values())
        assert list(lookup.failed) == IDS[:sent]
        assert len(lookup.found) + len(lookup.missing) == 200 - sent > 0


async def test_a_certificate_that_is_not_trusted_is_no_outage(client_for: ClientFor) -> None:
    async with Emulator() as emulator, Emulator() as other:
        client = client_for(emulator, verify=other.ssl_context, max_attempts=1, outage_timeout=60)
        async with asyncio.timeout(60), client:
            with pytest.raises(TransportError, match="not trusted"):
                await client.get("g1")


# Refusals


@virtual_time
async def test_refusals_that_never_end_are_bounded_by_the_time_of_an_outage() -> None:
    asked: Counter[str] = Counter()

    def refuse(group_ids: list[str]) -> httpx.Response:
        asked.update(group_ids)
        return httpx.Response(429, json={"code": 1008})

    async with client_of(refuse) as client:
        with pytest.raises(RateLimited):
            await client.get("g1")
        assert 25 <= now() <= 31
        assert asked["g1"] <= 160
        with pytest.raises(RateLimited):
            await anext(aiter(client.list_groups()))


@pytest.mark.parametrize(("retry_after", "requests"), [(59, 2), (20, 2), (10, 3)])
def test_a_get_is_never_silent_for_ninety_seconds(retry_after: int, requests: int) -> None:
    asked: Counter[str] = Counter()

    def refuse(group_ids: list[str]) -> httpx.Response:
        asked.update(group_ids)
        return httpx.Response(429, json={"code": 1008}, headers={"retry-after": str(retry_after)})

    @virtual_time
    async def main() -> None:
        async with client_of(refuse) as client:
            with pytest.raises(RateLimited):
                await client.get("g1")
            assert now() < 75
            assert asked["g1"] == requests

    main()


@virtual_time
async def test_a_deadline_during_a_pause_names_the_budget() -> None:
    async with client_of(lambda _: httpx.Response(429, headers={"retry-after": "20"})) as client:
        with pytest.raises(DeadlineExceeded, match="waiting for budget"):
            await client.get("g1", deadline=2)


@virtual_time
async def test_retry_after_of_503_is_waited_for_and_costs_no_attempts() -> None:
    times: list[float] = []

    def unavailable(group_ids: list[str]) -> httpx.Response:
        times.append(now())
        if now() < 8:
            return httpx.Response(503, text="maintenance", headers={"retry-after": "3"})
        return found(group_ids)

    async with client_of(unavailable, max_attempts=1, base_urls="https://one.test") as client:
        assert await client.get("g1") is not None
        assert client.stats().throttled == 0
    assert [round(time) for time in times] == [0, 3, 6, 9]


@virtual_time
async def test_retry_after_of_503_leads_to_the_other_host_first() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "one.test":
            return httpx.Response(503, headers={"retry-after": "30"})
        return found(requested(request))

    hosts = ["https://one.test", "https://two.test"]
    async with GroupClient("key", "secret", transport=httpx.MockTransport(answer), base_urls=hosts) as client:
        assert await client.get("g1") is not None
        assert now() < 1


@virtual_time
async def test_503_that_never_ends_is_an_error_in_time() -> None:
    answer = httpx.Response(503, headers={"retry-after": "10"})
    async with client_of(lambda _: answer, base_urls="https://one.test") as client:
        with pytest.raises(ServerError) as caught:
            await client.get("g1")
        assert caught.value.retry_after == 10
        assert now() < 35


# Responses that cannot be decoded


def poisoned_by(bad: set[str], asked: Counter[str]) -> Callable[[list[str]], httpx.Response]:
    def answer(group_ids: list[str]) -> httpx.Response:
        asked.update(group_ids)
        if bad & set(group_ids):
            whole = json.dumps({"code": 200, "profiles": [{"groupId": each} for each in group_ids]})
            return httpx.Response(200, text=whole[:-20])
        return found(group_ids)

    return answer


@pytest.mark.parametrize("bad", [{"g7"}, {"g0", "g49"}, {"g10", "g60", "g61", "g130"}])
def test_an_undecodable_profile_costs_no_other_id(bad: set[str]) -> None:
    @virtual_time
    async def main() -> None:
        asked: Counter[str] = Counter()
        async with client_of(poisoned_by(bad, asked)) as client:
            lookup = await client.get_many(IDS[:150])
            assert lookup.failed.keys() == bad
            assert {type(error) for error in lookup.failed.values()} == {DecodeError}
            assert len(lookup.found) == 150 - len(bad)
            assert client.stats().requests <= 3 + 16 * len(bad)

    main()


@virtual_time
async def test_a_response_over_its_bound_is_repeated_once() -> None:
    """A transport of httpx would inflate it without a bound."""
    bomb = gzip.compress(bytes(50 << 20), mtime=0)

    def answer(group_ids: list[str]) -> httpx.Response:
        if "g7" not in group_ids:
            return found(group_ids)
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(bomb))

    async with client_of(answer) as client:
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError, match="has more than"):
                await client.get("g7", deadline=2.0)
            assert tracemalloc.get_traced_memory()[1] < 10 << 20
        finally:
            tracemalloc.stop()
        assert client.stats().requests == 2
        lookup = await client.get_many(IDS[:50])
        assert list(lookup.failed) == ["g7"]
        assert len(lookup.found) == 49
        assert client.stats().requests <= 2 + 2 + 2 * 6


@pytest.mark.parametrize("status", [200, 502])
def test_the_errors_of_a_lookup_hold_no_response(status: int) -> None:
    @virtual_time
    async def main() -> None:
        def large(_: list[str]) -> httpx.Response:
            return httpx.Response(status, content=bytes(4 << 20))

        async with client_of(large, base_urls="https://one.test", max_attempts=1) as client:
            tracemalloc.start()
            try:
                lookup = await client.get_many(IDS[:1_000])
                gc.collect()
                assert tracemalloc.get_traced_memory()[0] < 10 << 20  # of 80 MiB in 20 responses
            finally:
                tracemalloc.stop()
        assert len(lookup.failed) == 1_000

    main()


@virtual_time
async def test_a_body_without_end_is_a_failed_attempt() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    async with client_of(lambda _: httpx.Response(200, content=endless()), max_attempts=2) as client:
        with pytest.raises(TransportError, match="a body of more than 16 MiB"):
            await client.get("g1")
        assert client.stats().requests == 2


@virtual_time
async def test_a_service_that_responds_with_nothing_readable_costs_few_requests() -> None:
    async with client_of(lambda _: httpx.Response(200, text="<html>"), rate=1000) as client:
        lookup = await client.get_many(IDS)
        assert len(lookup.failed) == len(IDS)
        assert client.stats().requests <= 5 * 100 + 100


# One fault, one call


class Odd(BaseException):
    """Not an Exception, as those of pytest.fail() and of some frameworks."""


FAULTS = [
    RuntimeError("can't start new thread"),
    ValueError("odd"),
    MemoryError(),
    RecursionError("too deep"),
    KeyError("odd"),
    StopIteration(),
    GeneratorExit(),
    asyncio.CancelledError(),
    Odd("odd"),
    pytest.fail.Exception("odd"),
]
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)


class FailingLimiter:
    """Fails now and then, in each of its calls."""

    rate = 100.0

    def __init__(self, fault: BaseException) -> None:
        self.fault = fault
        self.calls = 0

    async def acquire(self) -> None:
        self.calls += 1
        await asyncio.sleep(0.01)
        if self.calls % 3 == 1:
            raise self.fault

    async def throttle(self, retry_after: float | None, age: float) -> float:
        del retry_after, age
        raise self.fault


class DeafLimiter(FailingLimiter):
    """Lets a few requests through, and then none."""

    async def acquire(self) -> None:
        self.calls += 1
        if self.calls > 2:
            await asyncio.Event().wait()


@virtual_time
async def test_a_limiter_that_never_returns_costs_the_ids_their_attempts() -> None:
    limiter = DeafLimiter(ValueError())
    async with client_of(found, limiter=limiter, max_attempts=2) as client:
        assert len((await client.get_many(IDS[:100])).found) == 100
        began = now()
        with pytest.raises(TransportError, match=r"the limiter let no request through for longer"):
            await client.get("g1")
        assert now() - began < 2 * 6 + 1
        assert limiter.calls == 2 + 2


@virtual_time
async def test_a_slow_limiter_costs_no_attempt() -> None:
    class Slow(FailingLimiter):
        rate = 0.5

        async def acquire(self) -> None:
            await asyncio.sleep(40)  # a turn after 19 others that share it

    for limiter in (None, Slow(ValueError())):
        async with client_of(found, rate=0.5, limiter=limiter, max_attempts=1, attempt_timeout=0.2) as client:
            assert len((await client.get_many(IDS[:500])).found) == 500


@virtual_time
async def test_a_pause_that_the_service_asks_for_costs_no_attempt() -> None:
    refused: list[int] = []

    def answer(group_ids: list[str]) -> httpx.Response:
        refused.append(1)
        if len(refused) == 1:
            return httpx.Response(429, json={"code": 1008}, headers={"retry-after": "50"})
        return found(group_ids)

    async with client_of(answer, max_attempts=1, attempt_timeout=0.2) as client:
        assert len((await client.get_many(IDS[:100])).found) == 100


@each_fault
def test_a_hook_that_raises_ends_no_call(fault: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def hook(_: object) -> None:
        raise fault

    @virtual_time
    async def main() -> None:
        async with client_of(found, hooks=[hook]) as client:
            assert len((await client.get_many(IDS[:120])).found) == 120
            assert await client.get("g1") is not None

    main()
    assert "the hook" in caplog.text


@each_fault
def test_a_limiter_that_raises_ends_no_call(fault: BaseException) -> None:
    refused: list[int] = []

    def answer(group_ids: list[str]) -> httpx.Response:
        refused.append(1)
        return httpx.Response(429, json={"code": 1008}) if len(refused) == 2 else found(group_ids)

    @virtual_time
    async def main() -> None:
        async with client_of(answer, limiter=FailingLimiter(fault)) as client:
            assert len((await client.get_many(IDS[:220])).found) == 220
            assert await client.get("g1") is not None

    main()


@each_fault
def test_a_transport_that_raises_costs_an_attempt_alone(fault: BaseException) -> None:
    calls: list[int] = []

    def answer(group_ids: list[str]) -> httpx.Response:
        calls.append(1)
        if len(calls) in {1, 3}:
            raise fault
        return found(group_ids)

    @virtual_time
    async def main() -> None:
        async with client_of(answer) as client:
            assert len((await client.get_many(IDS[:220])).found) == 220

    main()


@each_fault
def test_a_transport_that_cannot_be_made_costs_an_attempt_alone(fault: BaseException) -> None:
    made: list[int] = []

    def make() -> httpx.AsyncBaseTransport:
        made.append(1)
        if len(made) == 2:  # the first is made, and dropped, with the client
            raise fault
        return httpx.MockTransport(lambda request: found(requested(request)))

    @virtual_time
    async def main() -> None:
        async with GroupClient("key", "secret", transport=make) as client:
            assert len((await client.get_many(IDS[:220])).found) == 220

    main()


@each_fault
async def test_a_name_that_cannot_be_resolved_for_want_of_a_thread_costs_no_call(
    fault: BaseException, client_for: ClientFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Emulator(limit=None) as emulator:
        client = client_for(emulator, base_urls=emulator.url.replace("127.0.0.1", "localhost"))
        loop = asyncio.get_running_loop()
        run_in_executor, calls = loop.run_in_executor, [0]

        def failing_once(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] == 1:
                raise fault
            return run_in_executor(*args)

        monkeypatch.setattr(loop, "run_in_executor", failing_once)
        async with client:
            assert len((await client.get_many(IDS[:60])).failed) == 0
        assert calls[0] > 1


async def consumed(client: GroupClient, source: Any) -> None:
    async with client.stream(source) as parts:
        async for _ in parts:
            pass


@each_fault
def test_a_source_that_raises_ends_its_call_alone(fault: BaseException) -> None:
    def source() -> Any:
        yield from IDS[:70]
        raise fault

    async def asynchronous() -> Any:
        for group_id in IDS[:70]:
            yield group_id
        raise fault

    @virtual_time
    async def main() -> None:
        async with client_of(found) as client:
            other = asyncio.create_task(client.get_many(IDS[:500]))
            await asyncio.sleep(0)
            kinds = (type(fault), RuntimeError)  # a generator turns StopIteration into a RuntimeError
            with pytest.raises(kinds):
                await client.get_many(source())
            for stream in (source(), asynchronous()):
                with pytest.raises(kinds):
                    await consumed(client, stream)
            assert len((await other).found) == 500
            assert client.stats().waiting == 0

    main()


@each_fault
def test_a_decoder_or_dialect_that_raises_costs_a_request_alone(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def failing_once(name: str) -> None:
        real = getattr(ServiceApi, name)

        def call(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            if calls[name] == 2:
                raise fault
            return real(*args, **options)

        monkeypatch.setattr(ServiceApi, name, call)

    failing_once("read_batch")
    failing_once("batch_request")

    @virtual_time
    async def main() -> None:
        async with client_of(found) as client:
            assert len((await client.get_many(IDS[:220])).found) == 220

    main()


@each_fault
def test_a_cache_whose_clock_raises_ends_no_other_call(fault: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    from rongcloud_groups import Cache

    broken = False

    def timer() -> float:
        if broken:
            raise fault
        return now()

    @virtual_time
    async def main() -> None:
        nonlocal broken
        async with client_of(found, cache=Cache(timer=timer)) as client:
            first = asyncio.create_task(client.get_many(IDS[:60]))
            await asyncio.sleep(0.001)
            broken = True
            assert len((await first).found) == 60
            broken = False
            assert await client.get("g1") is not None

    main()
    assert "the cache failed" in caplog.text or not broken


@virtual_time
async def test_an_id_that_no_request_can_carry_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ServiceApi.batch_request

    def strict(api: ServiceApi, group_ids: list[str]) -> Any:
        if "g33" in group_ids:
            raise TypeError("no such type in JSON")
        return real(api, group_ids)

    monkeypatch.setattr(ServiceApi, "batch_request", strict)
    async with client_of(found) as client:
        lookup = await client.get_many(IDS[:100])
        assert list(lookup.failed) == ["g33"]
        assert "building the request failed: TypeError: no such type in JSON" in str(lookup.failed["g33"])
        assert not isinstance(lookup.failed["g33"], ServiceError)


class Text(str):
    """A str of another type, as numpy's."""

    __slots__ = ()


async def test_ids_that_are_a_kind_of_str_are_looked_up_in_either_dialect(client_for: ClientFor) -> None:
    async with Emulator(limit=None) as emulator, client_for(emulator) as client:
        lookup = await client.get_many([Text("g1"), "g2", Text("g2")])
        assert len(lookup) == 2
        assert lookup.failed == {}
        assert await client.get(Text("g1")) == lookup.found.get("g1")


def test_the_outage_log_is_a_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        url = f"http://127.0.0.1:{free_port()}"
        async with GroupClient("key", "secret", base_urls=url, outage_timeout=0.4) as client:
            await client.get_many(["g1"])

    asyncio.run(main())
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len([each for each in warnings if "retrying for up to" in each.getMessage()]) == 1


async def test_a_hostile_fault_of_every_request_still_ends(client_for: ClientFor) -> None:
    async with (
        Emulator(faults=Faults(share={"drop": 1.0})) as emulator,
        client_for(emulator, max_attempts=2) as client,
        asyncio.timeout(60),
    ):
        with pytest.raises(TransportError):
            await client.get("g1")

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from support.clients import ClientFor, trusting

from rongcloud_groups import (
    AuthenticationError,
    ClientClosed,
    ConfigError,
    DeadlineExceeded,
    GroupClient,
    InvalidGroupId,
    Lookup,
    RongCloudError,
    ServiceError,
    ServiceNotEnabled,
)
from rongcloud_groups._protocol.dialects import DIALECTS
from rongcloud_groups.emulator import Emulator, Faults, Service, Universe
from rongcloud_groups.emulator.groups import Group
from rongcloud_groups.emulator.requests import Version
from rongcloud_groups.events import BatchAnswered, BatchFailed, BatchSent, Event

VERSION = {"rongcloud": 1, "nexconn": 4}


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(record_ids=True, limit=None) as emulator:
        yield emulator


@pytest_asyncio.fixture
async def client(emulator: Emulator, client_for: ClientFor) -> AsyncIterator[GroupClient]:
    async with client_for(emulator, rate=2000) as client:
        yield client


@pytest.fixture
def other_dialect(dialect: str) -> str:
    return DIALECTS[dialect].other.name


def ids(count: int, prefix: str = "g") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def split(universe: Universe, group_ids: list[str]) -> tuple[list[str], list[str]]:
    known = [group_id for group_id in group_ids if universe.knows(group_id)]
    return known, [group_id for group_id in group_ids if not universe.knows(group_id)]


async def test_a_group_that_exists_is_a_profile(client: GroupClient, emulator: Emulator) -> None:
    emulator.service.universe.add("board", groupName="董事会", memberCount=7)
    profile = await client.get("board")
    assert profile is not None
    assert (profile.group_id, profile.group_name, profile.member_count) == ("board", "董事会", 7)


async def test_a_group_that_does_not_exist_is_none(client: GroupClient, emulator: Emulator) -> None:
    _, unknown = split(emulator.service.universe, ids(100))
    assert await client.get(unknown[0]) is None


async def test_a_lone_get_is_one_request_on_one_connection(client: GroupClient, emulator: Emulator) -> None:
    await client.get("g1")
    assert emulator.batches == [["g1"]]
    assert emulator.report().connections == 1
    assert emulator.report().http_versions == {"HTTP/2": 1}


async def test_every_id_is_found_or_missing_as_the_service_has_it_and_in_order(
    client: GroupClient, emulator: Emulator
) -> None:
    asked = ids(1234)
    lookup = await client.get_many(asked)
    known, unknown = split(emulator.service.universe, asked)
    assert list(lookup.found) == known
    assert lookup.missing == unknown
    assert lookup.failed == {}
    assert len(lookup) == len(asked)
    assert all(group_id == profile.group_id for group_id, profile in lookup.found.items())


async def test_five_thousand_ids_are_exactly_a_hundred_requests(client: GroupClient, emulator: Emulator) -> None:
    await client.get_many(ids(5000))
    assert emulator.report().batch_requests == 100
    assert {len(batch) for batch in emulator.batches} == {50}


@pytest.mark.parametrize("warm", [False, True])
async def test_five_hundred_concurrent_gets_are_ten_requests(
    client: GroupClient, emulator: Emulator, *, warm: bool
) -> None:
    if warm:
        await client.get("warm")
    before = emulator.report().batch_requests
    profiles = await asyncio.gather(*(client.get(group_id) for group_id in ids(500)))
    assert [profile is not None for profile in profiles] == [
        emulator.service.universe.knows(group_id) for group_id in ids(500)
    ]
    assert emulator.report().batch_requests - before == 10


async def test_duplicates_are_asked_once(client: GroupClient, emulator: Emulator) -> None:
    lookup = await client.get_many(["g1", "g2", "g1", "g2", "g3"])
    assert len(lookup) == 3
    assert sorted(emulator.batches[0]) == ["g1", "g2", "g3"]
    assert emulator.report().ids_asked == 3


async def test_an_id_in_flight_is_not_asked_again(client_for: ClientFor) -> None:
    async with Emulator(record_ids=True, latency=0.1) as emulator, client_for(emulator) as client:
        first = asyncio.create_task(client.get("g1"))
        await emulator.wait_for(1)
        assert await client.get("g1") == await first
        assert emulator.batches == [["g1"]]


async def test_invalid_ids_fail_without_a_request(client: GroupClient, emulator: Emulator) -> None:
    bad: list[object] = ["", "a b", "a,b", "x" * 65, "tab\t", 7, None, ["g1"]]
    lookup = await client.get_many([*bad, "g1"])  # type: ignore[list-item]
    assert list(lookup.found) == ["g1"]
    assert list(lookup.failed) == ["", "a b", "a,b", "x" * 65, "tab\t", 7, None, "['g1']"]
    assert all(isinstance(error, InvalidGroupId) for error in lookup.failed.values())
    assert emulator.report().ids_asked == 1
    with pytest.raises(InvalidGroupId, match="a,b"):
        await client.get("a,b")
    assert emulator.report().batch_requests == 1


async def test_without_ids_there_is_no_request_and_an_empty_result(client: GroupClient, emulator: Emulator) -> None:
    assert len(await client.get_many([])) == 0
    async with client.stream([]) as parts:
        assert [part async for part in parts] == []
    assert emulator.report().batch_requests == 0


async def test_a_response_that_comes_before_all_ids_are_taken_up_ends_nothing(client: GroupClient) -> None:
    answered_meanwhile = 0

    def slowly() -> Iterator[str]:
        nonlocal answered_meanwhile
        yield "g1"
        while not answered_meanwhile:  # the client lets others run every so many IDs
            yield "a b"
            answered_meanwhile = client.stats().found + client.stats().missing
        yield "g2"

    assert len(await client.get_many(slowly())) == 3


@pytest.mark.parametrize("call", ["get_many", "stream"])
async def test_one_str_is_not_taken_for_several_ids(client: GroupClient, call: str) -> None:
    with pytest.raises(TypeError, match="several group IDs"):
        await getattr(client, call)("g1")


async def test_failures_can_be_raised_together(client: GroupClient) -> None:
    lookup = await client.get_many(["g1", "a b", "c d"])
    with pytest.raises(ExceptionGroup) as caught:
        lookup.raise_for_failures()
    assert [error.group_id for error in caught.value.exceptions if isinstance(error, InvalidGroupId)] == ["a b", "c d"]
    (await client.get_many(["g1"])).raise_for_failures()


async def gathered(parts: AsyncIterator[Lookup]) -> tuple[Lookup, list[int]]:
    whole, sizes = Lookup(), []
    async for part in parts:
        assert not whole.found.keys() & part.found.keys()
        whole.found.update(part.found)
        whole.missing.extend(part.missing)
        whole.failed.update(part.failed)
        sizes.append(len(part))
    return whole, sizes


async def test_a_stream_tells_of_every_id_of_a_collection_once(client: GroupClient, emulator: Emulator) -> None:
    asked = ids(5_000)
    async with client.stream([*asked, "a b", *asked[:500], "a b"]) as parts:
        whole, sizes = await gathered(parts)
    known, unknown = split(emulator.service.universe, asked)
    assert sorted(whole.found) == sorted(known)
    assert sorted(whole.missing) == sorted(unknown)
    assert list(whole.failed) == ["a b"]
    assert max(sizes) <= 50
    assert emulator.report().ids_asked_again == 0


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_stream_takes_any_iterable(client: GroupClient, *, asynchronous: bool) -> None:
    async def later() -> AsyncIterator[str]:
        for group_id in ids(120):
            await asyncio.sleep(0)
            yield group_id

    async with client.stream(later() if asynchronous else iter(ids(120))) as parts:
        whole, _ = await gathered(parts)
    assert len(whole) == 120


async def test_a_stream_yields_results_before_its_source_ends(client: GroupClient) -> None:
    answered = asyncio.Event()

    async def waiting() -> AsyncIterator[str]:
        yield "g1"
        await answered.wait()
        yield "g2"

    async with client.stream(waiting()) as parts:
        assert len(await anext(parts)) == 1
        answered.set()
        assert len(await anext(parts)) == 1
        with pytest.raises(StopAsyncIteration):
            await anext(parts)


async def test_a_slow_consumer_holds_the_source_back(client_for: ClientFor, emulator: Emulator) -> None:
    taken = answered = 0
    held = asyncio.Event()
    window = 2 * 4 * 50

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"g{taken}"

    def count(event: Event) -> None:
        nonlocal answered
        if isinstance(event, BatchAnswered):
            answered += event.found + event.missing
        if answered > window:
            held.set()

    client = client_for(emulator, rate=2000, max_in_flight=4, hooks=[count])
    async with client, client.stream(endless()) as parts:
        await anext(parts)
        await held.wait()
        assert taken <= window + 51
        before = taken
        for _ in range(20):
            await anext(parts)
        assert taken > before


async def test_an_error_of_a_source_reaches_the_consumer_after_its_ids(client: GroupClient) -> None:
    def broken() -> Iterator[str]:
        yield from ids(10)
        raise LookupError("the cursor is gone")

    async with client.stream(broken()) as parts:
        assert sum([len(await anext(parts))]) <= 10
        with pytest.raises(LookupError, match="the cursor is gone"):
            await gathered(parts)


async def test_leaving_a_stream_early_asks_for_nothing_more(client_for: ClientFor) -> None:
    async with Emulator(latency=0.02) as emulator, client_for(emulator) as client:
        async with client.stream(ids(100_000)) as parts:
            await anext(parts)
        sent = client.stats().requests
        assert client.stats().waiting == 0
        assert await client.get("other") is not None or True
        assert client.stats().requests == sent + 1


async def test_an_exception_in_the_body_of_a_stream_is_not_wrapped(client: GroupClient) -> None:
    async def fail_at_the_first_part() -> None:
        async with client.stream(ids(100)) as parts:
            async for _ in parts:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_at_the_first_part()


@pytest.mark.parametrize(
    ("of_the_service", "kind", "code"),
    [
        ({"app_secret": "right"}, AuthenticationError, 1004),
        ({"app_key": "right"}, AuthenticationError, 1001),
        ({"locked": True}, AuthenticationError, 1006),
        ({"enabled": False}, ServiceNotEnabled, 1009),
    ],
)
async def test_an_error_that_no_retry_can_cure_is_raised_at_once(
    client_for: ClientFor, of_the_service: dict[str, Any], kind: type[ServiceError], code: int
) -> None:
    events: list[Event] = []
    async with (
        Emulator(**{"app_key": "key", "app_secret": "secret"} | of_the_service) as emulator,
        client_for(emulator, app_key="key", app_secret="secret", hooks=[events.append]) as client,
    ):
        with pytest.raises(kind) as caught:
            await client.get_many(ids(5000))
        assert caught.value.code == code
        assert sent_after_the_first_failure(events) == 0
        await raises_everywhere(client, kind)


def sent_after_the_first_failure(events: list[Event]) -> int:
    kinds = [type(event) for event in events]
    return kinds[kinds.index(BatchFailed) :].count(BatchSent)


async def raises_everywhere(client: GroupClient, kind: type[RongCloudError]) -> None:
    with pytest.raises(kind):
        await client.get("g1")
    with pytest.raises(kind):
        async with client.stream(ids(500)) as parts:
            await anext(parts)
    with pytest.raises(kind):
        await anext(aiter(client.list_groups()))


async def test_an_app_key_of_the_other_dialect_ends_everything_and_names_the_switch(
    client_for: ClientFor, dialect: str, other_dialect: str
) -> None:
    events: list[Event] = []
    async with (
        Emulator(versions=frozenset({VERSION[other_dialect]})) as emulator,
        client_for(emulator, hooks=[events.append]) as client,
    ):
        with pytest.raises(ServiceError, match=f"RONGCLOUD_DIALECT={other_dialect}") as caught:
            await client.get_many(ids(5000))
        assert caught.value.code == 404
        assert sent_after_the_first_failure(events) == 0
        await raises_everywhere(client, ServiceError)
        assert emulator.report().requests.keys() == {DIALECTS[dialect].batch_path, DIALECTS[dialect].listing_path}


async def test_responses_in_the_other_dialect_end_everything_and_name_the_switch(
    client_for: ClientFor, other_dialect: str
) -> None:
    events: list[Event] = []
    async with (
        Emulator(answers_in=VERSION[other_dialect]) as emulator,
        client_for(emulator, hooks=[events.append]) as client,
    ):
        with pytest.raises(ConfigError, match=f"RONGCLOUD_DIALECT={other_dialect}"):
            await client.get_many(ids(5000))
        assert sent_after_the_first_failure(events) == 0
        await raises_everywhere(client, ConfigError)


async def test_both_dialects_on_one_port_get_responses_with_equal_profiles(
    client: GroupClient, client_for: ClientFor, emulator: Emulator, other_dialect: str
) -> None:
    async with client_for(emulator, dialect=other_dialect) as other:
        assert await other.get_many(ids(300)) == await client.get_many(ids(300))
    assert len(emulator.report().requests) == 2


async def test_the_listing_has_every_group_once_oldest_first(client_for: ClientFor) -> None:
    async with Emulator(universe=Universe(listed=2500)) as emulator, client_for(emulator) as client:
        listed = [group async for group in client.list_groups()]
        assert [group.group_id for group in listed] == ids(2500)
        profile = await client.get("g7")
        assert profile is not None
        shared = ("group_name", "owner", "create_time", "introduction", "announcement", "portrait_url")
        assert [getattr(listed[7], name) for name in shared] == [getattr(profile, name) for name in shared]


async def test_one_refusal_reaches_every_waiter(client_for: ClientFor) -> None:
    events: list[Event] = []
    async with Emulator(enabled=False, latency=0.05) as emulator, client_for(emulator, hooks=[events.append]) as client:
        results = await asyncio.gather(
            *(client.get(group_id) for group_id in ids(200)), client.get_many(ids(500, "h")), return_exceptions=True
        )
        assert {type(result) for result in results} == {ServiceNotEnabled}
        assert len({id(result) for result in results}) == len(results)
        assert sent_after_the_first_failure(events) == 0
        emulator.service.enabled = True
        assert len(await client.get_many(ids(10))) == 10


async def test_a_client_that_is_not_open_says_so(emulator: Emulator, client_for: ClientFor) -> None:
    client = client_for(emulator)
    with pytest.raises(ClientClosed, match="not open"):
        await client.get("g1")
    async with client:
        await client.get("g1")
        with pytest.raises(ClientClosed, match="once"):
            await client.__aenter__()
    for call in (client.get("g1"), client.get_many(["g1"])):
        with pytest.raises(ClientClosed, match="closed"):
            await call
    with pytest.raises(ClientClosed, match="closed"):
        client.stream(["g1"])
    await client.aclose()


async def test_closing_ends_what_is_open(client_for: ClientFor) -> None:
    async with Emulator(latency=5) as emulator:
        async with client_for(emulator) as client:
            calls = [asyncio.create_task(client.get(group_id)) for group_id in ids(60)]
            calls.append(asyncio.create_task(client.get_many(ids(60, "h"))))  # type: ignore[arg-type]
            await emulator.wait_for(1)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {ClientClosed}


def test_a_client_belongs_to_one_event_loop(client_for: ClientFor) -> None:
    async def main() -> None:
        async with Emulator() as emulator, client_for(emulator) as client:
            await client.get("g1")
            message = await asyncio.to_thread(asyncio.run, other(client))
            assert "another event loop" in message

    async def other(client: GroupClient) -> str:
        with pytest.raises(ClientClosed) as caught:
            await client.get("g1")
        return str(caught.value)

    asyncio.run(main())


def test_nothing_is_left_when_the_client_is_closed(client_for: ClientFor) -> None:
    async def main() -> None:
        async with Emulator() as emulator:
            async with client_for(emulator) as client:
                await client.get_many(ids(200))
                waiting = asyncio.create_task(client.get("last"))
                await asyncio.sleep(0)
                waiting.cancel()
            assert [task for task in asyncio.all_tasks() if "rongcloud" in repr(task.get_coro())] == []

    asyncio.run(main(), debug=True)
    gc.collect()


async def test_http1_serves_where_the_server_speaks_nothing_else(client_for: ClientFor) -> None:
    async with Emulator(http2=False, latency=0.01, limit=None) as emulator, client_for(emulator, rate=1000) as client:
        asked = ids(1500)
        lookup = await client.get_many(asked)
        assert list(lookup.found) == split(emulator.service.universe, asked)[0]
        assert emulator.report().http_versions == {"HTTP/1.1": 30}
        assert emulator.report().connections > 1


async def test_plain_http_serves_for_a_test_server(client_for: ClientFor) -> None:
    async with Emulator(tls=False) as emulator, client_for(emulator) as client:
        assert len(await client.get_many(ids(120))) == 120


async def test_no_connection_reaches_eighty_requests(client: GroupClient, emulator: Emulator) -> None:
    await client.get_many(ids(8_000))
    assert emulator.report().max_requests_on_connection < 80
    assert emulator.report().batch_requests == 160


async def test_the_listing_of_what_happened_adds_up(client: GroupClient, emulator: Emulator) -> None:
    await client.get_many([*ids(200), "a b"])
    stats = client.stats()
    assert stats.requests == emulator.report().batch_requests == 4
    assert stats.found + stats.missing == stats.group_ids_sent == 200
    assert (stats.retried, stats.throttled, stats.waiting, stats.in_flight) == (0, 0, 0, 0)


async def test_a_client_from_the_environment(emulator: Emulator, dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "APP_KEY": emulator.app_key,
        "APP_SECRET": emulator.app_secret,
        "BASE_URL": f"{emulator.url}, https://127.0.0.1:9",
        "DIALECT": dialect,
    }.items():
        monkeypatch.setenv(f"RONGCLOUD_{name}", value)
    async with GroupClient.from_env(verify=emulator.ssl_context) as client:
        assert len(await client.get_many(ids(3))) == 3
    assert list(emulator.report().requests) == [DIALECTS[dialect].batch_path]
    monkeypatch.delenv("RONGCLOUD_APP_SECRET")
    with pytest.raises(ConfigError, match="RONGCLOUD_APP_SECRET"):
        GroupClient.from_env()


@pytest.mark.parametrize(
    "option",
    [
        {"unknown": "null"},
        {"v1_nested": "objects", "v4_nested": "strings"},
        {"portrait_key": "portrait_url"},
        {"name_key": "name"},
        {"flat_texts": True},
        {"numbers_as_strings": True, "code_as_string": True},
        {"compressed": True},
    ],
    ids=repr,
)
async def test_however_the_service_writes_its_responses(client_for: ClientFor, option: dict[str, Any]) -> None:
    asked = ids(200)
    async with Emulator(universe=Universe(), **option) as emulator, client_for(emulator) as client:
        lookup = await client.get_many(asked)
        known, unknown = split(emulator.service.universe, asked)
        assert (list(lookup.found), lookup.missing, lookup.failed) == (known, unknown, {})
    async with Emulator(universe=Universe()) as emulator, client_for(emulator) as client:
        assert (await client.get_many(asked)).found == lookup.found


class Reversing(Service):
    """Responds with the profiles in another order than they were asked for."""

    def _profiles(self, version: Version, group_ids: list[str], fault: str | None) -> list[Group | None]:
        return super()._profiles(version, group_ids[::-1], fault)


async def test_the_order_of_a_lookup_is_that_of_its_ids_whatever_that_of_the_profiles(client_for: ClientFor) -> None:
    async with Emulator(Reversing(universe=Universe())) as emulator, client_for(emulator) as client:
        asked = ids(200)
        lookup = await client.get_many(asked)
        assert (list(lookup.found), lookup.missing) == split(emulator.service.universe, asked)


async def test_an_unknown_group_that_makes_the_service_refuse_its_batch_fails_alone(client_for: ClientFor) -> None:
    async with Emulator(unknown="refused") as emulator, client_for(emulator) as client:
        lookup = await client.get_many(ids(50))
        known, unknown = split(emulator.service.universe, ids(50))
        assert list(lookup.found) == known
        assert list(lookup.failed) == unknown
        assert all(isinstance(error, RongCloudError) for error in lookup.failed.values())


async def test_a_fatal_fault_ends_the_client_and_every_call_with_its_cause(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(*_: object) -> None:
        raise RuntimeError("a fault of our own")

    client = GroupClient(emulator.app_key, emulator.app_secret, base_urls=emulator.url, verify=trusting(emulator))
    await client.open()
    monkeypatch.setattr("rongcloud_groups._dispatch.pending.PendingQueue.settle_batch", faulty)
    for _ in range(2):
        with pytest.raises(ClientClosed, match=r"^the client stopped: RuntimeError: a fault of our own$"):
            await client.get("g1")
    with pytest.raises(ExceptionGroup) as ended:
        await client.aclose()
    assert ended.group_contains(RuntimeError, match="a fault of our own", depth=2)
    assert "the client stopped" in caplog.text


@pytest.mark.parametrize("deadline", [1e-6, 0, -1])
async def test_every_id_has_an_outcome_when_the_deadline_passes_while_ids_are_taken_up(
    client: GroupClient, deadline: float
) -> None:
    lookup = await client.get_many((f"x{number}" for number in range(5000)), deadline=deadline)
    assert len(lookup) == 5000
    assert {type(error) for error in lookup.failed.values()} == {DeadlineExceeded}
    assert client.stats().waiting == 0


@pytest.mark.parametrize("deadline", [0, -0.5])
async def test_a_deadline_that_has_passed_is_exceeded_at_no_request(client: GroupClient, deadline: float) -> None:
    with pytest.raises(DeadlineExceeded):
        await client.get("g1", deadline=deadline)
    assert client.stats().requests == 0
    with pytest.raises(InvalidGroupId):
        await client.get("a b", deadline=deadline)


@pytest.mark.parametrize("deadline", ["2", float("nan"), True, []])
async def test_a_deadline_that_is_no_number_is_refused(client: GroupClient, deadline: Any) -> None:
    with pytest.raises(ConfigError, match="deadline is "):
        await client.get("g1", deadline=deadline)
    with pytest.raises(ConfigError, match="deadline is "):
        await client.get_many(["g1"], deadline=deadline)


# Request IDs


async def test_a_lookup_names_the_requests_that_served_it(client_for: ClientFor) -> None:
    events: list[Event] = []
    async with Emulator() as emulator, client_for(emulator, hooks=[events.append]) as client:
        lookup = await client.get_many(ids(120))
        again = await client.get_many(ids(120))
        async with client.stream(ids(60)) as parts:
            of_parts = [request_id async for part in parts for request_id in part.request_ids]
    sent = [event.request_id for event in events if isinstance(event, BatchSent)]
    assert sorted([*lookup.request_ids, *again.request_ids, *of_parts]) == sorted(sent)
    assert len(lookup.request_ids) == 3
    assert lookup == again
    assert lookup.request_ids != again.request_ids


@pytest.mark.parametrize("fault", ["error-500", "drop", "garbage", "truncated"])
async def test_an_error_names_the_request_that_ended_in_it(fault: str, client_for: ClientFor) -> None:
    events: list[Event] = []
    faults = Faults(share={fault: 1.0})
    async with (
        Emulator(faults=faults) as emulator,
        client_for(emulator, max_attempts=1, hooks=[events.append]) as client,
    ):
        with pytest.raises(RongCloudError) as caught:
            await client.get("g1")
    assert caught.value.request_id in {event.request_id for event in events if isinstance(event, BatchSent)}

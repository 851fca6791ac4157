"""Whatever comes back, and whenever: each ID ends once, and nothing raises but the library's own errors."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.virtual_time import run

from rongcloud_groups import (
    DeadlineExceeded,
    GroupClient,
    GroupProfile,
    InvalidGroupId,
    Lookup,
    RongCloudError,
    ServiceError,
)

Respond = Callable[[list[str]], httpx.Response]
KNOWN = {f"g{number}" for number in range(0, 400, 2)}


def profiles(group_ids: list[str]) -> list[dict[str, object]]:
    return [{"groupId": group_id, "groupName": group_id.upper()} for group_id in group_ids if group_id in KNOWN]


def truthful(group_ids: list[str]) -> httpx.Response:
    return httpx.Response(200, json={"code": 200, "profiles": profiles(group_ids)})


def refusing(code: int, status: int) -> Respond:
    return lambda _: httpx.Response(status, json={"code": code, "errorMessage": "no"})


def poisoned(group_ids: list[str]) -> httpx.Response:
    if any(group_id.endswith("7") for group_id in group_ids):
        return httpx.Response(400, json={"code": 1002, "errorMessage": "groupIds"})
    return truthful(group_ids)


def halved(group_ids: list[str]) -> httpx.Response:
    whole = json.dumps({"code": 200, "profiles": profiles(group_ids)})
    return httpx.Response(200, text=whole[: len(whole) // 2])


def anonymous(group_ids: list[str]) -> httpx.Response:
    return httpx.Response(200, json={"code": 200, "profiles": [{"owner": "?"}, *profiles(group_ids)[1:]]})


def raising(_: list[str]) -> httpx.Response:
    raise httpx.ReadError("gone")


TROUBLES: list[Respond] = [
    poisoned,
    halved,
    anonymous,
    raising,
    refusing(1000, 500),
    refusing(1050, 504),
    refusing(1008, 429),
    refusing(1008, 200),
    refusing(4711, 200),
    lambda _: httpx.Response(502, text="<html>bad gateway</html>"),
    lambda _: httpx.Response(200, content=b"\x00\xff"),
]
FATAL: list[Respond] = [refusing(1004, 401), refusing(1009, 430), refusing(404, 404)]

sizes = st.sampled_from([0, 1, 49, 50, 51, 99, 100, 101, 999, 1000, 1001, 1049, 1051, 2000, 2001])
"""Around each boundary of a batch, of 50, and of a step in which IDs are taken up, of 1,000."""
given_ids = st.lists(
    st.one_of(st.integers(0, 399).map("g{}".format), st.sampled_from(["", "a b", "a,b", "x" * 65])), max_size=300
)


def serving(responses: list[Respond], asked: Counter[str]) -> httpx.MockTransport:
    script = iter(responses)

    async def respond(request: httpx.Request) -> httpx.Response:
        group_ids = [value for name, value in parse_qsl(request.content.decode()) if name == "groupIds"]
        assert 1 <= len(group_ids) <= 50
        assert len(set(group_ids)) == len(group_ids)
        asked.update(group_ids)
        await asyncio.sleep(0.03)
        return next(script, truthful)(group_ids)

    return httpx.MockTransport(respond)


def assert_accounted(lookup: Lookup, group_ids: list[str]) -> None:
    everywhere = [*lookup.found, *lookup.missing, *lookup.failed]
    assert sorted(everywhere) == sorted(set(group_ids))
    assert all(isinstance(profile, GroupProfile) for profile in lookup.found.values())
    assert lookup.found.keys() <= KNOWN
    assert not KNOWN.intersection(lookup.missing)
    assert all(isinstance(error, RongCloudError) for error in lookup.failed.values())


@settings(max_examples=120)
@given(given_ids, st.lists(st.sampled_from([truthful, *TROUBLES]), max_size=25), st.integers(1, 4))
def test_each_id_of_get_many_ends_once(group_ids: list[str], responses: list[Respond], max_attempts: int) -> None:
    async def main() -> None:
        asked: Counter[str] = Counter()
        transport = serving(responses, asked)
        async with GroupClient("key", "secret", transport=transport, max_attempts=max_attempts) as client:
            lookup = await client.get_many(group_ids)
            assert list(dict.fromkeys(group_ids)) == sorted(
                [*lookup.found, *lookup.missing, *lookup.failed], key=list(dict.fromkeys(group_ids)).index
            )
            assert_accounted(lookup, group_ids)
            assert (client.stats().waiting, client.stats().in_flight) == (0, 0)
        invalid = {each for each, error in lookup.failed.items() if isinstance(error, InvalidGroupId)}
        assert not invalid & asked.keys()
        if not responses:
            assert lookup.failed.keys() == invalid
            assert max(asked.values(), default=1) == 1

    run(main())


@settings(max_examples=80)
@given(given_ids, st.lists(st.sampled_from([truthful, *TROUBLES]), max_size=25), st.integers(1, 20))
def test_each_id_of_a_stream_ends_once(group_ids: list[str], responses: list[Respond], max_in_flight: int) -> None:
    async def main() -> None:
        whole = Lookup()
        transport = serving(responses, Counter())
        async with (
            GroupClient("key", "secret", transport=transport, max_in_flight=max_in_flight) as client,
            client.stream(group_ids) as parts,
        ):
            async for part in parts:
                assert 0 < len(part) <= 50
                for group_id in [*part.found, *part.missing, *part.failed]:
                    assert group_id not in whole.found
                    assert group_id not in whole.missing
                    assert group_id not in whole.failed
                whole.found.update(part.found)
                whole.missing.extend(part.missing)
                whole.failed.update(part.failed)
        assert_accounted(whole, group_ids)

    run(main())


@settings(max_examples=60)
@given(st.lists(st.sampled_from([truthful, *TROUBLES]), max_size=6), st.sampled_from(FATAL), st.integers(1, 300))
def test_an_error_that_is_not_retryable_reaches_every_waiter(before: list[Respond], fatal: Respond, count: int) -> None:
    async def main() -> None:
        transport = serving([*before, *[fatal] * 1000], Counter())
        async with GroupClient("key", "secret", transport=transport, max_attempts=20) as client:
            calls = [client.get(f"g{number}") for number in range(count)]
            results = await asyncio.gather(*calls, client.get_many(["g1", "other"]), return_exceptions=True)
            assert isinstance(results[-1], ServiceError | Lookup)
            assert all(
                result is None or isinstance(result, GroupProfile | Lookup | RongCloudError) for result in results
            )
            assert (client.stats().waiting, client.stats().in_flight) == (0, 0)

    run(main())


@settings(max_examples=60)
@given(given_ids, st.floats(0.001, 3), st.lists(st.sampled_from([truthful, *TROUBLES]), max_size=25))
def test_a_deadline_is_kept_and_accounts_for_each_id(
    group_ids: list[str], deadline: float, responses: list[Respond]
) -> None:
    async def main() -> None:
        async with GroupClient("key", "secret", transport=serving(responses, Counter())) as client:
            loop = asyncio.get_running_loop()
            began = loop.time()
            lookup = await client.get_many(group_ids, deadline=deadline)
            assert loop.time() - began <= deadline + 0.001
            assert_accounted(lookup, group_ids)
            assert client.stats().waiting == 0

    run(main())


@settings(max_examples=60)
@given(sizes, st.sampled_from([-1.0, 0.0, 1e-6, 0.02, 0.05, 0.5, 3.0]), st.integers(0, 3), st.booleans())
def test_each_id_of_any_number_ends_once_whatever_the_deadline(
    count: int,
    deadline: float,
    repeated: int,
    iterator: bool,  # noqa: FBT001  a parameter
) -> None:
    async def main() -> None:
        group_ids = [f"g{number}" for number in range(count)] * (1 + repeated % 2)
        async with GroupClient("key", "secret", transport=serving([], Counter()), rate=500) as client:
            lookup = await client.get_many(iter(group_ids) if iterator else group_ids, deadline=deadline)
            assert len(lookup) == count
            assert sorted([*lookup.found, *lookup.missing, *lookup.failed]) == sorted(set(group_ids))
            assert {type(error) for error in lookup.failed.values()} <= {DeadlineExceeded}
            if deadline <= 0:
                assert len(lookup.failed) == count
                assert client.stats().requests == 0
            assert (client.stats().waiting, client._parts.pending.open) == (0, 0)

    run(main())


@settings(max_examples=30)
@given(sizes.filter(bool), st.booleans())
def test_a_source_that_raises_in_the_middle_leaves_nothing_open(count: int, cancelled: bool) -> None:  # noqa: FBT001
    async def main() -> None:
        def source() -> Iterator[str]:
            yield from (f"g{number}" for number in range(count))
            raise LookupError("the cursor is gone")

        async with GroupClient("key", "secret", transport=serving([], Counter()), rate=500) as client:
            call = asyncio.create_task(client.get_many(source()))
            await asyncio.sleep(0)
            if cancelled:
                call.cancel()
            with pytest.raises((LookupError, asyncio.CancelledError)):
                await call
            assert (client.stats().waiting, client._parts.pending.open) == (0, 0)
            assert len(await client.get_many(["g1", "g2"])) == 2

    run(main())

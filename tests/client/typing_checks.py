"""What a type checker sees of the public face; mypy runs this file, pytest does not."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import assert_type

import httpx

from rongcloud_groups import (
    Event,
    GroupClient,
    GroupProfile,
    Hook,
    JoinPerm,
    Limiter,
    LocalLimiter,
    Lookup,
    Permissions,
    RongCloudError,
    ServiceError,
    Stats,
)


async def asynchronous_ids() -> AsyncIterator[str]:
    yield "g1"


def generated_ids() -> Iterator[str]:
    yield "g1"


async def calls(client: GroupClient, ids: Sequence[str]) -> None:
    assert_type(await client.get("g1"), GroupProfile | None)
    assert_type(await client.get("g1", deadline=1.5), GroupProfile | None)
    assert_type(await client.get_many(ids), Lookup)
    assert_type(await client.get_many({"g1": 1}, deadline=2, bulk=True), Lookup)
    assert_type(await client.get_many(generated_ids()), Lookup)
    assert_type(client.stats(), Stats)
    for source in (ids, {"g1"}):
        async with client.stream(source) as parts:
            async for part in parts:
                assert_type(part, Lookup)
    async with client.stream(asynchronous_ids(), bulk=False) as parts:
        assert_type([part async for part in parts], list[Lookup])


async def construction() -> None:
    async with GroupClient("key", "secret", region="singapore") as client:
        assert_type(client, GroupClient)
    assert_type(GroupClient.from_env(rate=50), GroupClient)
    hook: Hook = print_kind
    limiter: Limiter = LocalLimiter(50)
    GroupClient("key", "secret", hooks=[hook, print_kind], limiter=limiter, base_urls=("https://one.test",))
    GroupClient("key", "secret", transport=httpx.AsyncHTTPTransport())
    GroupClient("key", "secret", transport=httpx.AsyncHTTPTransport)


def print_kind(event: Event) -> None:
    print(type(event).__name__)  # noqa: T201  what a first hook does


def values(lookup: Lookup, profile: GroupProfile, error: ServiceError) -> None:
    assert_type(lookup.found, dict[str, GroupProfile])
    assert_type(lookup.missing, list[str])
    assert_type(lookup.failed, dict[str, RongCloudError])
    assert_type(profile.group_id, str)
    assert_type(profile.group_name, str | None)
    assert_type(profile.ext_profile, dict[str, str])
    assert_type(profile.permissions, Permissions)
    assert_type(profile.permissions.join_perm, JoinPerm)
    assert_type((error.code, error.status, error.message, error.request_id), tuple[int, int, str, str | None])

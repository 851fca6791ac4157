"""A user's program with every public name, for mypy and pyright; pytest does not run it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import assert_type

import httpx

from rongcloud_groups import (
    REGIONS,
    AuthenticationError,
    Cache,
    CacheInfo,
    ClientClosed,
    ConfigError,
    DeadlineExceeded,
    DecodeError,
    Event,
    GroupClient,
    GroupProfile,
    Hook,
    InvalidGroupId,
    InvitePerm,
    JoinPerm,
    Limiter,
    LocalLimiter,
    Lookup,
    MemProfilePerm,
    ParameterError,
    Permissions,
    Problem,
    RateLimited,
    RolePerm,
    RongCloudError,
    Secret,
    ServerError,
    ServiceError,
    ServiceNotEnabled,
    Stats,
    TransportError,
)
from rongcloud_groups.blocking import BlockingGroupClient, shared
from rongcloud_groups.config import DialectName, Region
from rongcloud_groups.errors import Phase
from rongcloud_groups.models import ListedGroup


async def asynchronous_ids() -> AsyncIterator[str]:
    yield "g1"


def generated_ids() -> Iterator[str]:
    yield "g1"


async def calls(client: GroupClient, ids: Sequence[str]) -> None:
    assert_type(await client.get("g1"), GroupProfile | None)
    assert_type(await client.get("g1", deadline=1.5, fresh=True), GroupProfile | None)
    assert_type(await client.get_many(ids), Lookup)
    assert_type(await client.get_many({"g1": 1}, deadline=2, bulk=True), Lookup)
    assert_type(await client.get_many(generated_ids()), Lookup)
    assert_type(client.stats(), Stats)
    assert_type(client.cache.info(), CacheInfo)
    for source in (ids, {"g1"}):
        async with client.stream(source) as parts:
            async for part in parts:
                assert_type(part, Lookup)
    async with client.stream(asynchronous_ids(), bulk=False) as parts:
        assert_type([part async for part in parts], list[Lookup])
    assert_type([group async for group in client.list_groups()], list[ListedGroup])
    async with client.list_profiles(after="token") as pages:
        async for page in pages:
            assert_type((page.lookup, page.next_page_token), tuple[Lookup, str | None])


async def construction(region: Region, dialect: DialectName) -> None:
    assert_type(REGIONS[region], tuple[str, str])
    async with GroupClient("key", Secret("secret"), region="singapore", dialect="nexconn") as client:
        assert_type(client, GroupClient)
    assert_type(GroupClient.from_env(rate=50, region=region, dialect=dialect), GroupClient)
    hook: Hook = print_kind
    limiter: Limiter = LocalLimiter(50)
    GroupClient("key", "secret", hooks=[hook, print_kind], limiter=limiter, base_urls=("https://one.test",))
    GroupClient("key", "secret", transport=httpx.AsyncHTTPTransport(), cache=Cache(ttl=60))
    opened = await GroupClient("key", "secret", transport=httpx.AsyncHTTPTransport).open()
    await opened.aclose()


def blocking() -> None:
    with BlockingGroupClient("key", "secret", region="singapore", deadline=5) as client:
        assert_type(client.get("g1"), GroupProfile | None)
        assert_type(client.get_many(generated_ids(), bulk=True), Lookup)
        assert_type([part for part in client.stream(["g1"])], list[Lookup])  # noqa: C416  its type is the question
    assert_type(shared(rate=50), BlockingGroupClient)


def print_kind(event: Event) -> None:
    print(type(event).__name__)  # noqa: T201  as a first hook does


def values(lookup: Lookup, profile: GroupProfile, permissions: Permissions) -> None:
    assert_type((lookup.found, lookup.missing), tuple[dict[str, GroupProfile], list[str]])
    assert_type(lookup.failed, dict[str, RongCloudError])
    assert_type((profile.group_id, profile.group_name), tuple[str, str | None])
    assert_type(profile.ext_profile, dict[str, str])
    assert_type(profile.problems, tuple[Problem, ...])
    assert_type(permissions.join_perm, JoinPerm)
    assert_type((permissions.remove_perm, permissions.mem_profile_perm), tuple[RolePerm, MemProfilePerm])
    assert_type(permissions.invite_perm, InvitePerm)


def advice(error: RongCloudError) -> str:  # noqa: PLR0911  one a case
    match error:
        case RateLimited() | ServerError():
            return f"retry after {assert_type(error.retry_after, float | None)} s"
        case AuthenticationError() | ServiceNotEnabled() | ParameterError() | ServiceError():
            return f"{assert_type(error.code, int)} {assert_type(error.request_id, str | None)} {error.hint}"
        case DeadlineExceeded():
            return assert_type(error.phase, Phase)
        case InvalidGroupId():
            return error.reason
        case TransportError():
            return str(assert_type(error.never_processed, bool))
        case ConfigError() | DecodeError() | ClientClosed():
            return str(error)
        case _:
            return repr(error)

import asyncio
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.virtual_time import at, now, virtual_time

from rongcloud_groups import Cache, CacheInfo, ConfigError, DeadlineExceeded, GroupClient, GroupProfile, ParameterError
from rongcloud_groups._dispatch.lanes import Batch
from rongcloud_groups._dispatch.lookups import CachedWaiter
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups.lookup import Outcome
from rongcloud_groups.pytest_plugin import InProcessEmulator

GROUPS = [f"g{number}" for number in range(200)]


@pytest.fixture
def emulator(rongcloud_emulator: InProcessEmulator) -> InProcessEmulator:
    for group_id in GROUPS:
        rongcloud_emulator.add(group_id, group_name=f"group {group_id}")
    return rongcloud_emulator


def cache_for(**options: Any) -> Cache:
    defaults: dict[str, Any] = {"ttl": 60.0, "jitter": 0.0, "timer": now}
    return Cache(**(defaults | options))


@virtual_time
async def test_without_a_cache_each_lookup_asks_the_service(emulator: InProcessEmulator) -> None:
    async with emulator.client() as client:
        await client.get("g1")
        await client.get("g1")
        with pytest.raises(ConfigError, match="cache=Cache"):
            _ = client.cache
    assert emulator.requests == [["g1"], ["g1"]]


@virtual_time
async def test_a_cached_outcome_costs_no_request_and_no_time(emulator: InProcessEmulator) -> None:
    async with emulator.client(cache=cache_for()) as client:
        first = await client.get("g1")
        emulator.service.latency = 5.0
        before = now()
        assert await client.get("g1") is first
        assert now() == before
        assert client.cache.info() == CacheInfo(hits=1, misses=1, size=1, max_size=10_000)
    assert emulator.requests == [["g1"]]


@virtual_time
async def test_an_outcome_is_kept_for_its_time_and_no_longer(emulator: InProcessEmulator) -> None:
    async with emulator.client(cache=cache_for(ttl=60)) as client:
        await at(10)
        await client.get("g1")
        await at(69.9)
        await client.get("g1")
        assert len(emulator.requests) == 1
        await at(70.1)
        await client.get("g1")
        assert len(emulator.requests) == 2
        await at(200)
        assert client.cache.info().size == 0


@virtual_time
async def test_jitter_spreads_when_outcomes_expire_and_keeps_none_longer(emulator: InProcessEmulator) -> None:
    async with emulator.client(cache=cache_for(ttl=100, jitter=0.5)) as client:
        await client.get_many(GROUPS)
        asked_at = now()
        held = []
        for seconds in (49, 60, 75, 90, 100):
            await at(asked_at + seconds)
            held.append(client.cache.info().size)
    assert held[0] == len(GROUPS)
    assert held[0] > held[1] > held[2] > held[3] > held[4] == 0
    assert 60 < held[2] < 140


@pytest.mark.parametrize(("options", "kept_until"), [({}, 10), ({"missing_ttl": 3}, 3), ({"ttl": 5}, 5)])
@virtual_time
async def test_a_missing_group_is_kept_for_a_time_of_its_own(
    emulator: InProcessEmulator, options: dict[str, float], kept_until: float
) -> None:
    async with emulator.client(cache=cache_for(**options)) as client:
        assert await client.get("absent") is None
        asked_at = now()
        emulator.add("absent", group_name="present")
        await at(asked_at + kept_until - 0.1)
        assert await client.get("absent") is None
        await at(asked_at + kept_until + 0.1)
        assert await client.get("absent") is not None


@virtual_time
async def test_missing_groups_need_not_be_kept(emulator: InProcessEmulator) -> None:
    async with emulator.client(cache=cache_for(missing_ttl=0)) as client:
        assert await client.get("absent") is None
        assert await client.get("absent") is None
    assert emulator.requests == [["absent"], ["absent"]]


@virtual_time
async def test_a_failure_is_not_kept(emulator: InProcessEmulator) -> None:
    emulator.service.faults.poison = frozenset({"g1"})
    async with emulator.client(cache=cache_for()) as client:
        with pytest.raises(ParameterError):
            await client.get("g1")
        assert list((await client.get_many(["g1"])).failed) == ["g1"]
        emulator.service.faults.poison = frozenset()
        assert await client.get("g1") is not None


@pytest.mark.parametrize("many", [False, True])
@virtual_time
async def test_fresh_asks_the_service_and_keeps_its_outcome(emulator: InProcessEmulator, *, many: bool) -> None:
    async with emulator.client(cache=cache_for()) as client:
        await client.get("g1")
        renamed = emulator.add("g1", group_name="renamed")
        if many:
            assert (await client.get_many(["g1"], fresh=True)).found == {"g1": renamed}
        else:
            assert await client.get("g1", fresh=True) == renamed
        assert await client.get("g1") == renamed
    assert len(emulator.requests) == 2


@virtual_time
async def test_many_asks_only_for_what_is_not_held_and_keeps_the_order(emulator: InProcessEmulator) -> None:
    async with emulator.client(cache=cache_for()) as client:
        await client.get_many(["g3", "absent", "g1"])
        lookup = await client.get_many(["g1", "g2", "a b", "absent", "g3", "g4", "g1"])
        assert (list(lookup.found), lookup.missing, list(lookup.failed)) == (
            ["g1", "g2", "g3", "g4"],
            ["absent"],
            ["a b"],
        )
        again = await client.get_many(["g4", "g2", "absent"])
        assert (list(again.found), again.missing) == (["g4", "g2"], ["absent"])
    assert emulator.requests == [["g3", "absent", "g1"], ["g2", "g4"]]


@virtual_time
async def test_bulk_lookups_neither_take_from_the_cache_nor_put_into_it(emulator: InProcessEmulator) -> None:
    async with emulator.client(cache=cache_for()) as client:
        await client.get("g1")
        await client.get_many(["g1", "g2"], bulk=True)
        async with client.stream(["g1", "g3"]) as parts:
            assert sum([len(part) async for part in parts]) == 2
        assert client.cache.info() == CacheInfo(hits=0, misses=1, size=1, max_size=10_000)
    assert emulator.requests == [["g1"], ["g1", "g2"], ["g1", "g3"]]


@virtual_time
async def test_invalidated_ids_are_asked_for_again(emulator: InProcessEmulator) -> None:
    async with emulator.client(cache=cache_for()) as client:
        await client.get_many(["g1", "g2", "g3"])
        client.cache.invalidate("g1", "g2", "never asked for")
        await client.get_many(["g1", "g2", "g3"])
        client.cache.clear()
        await client.get("g3")
    assert emulator.requests[1:] == [["g1", "g2"], ["g3"]]


@pytest.mark.parametrize("how", ["invalidate", "clear"])
@virtual_time
async def test_an_outcome_under_way_when_its_group_is_invalidated_is_not_kept(
    emulator: InProcessEmulator, how: str
) -> None:
    emulator.service.latency = 1.0
    async with emulator.client(cache=cache_for()) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(client.get("g1"))
        await at(0.5)
        client.cache.invalidate("g1") if how == "invalidate" else client.cache.clear()
    assert client.cache.info().size == 0
    assert len(emulator.requests) == 1


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("how", ["invalidate", "clear"])
@pytest.mark.parametrize("opener", ["get", "get_many", "bulk", "stream"])
@virtual_time
async def test_a_caller_after_an_invalidation_joins_no_request_from_before(
    emulator: InProcessEmulator, opener: str, how: str, *, fresh: bool
) -> None:
    emulator.service.latency = 1.0
    async with emulator.client(cache=cache_for()) as client, asyncio.TaskGroup() as tasks:
        early = tasks.create_task(opened_by(opener, client))
        await at(0.5)
        renamed = emulator.add("g1", group_name="renamed")
        client.cache.invalidate("g1") if how == "invalidate" else client.cache.clear()
        later = [tasks.create_task(client.get("g1", fresh=fresh)) for _ in range(3)]
        assert await asyncio.gather(*later) == [renamed] * 3
        assert (await early).group_name == "group g1"
        assert await client.get("g1") == renamed
    assert emulator.requests == [["g1"], ["g1"]]


async def opened_by(opener: str, client: GroupClient) -> GroupProfile:
    if opener == "get":
        profile = await client.get("g1")
        assert profile is not None
        return profile
    if opener == "stream":
        async with client.stream(["g1"]) as parts:
            return (await anext(aiter(parts))).found["g1"]
    return (await client.get_many(["g1"], bulk=opener == "bulk")).found["g1"]


@virtual_time
async def test_after_an_invalidation_a_request_that_failed_is_made_again_for_all(emulator: InProcessEmulator) -> None:
    emulator.service.latency = 1.0
    emulator.fail_next("error-500")
    async with emulator.client(cache=cache_for()) as client, asyncio.TaskGroup() as tasks:
        early = tasks.create_task(client.get("g1"))
        await at(0.5)
        renamed = emulator.add("g1", group_name="renamed")
        client.cache.invalidate("g1")
        assert await client.get("g1") == await early == renamed
    assert emulator.requests == [["g1"], ["g1"]]


@virtual_time
async def test_a_caller_that_comes_after_an_invalidation_and_leaves_leaves_nothing_behind(
    emulator: InProcessEmulator,
) -> None:
    emulator.service.latency = 1.0
    async with emulator.client(cache=cache_for()) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(client.get("g1"))
        await at(0.5)
        client.cache.invalidate("g1")
        with pytest.raises(DeadlineExceeded, match="waiting for the service"):
            await client.get("g1", deadline=0.1)
    assert len(emulator.requests) == 1
    assert client.cache._openers == {}
    assert client._parts.pending.open == 0


@virtual_time
async def test_callers_that_miss_the_same_group_share_a_request(emulator: InProcessEmulator) -> None:
    emulator.service.latency = 1.0
    async with emulator.client(cache=cache_for()) as client:
        await asyncio.gather(*(client.get("g1") for _ in range(100)), client.get_many(["g1", "g2"]))
        assert client.cache.info().size == 2
    assert Counter(group_id for request in emulator.requests for group_id in request) == {"g1": 1, "g2": 1}


@virtual_time
async def test_a_caller_that_gives_up_harms_no_other_and_leaves_nothing_behind(emulator: InProcessEmulator) -> None:
    emulator.service.latency = 1.0
    cache = cache_for()
    async with emulator.client(cache=cache) as client, asyncio.TaskGroup() as tasks:
        opener = tasks.create_task(client.get("g1"))
        await at(0.3)
        follower = tasks.create_task(client.get("g1"))
        await at(0.5)
        opener.cancel()
        assert await follower is not None
        assert cache.info().size == 0
        lookup = await client.get_many(["g2", "g3"], deadline=0.1)
        assert set(lookup.failed) == {"g2", "g3"}
        assert cache._openers == {}
        assert client._parts.pending.open == 0


@virtual_time
async def test_closing_the_client_leaves_nothing_behind(emulator: InProcessEmulator) -> None:
    cache = cache_for()
    emulator.fail_next("hang")
    async with emulator.client(cache=cache) as client:
        hanging = asyncio.create_task(client.get("g1"))
        await at(0.5)
    await asyncio.wait([hanging])
    assert type(hanging.exception()).__name__ == "ClientClosed"
    assert cache._openers == {}


@virtual_time
async def test_the_least_recently_used_goes_first(emulator: InProcessEmulator) -> None:
    async with emulator.client(cache=cache_for(max_size=2)) as client:
        for group_id in ("g1", "g2", "g1", "g3", "g1", "g2"):
            await client.get(group_id)
    assert emulator.requests == [["g1"], ["g2"], ["g3"], ["g2"]]


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": "60"},
        {"jitter": -0.1},
        {"jitter": 1.5},
        {"max_size": 0},
        {"max_size": 1.5},
        {"missing_ttl": -1},
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Cache(**options)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cachetools", None)
    with pytest.raises(ConfigError, match=r"rongcloud-groups\[cache\]"):
        Cache()


def test_its_repr_says_what_it_is() -> None:
    assert repr(Cache(ttl=30)) == "Cache(ttl=30, missing_ttl=10, size=0)"


class Asker:
    def __init__(self, *, bulk: bool = False) -> None:
        self.bulk = bulk
        self.outcomes: dict[str, Outcome] = {}

    def settle(self, outcomes: dict[str, Outcome], request_id: str | None = None) -> None:
        del request_id
        self.outcomes |= outcomes

    def abort(self, error: Exception) -> None: ...


class CachedLookups(RuleBasedStateMachine):
    """Groups change, and the cache is notified; a profile's member count is the group's version when it was read."""

    TTL = 10.0
    ids = st.sampled_from(["g1", "g2"])

    @initialize()
    def begin(self) -> None:
        self.clock = 0.0
        self.cache = Cache(ttl=self.TTL, jitter=0.3, timer=lambda: self.clock)
        self.pending = PendingQueue(2)
        self.cache.attach(self.pending, "key")
        self.versions = {"g1": 0, "g2": 0}
        self.waiting: list[tuple[Asker, str, int]] = []
        self.queued: dict[Asker, CachedWaiter] = {}
        self.in_flight: list[tuple[Batch, dict[str, int]]] = []
        self.read_at: dict[tuple[str, int], float] = {}

    @rule(group_id=ids, fresh=st.booleans())
    def ask(self, group_id: str, fresh: bool) -> None:  # noqa: FBT001  hypothesis calls it
        asker = Asker()
        held = self.cache.lookup([group_id])
        queued = self.queued[asker] = CachedWaiter(asker, self.cache)
        self.pending.add_all(queued.not_held([group_id], self.pending, fresh=fresh), queued)
        if held and not fresh:
            assert asker.outcomes == held
        else:
            self.waiting.append((asker, group_id, self.versions[group_id]))

    @rule(group_id=ids)
    def ask_in_bulk(self, group_id: str) -> None:
        asker = Asker(bulk=True)
        self.pending.add(group_id, asker)
        self.waiting.append((asker, group_id, self.versions[group_id]))

    @rule()
    def give_up(self) -> None:
        if self.waiting:
            asker, group_id, _ = self.waiting.pop(0)
            if queued := self.queued.get(asker):
                queued.discard([group_id])
            self.pending.leave(queued or asker, [group_id])

    @rule()
    def send(self) -> None:
        batch = self.pending.take(lambda _: None)
        if batch is not None:
            self.in_flight.append((batch, {group_id: self.versions[group_id] for group_id in batch.group_ids}))

    @rule(last=st.booleans())
    def answer(self, last: bool) -> None:  # noqa: FBT001  a parameter
        if self.in_flight:
            batch, versions = self.in_flight.pop(-1 if last else 0)
            profiles = {each: GroupProfile(group_id=each, member_count=version) for each, version in versions.items()}
            self.read_at |= dict.fromkeys(versions.items(), self.clock)
            self.pending.settle_batch(batch, profiles)
            for asker, group_id, version in self.waiting:
                profile = asker.outcomes.get(group_id)
                assert profile is None or getattr(profile, "member_count", version) >= version
            self.waiting = [waiting for waiting in self.waiting if waiting[1] not in waiting[0].outcomes]

    @rule()
    def lose(self) -> None:
        if self.in_flight:
            batch, _ = self.in_flight.pop(0)
            self.pending.requeue(self.pending.withdraw(self.pending.entries(batch)))

    @rule(group_id=ids)
    def change(self, group_id: str) -> None:
        self.versions[group_id] += 1
        self.cache.invalidate(group_id)

    @rule(seconds=st.floats(0, 6))
    def pass_time(self, seconds: float) -> None:
        self.clock += seconds

    @invariant()
    def what_is_held_is_neither_outdated_nor_old(self) -> None:
        for group_id, version in self.versions.items():
            for profile in self.cache.lookup([group_id]).values():
                assert isinstance(profile, GroupProfile)
                assert profile.member_count == version
                assert self.clock - self.read_at[group_id, version] <= self.TTL

    @invariant()
    def only_open_ids_have_an_opener(self) -> None:
        assert self.cache._openers.keys() <= {group_id for _, group_id, _ in self.waiting}


CachedLookups.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
test_whatever_happens = CachedLookups.TestCase


def test_a_cache_with_the_groups_of_one_app_key_is_refused_by_a_client_of_another() -> None:
    cache = cache_for()
    GroupClient("one", "secret", cache=cache)
    GroupClient("one", "secret", cache=cache)
    with pytest.raises(ConfigError, match="cache has the groups of App Key 'one'; make another one for 'two'"):
        GroupClient("two", "secret", cache=cache)

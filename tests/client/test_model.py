"""A random driver against a faulty service: each ID ends once and rightly, whatever happens beside it.

``RONGCLOUD_MODEL_MINUTES=10`` runs it for so long on each event loop; ``RONGCLOUD_MODEL_SEED=7`` repeats a run.
"""

import asyncio
import gc
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvloop
from support.clients import trusting

from rongcloud_groups import (
    Cache,
    ClientClosed,
    DeadlineExceeded,
    GroupClient,
    GroupProfile,
    InvalidGroupId,
    LocalLimiter,
    Lookup,
    ParameterError,
)
from rongcloud_groups.emulator import Emulator, Faults, Service
from rongcloud_groups.emulator.http1 import Http1Protocol
from rongcloud_groups.emulator.requests import Exchange
from rongcloud_groups.emulator.responses import Response

SECONDS = float(os.environ.get("RONGCLOUD_MODEL_MINUTES", "0")) * 60 or 5.0
SEED = int(os.environ.get("RONGCLOUD_MODEL_SEED", "0")) or time.time_ns() % 1_000_000
ONE_REQUEST = ["rst", "refuse", "hang", "truncated", "garbage", "html", "html-502", "error-500", "error-504", "429"]
WHOLE_CONNECTION = ["drop", "cut", "goaway", "goaway-lower", "goaway-close"]
HARMLESS = ["duplicate", "foreign", "slow-body", "broken"]
STATUSES = {"408": 408, "421": 421, "425": 425}
KINDS = len([*ONE_REQUEST, *WHOLE_CONNECTION, *HARMLESS, *STATUSES, "NaN", "surplus", "half-closed"])
SHARE = 0.2 / KINDS
POISON = "g1313"
"""The service refuses every batch that has it."""
IN_FLIGHT = 4
SIZES = [1, 2, 49, 50, 51, 100, 101, 999, 1000, 1001, 1050]


class GatewayService(Service):
    """Has faults beside those of the emulator: statuses of gateways, and values that are not JSON."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.chance = random.Random(options["seed"])
        self.played: Counter[str] = Counter()

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Response:
        response = super().respond(method, path, headers, body, now)
        if response.status != 200 or response.fault is not None:
            return response
        fault = next((each for each in [*STATUSES, "NaN"] if self.chance.random() < SHARE), None)
        if fault is None:
            return response
        self.played[fault] += 1
        if fault == "NaN":
            return response._replace(body=re.sub(rb'"memberCount":\d+', b'"memberCount":NaN', response.body, count=1))
        return response._replace(status=STATUSES[fault], body=b"try again", code=0)


class GatewayProtocol(Http1Protocol):
    """Over HTTP/1.1, has faults of gateways: a surplus response, and a response that ends half-closed."""

    chance = random.Random()
    surplus = b""

    def pump(self, exchange: Exchange) -> None:
        draw = self.chance.random()
        if exchange.whole and draw < SHARE and self.connection.transport.can_write_eof():
            self.connection.host.faults.played["half-closed"] += 1
            exchange.unsent, exchange.whole = exchange.unsent[: len(exchange.unsent) // 2], False
            super().pump(exchange)
            self.connection.flush()
            self.connection.transport.write_eof()
            return
        if exchange.whole and draw > 1 - SHARE:
            body = b'{"code":200,"profiles":[]}'
            self.surplus = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        super().pump(exchange)

    def data_to_send(self) -> bytes:
        # In the same write: one that came after the next request would be taken for its response.
        surplus, self.surplus = self.surplus, b""
        return super().data_to_send() + surplus


class Driver:
    """Makes calls at random, and holds each of them to its word.

    Args:
        emulators: two that a client fails over between, and one without TLS; they share a service.
        seed: another one makes other calls.
    """

    def __init__(self, emulators: list[Emulator], seed: int) -> None:
        self.encrypted, self.plain = emulators[:2], emulators[2]
        self.universe = self.plain.service.universe
        self.chance = random.Random(seed)
        self.given = 0
        self.calls = 0
        self.cancelled = 0
        self.limiter = LocalLimiter(3000)

    def client(self) -> GroupClient:
        emulators = self.chance.choice([self.encrypted, self.encrypted, [self.plain]])
        return GroupClient(
            self.plain.app_key,
            self.plain.app_secret,
            base_urls=[each.url for each in emulators],
            http2=self.chance.random() < 0.7,
            verify=trusting(*emulators) if emulators is self.encrypted else None,
            limiter=self.limiter,
            max_in_flight=IN_FLIGHT,
            attempt_timeout=0.4,
            max_attempts=1_000,  # so that no ID fails for want of attempts
            outage_timeout=60,
            cache=Cache(ttl=0.5) if self.chance.random() < 0.5 else None,
        )

    def ids(self) -> list[str]:
        """Some of few IDs, so that calls meet."""
        return [f"g{self.chance.randrange(3_000)}" for _ in range(self.chance.choice(SIZES))]

    def assert_right(self, group_id: str, outcome: object) -> None:
        if self.universe.knows(group_id):
            assert isinstance(outcome, GroupProfile), (group_id, outcome)
            assert outcome.group_id == group_id
        else:
            assert outcome is None, (group_id, outcome)

    def assert_whole(self, lookup: Lookup, group_ids: list[str], *allowed: type[Exception]) -> None:
        everywhere = [*lookup.found, *lookup.missing, *lookup.failed]
        assert len(everywhere) == len(set(everywhere))
        assert set(everywhere) == set(group_ids)
        for group_id, profile in lookup.found.items():
            self.assert_right(group_id, profile)
        for group_id in lookup.missing:
            self.assert_right(group_id, None)
        for group_id, error in lookup.failed.items():
            assert isinstance(error, (*allowed, ParameterError) if group_id == POISON else allowed), (group_id, error)
        assert POISON not in lookup.found
        assert POISON not in lookup.missing

    async def get(self, client: GroupClient) -> None:
        group_id = self.ids()[0]
        self.given += 1
        deadline = self.chance.choice([None, None, 0.3, 0.01, 0])
        try:
            self.assert_right(group_id, await client.get(group_id, deadline=deadline, fresh=self.chance.random() < 0.1))
            assert group_id != POISON
        except DeadlineExceeded:
            assert deadline is not None
        except ParameterError:
            assert group_id == POISON

    async def get_many(self, client: GroupClient) -> None:
        group_ids = [*self.ids(), *["a b"] * self.chance.randrange(2)]
        self.given += len(set(group_ids))
        deadline = self.chance.choice([None, None, 0.5, 0.02, 1e-6, -1])
        lookup = await client.get_many(
            (each for each in group_ids),
            deadline=deadline,
            bulk=self.chance.random() < 0.5,
            fresh=self.chance.random() < 0.1,
        )
        self.assert_whole(lookup, group_ids, InvalidGroupId, *([] if deadline is None else [DeadlineExceeded]))

    async def stream(self, client: GroupClient) -> None:
        group_ids = list(dict.fromkeys(self.ids()))
        self.given += len(group_ids)
        until = self.chance.choice([None, None, 1, 3])
        whole = Lookup()
        async with client.stream(group_ids, bulk=self.chance.random() < 0.7) as parts:
            number = 0
            async for part in parts:
                assert 0 < len(part) <= 50
                assert not {*whole.found, *whole.missing, *whole.failed} & {*part.found, *part.missing, *part.failed}
                whole.found.update(part.found)
                whole.missing.extend(part.missing)
                whole.failed.update(part.failed)
                number += 1
                if number == until:
                    break
        seen = [*whole.found, *whole.missing, *whole.failed]
        self.assert_whole(whole, seen if until else group_ids)

    async def invalidate(self, client: GroupClient) -> None:
        try:
            cache = client.cache
        except ValueError:
            return
        cache.invalidate(*self.ids()[:50])
        if self.chance.random() < 0.1:
            cache.clear()

    async def call(self, client: GroupClient) -> None:
        self.calls += 1
        action: Callable[[GroupClient], Coroutine[Any, Any, None]] = self.chance.choices(
            [self.get, self.get_many, self.stream, self.invalidate], [4, 3, 2, 1]
        )[0]
        patience = self.chance.choice([None, None, None, 0.05, 0.005])
        with anyio.move_on_after(patience) as scope:
            try:
                await action(client)
            except ClientClosed:
                assert closing(client)
        self.cancelled += scope.cancelled_caught

    async def one_client(self, ends: float) -> None:
        """A client with callers that come and go, until it is closed beneath some of them."""
        clock = asyncio.get_running_loop().time
        while clock() < ends:
            client = await self.client().open()
            closes = min(ends, clock() + self.chance.choice([0.2, 1.0, 3.0]))
            calls: set[asyncio.Task[None]] = set()
            while clock() < closes:
                calls = {each for each in calls if not each.done() or each.result()}
                if len(calls) < 12:
                    calls.add(asyncio.create_task(self.call(client)))
                await asyncio.sleep(self.chance.random() * 0.02)
            if self.chance.random() < 0.5 and calls:
                await asyncio.wait(calls)
                assert client.stats().waiting == client.stats().in_flight == 0
            await client.aclose()
            await asyncio.gather(*calls)


def closing(client: GroupClient) -> bool:
    try:
        client.stream([])
    except ClientClosed:
        return True
    return False


class Left:
    """Descriptors and tasks that are there now and were not before."""

    def __init__(self) -> None:
        self.descriptors = descriptors()
        self.tasks = asyncio.all_tasks()

    async def assert_none(self) -> None:
        found = self.found()
        for _ in range(200):  # the emulator closes its side of each connection a little later
            if not found:
                break
            await asyncio.sleep(0.02)
            found = self.found()
        assert found == []

    def found(self) -> list[str]:
        tasks = [repr(task) for task in asyncio.all_tasks() - self.tasks]
        opened = descriptors()
        return tasks + [f"{each}: {opened[each]}" for each in opened if len(opened) > len(self.descriptors)]


def descriptors() -> dict[str, str]:
    held = Path("/proc/self/fd")
    opened = {}
    for each in held.iterdir() if held.is_dir() else ():
        with suppress(OSError):
            opened[each.name] = str(each.readlink())
    return opened


async def drive(seed: int) -> None:
    share = dict.fromkeys([*ONE_REQUEST, *WHOLE_CONNECTION, *HARMLESS], SHARE)
    faults = Faults(share=share, seed=seed, piece_pause=0.001, poison=[POISON])
    service = GatewayService(limit=None, latency=0.005, latency_tail=0.005, faults=faults, seed=seed)
    async with AsyncExitStack() as stack:
        emulators = [await stack.enter_async_context(Emulator(service, tls=tls)) for tls in (True, True, False)]
        driver = Driver(emulators, seed)
        async with driver.client() as client:
            await client.get_many(driver.ids())  # the loop opens some at first use, which is no leak
        left = Left()
        ends = asyncio.get_running_loop().time() + SECONDS
        await asyncio.gather(*(driver.one_client(ends) for _ in range(2)))
        lost = service.codes[1002] + sum(count for fault, count in service.played.items() if fault in STATUSES)
        lost += sum(count for fault, count in faults.played.items() if fault in {*ONE_REQUEST, "half-closed"})
        lost += IN_FLIGHT * sum(count for fault, count in faults.played.items() if fault in WHOLE_CONNECTION)
        assert driver.calls >= 20  # however slow the machine is, they were not idle
        assert sum(each.report().ids_asked for each in emulators) <= driver.given + 50 * lost
        await left.assert_none()


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_each_id_ends_once_and_rightly_whatever_happens_beside_it(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rongcloud_groups.emulator.connection.Http1Protocol", GatewayProtocol)
    monkeypatch.setattr(GatewayProtocol, "chance", random.Random(SEED))
    print(f"RONGCLOUD_MODEL_SEED={SEED}")  # noqa: T201  pytest shows it where the test fails
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(drive(SEED))
    gc.collect()

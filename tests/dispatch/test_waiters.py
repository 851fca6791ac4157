import asyncio
import gc
from asyncio.tasks import _PyTask as PyTask  # type: ignore[attr-defined]  # asyncio where it has no C code
from collections.abc import Callable, Generator
from contextvars import ContextVar
from types import coroutine
from typing import Any

import httpx
import pytest
from support.virtual_time import settle

from rongcloud_groups import GroupClient, GroupProfile, RongCloudError
from rongcloud_groups._dispatch.pending import PendingQueue
from rongcloud_groups._dispatch.waiters import GetWaiter, WakeUps, settle_gets

Start = Callable[[Any], "asyncio.Task[Any]"]


@coroutine
def outcome_of(waiter: GetWaiter) -> Generator[GetWaiter, None, GroupProfile | None]:
    yield waiter
    return waiter.result()


def with_c_code(wait: Any) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(wait)


def without_c_code(wait: Any) -> "asyncio.Task[Any]":
    return PyTask(wait, loop=asyncio.get_running_loop())  # type: ignore[no-any-return]


async def waiting(count: int, start: Start = with_c_code) -> tuple[PendingQueue, list[GetWaiter], list[Any]]:
    """Tasks that wait for an ID each."""
    pending, wake_ups = PendingQueue(50), WakeUps()
    waiters = [GetWaiter(wake_ups) for _ in range(count)]

    async def call(waiter: GetWaiter) -> GroupProfile | None:
        return await outcome_of(waiter)

    tasks = [start(call(waiter)) for waiter in waiters]
    for number, waiter in enumerate(waiters):
        pending.add(f"g{number}", waiter)
    await settle()
    return pending, waiters, tasks


def answer(pending: PendingQueue) -> None:
    batch = pending.take(lambda _: None)
    assert batch is not None
    pending.settle_batch(batch, {each: GroupProfile(group_id=each) for each in batch.group_ids if each != "g1"})


async def test_the_gets_of_a_batch_are_resumed_in_one_call_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    pending, _, tasks = await waiting(50)
    loop = asyncio.get_running_loop()
    calls: list[object] = []
    monkeypatch.setattr(loop, "call_soon", lambda callback, **_: calls.append(callback))
    answer(pending)
    monkeypatch.undo()
    assert len(calls) == 1
    loop.call_soon(calls[0])  # type: ignore[arg-type]
    profiles = await asyncio.gather(*tasks)
    assert [profile and profile.group_id for profile in profiles[:3]] == ["g0", None, "g2"]


@pytest.mark.parametrize("start", [with_c_code, without_c_code])
async def test_each_get_ends_in_its_outcome_its_error_or_its_cancellation(start: Start) -> None:
    pending, waiters, tasks = await waiting(5, start)
    pending.leave(waiters[3], ["g3"])
    waiters[3].abort(RongCloudError("it took too long"))
    tasks[4].cancel("no longer wanted")
    answer(pending)
    tasks[2].cancel()
    profile, missing, *rest = await asyncio.gather(*tasks, return_exceptions=True)
    assert (profile, missing) == (GroupProfile(group_id="g0"), None)
    assert [type(each) for each in rest] == [asyncio.CancelledError, RongCloudError, asyncio.CancelledError]
    assert str(rest[1]) == "it took too long"


def test_a_task_that_ends_the_process_leaves_no_other_behind() -> None:
    """The loop ends in the middle of a batch; where it runs again, so do the others."""
    loop = asyncio.new_event_loop()
    wake_ups = WakeUps()
    waiters = [GetWaiter(wake_ups) for _ in range(3)]

    async def call(waiter: GetWaiter) -> GroupProfile | None:
        profile = await outcome_of(waiter)
        if waiter is waiters[1]:
            raise KeyboardInterrupt
        return profile

    async def start() -> list["asyncio.Task[GroupProfile | None]"]:
        tasks = [asyncio.create_task(call(waiter)) for waiter in waiters]
        await settle()
        return tasks

    async def end() -> None:
        settle_gets(waiters, [GroupProfile(group_id=f"g{number}") for number in range(3)], "a-request")
        await settle()

    tasks = loop.run_until_complete(start())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(end())
    assert [task.done() for task in tasks] == [True, True, False]
    assert loop.run_until_complete(tasks[2]) == GroupProfile(group_id="g2")
    with pytest.raises(KeyboardInterrupt):
        tasks[1].result()
    loop.run_until_complete(settle())  # the rest of end()
    loop.close()


async def test_each_task_is_resumed_in_its_own_context() -> None:
    number: ContextVar[int] = ContextVar("number")
    pending, wake_ups = PendingQueue(50), WakeUps()

    async def call(own: int) -> tuple[int, int]:
        number.set(own)
        waiter = GetWaiter(wake_ups)
        pending.add(f"g{own}", waiter)
        await outcome_of(waiter)
        return own, number.get()

    tasks = [asyncio.create_task(call(own)) for own in range(9)]
    await settle()
    answer(pending)
    assert all(own == seen for own, seen in await asyncio.gather(*tasks))


async def test_an_error_leaves_no_cycle_to_the_garbage_collector() -> None:
    pending, waiters, tasks = await waiting(1)
    waiters.clear()
    gc.collect()
    gc.disable()
    try:
        pending.abort(RongCloudError("no"))
        await asyncio.wait(tasks)
        assert isinstance(tasks.pop().exception(), RongCloudError)
        assert not [each for each in gc.get_objects() if isinstance(each, GetWaiter)]
    finally:
        gc.enable()


def test_the_end_of_asyncio_run_cancels_a_get_that_is_open() -> None:
    async def main() -> asyncio.Task[GroupProfile | None]:
        sent = asyncio.Event()

        async def hang(_: httpx.Request) -> httpx.Response:
            sent.set()
            await asyncio.Event().wait()
            raise AssertionError

        client = await GroupClient("key", "secret", transport=httpx.MockTransport(hang)).open()
        task = asyncio.create_task(client.get("g1"))
        await sent.wait()
        return task

    assert asyncio.run(main()).cancelled()

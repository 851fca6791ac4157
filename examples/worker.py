"""A worker of a fleet: jobs come over Redis, and all workers on all hosts share one App Key's budget in it.

    export REDIS_URL=redis://127.0.0.1:6379/0 RONGCLOUD_LIMITER='redis://127.0.0.1:6379/0?share=0.25'
    taskiq worker worker:broker --app-dir examples          # on as many hosts as you like
    python examples/worker.py g1 g2 g3                      # a job

``share`` is the part of the budget that each process may use while Redis is away. The credentials come from the
environment as well; see the README.
"""

import asyncio
import logging
import os
import sys
from typing import Annotated

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq.middlewares import SimpleRetryMiddleware
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from rongcloud_groups import GroupClient, InvalidGroupId

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

broker = (
    RedisStreamBroker(REDIS_URL, socket_timeout=None)  # a worker waits for jobs, and could not be stopped with one
    .with_result_backend(RedisAsyncResultBackend[dict[str, str | None]](REDIS_URL, result_ex_time=3600))
    .with_middlewares(SimpleRetryMiddleware(default_retry_count=3))
)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_client(state: TaskiqState) -> None:
    """Open one client for all jobs of this process."""
    state.groups = await GroupClient.from_env().__aenter__()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_client(state: TaskiqState) -> None:
    """Close it."""
    await state.groups.aclose()


def client_of(context: Annotated[Context, TaskiqDepends()]) -> GroupClient:
    """The client that the worker opened."""
    client: GroupClient = context.state.groups
    return client


@broker.task("group_names", retry_on_error=True)
async def group_names(
    group_ids: list[str],
    groups: GroupClient = TaskiqDepends(client_of),  # noqa: B008  so taskiq marks what the sender does not give
) -> dict[str, str | None]:
    """The name of each group that there is; if any of the IDs failed, the job is tried again."""
    lookup = await groups.get_many(group_ids, deadline=30.0, bulk=True)
    for error in lookup.failed.values():
        if not isinstance(error, InvalidGroupId):  # no retry changes that
            raise error
    return {group_id: profile.group_name for group_id, profile in lookup.found.items()}


async def main(group_ids: list[str]) -> dict[str, str | None]:
    """Send one job, and return its result or raise what ended it."""
    await broker.startup()
    try:
        job = await group_names.kiq(group_ids)
        result = await job.wait_result(timeout=60)
    finally:
        await broker.shutdown()
    return result.raise_for_error().return_value


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("usage: worker.py GROUP_ID...", file=sys.stderr)
        sys.exit(2)
    logging.getLogger("taskiq.task").setLevel(logging.ERROR)  # it warns that a failed job's value, None, is no dict
    print(asyncio.run(main(sys.argv[1:])))

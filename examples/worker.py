"""A worker that takes jobs from a queue: ``python examples/worker.py``.

Several such processes share one App Key: give each its share of the budget in ``RONGCLOUD_RATE``. The queue here
stands for whichever brings the jobs. The credentials come from the environment; see the README.
"""

import asyncio

from rongcloud_groups import GroupClient, InvalidGroupId

Jobs = asyncio.Queue[list[str]]


async def work(client: GroupClient, jobs: Jobs) -> None:
    """Do one job after another; IDs that failed come back as a job, but for those that no request can ask for."""
    while True:
        group_ids = await jobs.get()
        lookup = await client.get_many(group_ids, deadline=10.0, bulk=True)
        for group_id, profile in lookup.found.items():
            print(f"{group_id}: {profile.group_name}, {profile.member_count} members")
        again = [group_id for group_id, error in lookup.failed.items() if not isinstance(error, InvalidGroupId)]
        if again:
            jobs.put_nowait(again)
        jobs.task_done()


async def main() -> None:
    """Do three jobs with two workers; what they ask for travels in the same requests."""
    jobs: Jobs = asyncio.Queue()
    for first in (0, 20, 40):
        jobs.put_nowait([f"g{number}" for number in range(first, first + 20)])
    async with GroupClient.from_env() as client, asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(work(client, jobs)) for _ in range(2)]
        await jobs.join()
        for worker in workers:
            worker.cancel()


if __name__ == "__main__":
    asyncio.run(main())

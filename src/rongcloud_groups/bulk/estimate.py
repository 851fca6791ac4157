"""The cost of a job, and whether the credentials are accepted, before anything is written."""

from math import ceil

from msgspec import Struct

from rongcloud_groups._dispatch.waiters import checked
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups.bulk.input import JobInput
from rongcloud_groups.bulk.lists import MissingIds
from rongcloud_groups.bulk.sources.interface import Source
from rongcloud_groups.client import GroupClient


class Estimate(Struct, frozen=True):
    """The cost of a job, without retries; the number of records is None where only the listing knows it."""

    records: int | None
    duplicates: int
    invalid: int
    requests: int
    seconds: float
    credentials: str


async def estimate(client: GroupClient, source: Source) -> Estimate:
    """Read the whole source, and try the credentials with one request."""
    if source.asks_service:
        source.noted = MissingIds()
        async for _ in source.records():
            break
        return Estimate(None, 0, 0, 0, 0.0, "credentials accepted")
    records = distinct = invalid = 0
    sample: str | None = None
    async for block in JobInput(source, allow_empty=True).blocks(done=0, digest=""):
        records += block.records
        distinct += len(block.group_ids)
        valid = [group_id for group_id, error in checked(list(block.group_ids), None).items() if error is None]
        invalid += len(block.group_ids) - len(valid)
        sample = sample or next(iter(valid), None)
    requests = ceil((distinct - invalid) / BATCH_LIMIT)
    if sample is not None:
        await client.get(sample)
    credentials = "credentials not tried: there is no valid ID" if sample is None else "credentials accepted"
    return Estimate(records, records - distinct, invalid, requests, requests / client.stats().rate, credentials)

"""The cost of a job, and whether the credentials are accepted, before anything is written."""

from math import ceil

from msgspec import Struct

from rongcloud_groups._dispatch.waiters import checked
from rongcloud_groups._protocol.requests import BATCH_LIMIT
from rongcloud_groups.bulk.failed_ids import MissingIds
from rongcloud_groups.bulk.seen_ids import SeenIds
from rongcloud_groups.bulk.sources.interface import Source
from rongcloud_groups.client import GroupClient


class Estimate(Struct, frozen=True):
    """The cost of a job.

    Attributes:
        records: IDs in the input; None where only its end shows that.
        duplicates: how many of them occur before.
        invalid: distinct IDs that no request would carry.
        requests: requests, without retries.
        seconds: for these, at the rate of the client.
        credentials: whether they were accepted.
    """

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
    with SeenIds() as seen:
        async for ids in source.records():
            records += len(ids)
            new = seen.add(ids)
            distinct += len(new)
            valid = [group_id for group_id, error in checked(list(new), None).items() if error is None]
            invalid += len(new) - len(valid)
            sample = sample or next(iter(valid), None)
    requests = ceil((distinct - invalid) / BATCH_LIMIT)
    credentials = "credentials not tried: there is no valid ID"
    if sample is not None:
        await client.get(sample)
        credentials = "credentials accepted"
    return Estimate(records, records - distinct, invalid, requests, requests / client.stats().rate, credentials)

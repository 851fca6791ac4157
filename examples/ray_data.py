"""Look up a column of group IDs with Ray Data: four actors, one budget in Redis.

    export RONGCLOUD_LIMITER='redis://127.0.0.1:6379/0?share=0.25'    # and the credentials, see the README
    python examples/ray_data.py IDS.parquet PROFILES

Ray replaces an actor that dies and repeats the block that it had; the budget holds across all of them.
"""

import sys
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import ray  # type: ignore[import-not-found,unused-ignore]  # not among the packages of `dev`: it is large

from rongcloud_groups.blocking import shared


class LookUp:
    """An actor; its process has one client."""

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """The profiles of the groups that the service has, as rows."""
        return pa.table(shared().get_many(batch["group_id"].tolist(), bulk=True))


if __name__ == "__main__":
    ids = ray.data.read_parquet(sys.argv[1]).repartition(target_num_rows_per_block=1000)
    actors = ray.data.ActorPoolStrategy(size=4)
    ids.map_batches(LookUp, batch_size=1000, compute=actors, num_cpus=0.25).write_parquet(sys.argv[2])

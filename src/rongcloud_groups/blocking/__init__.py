"""The client for code that does not await: scripts, notebooks, Django, Celery, Airflow, Ray.

`BlockingGroupClient` runs a `GroupClient` in an event loop of its own thread. Any number of threads may share one:
their lookups share batches and the budget.
"""

from rongcloud_groups.blocking.client import BlockingGroupClient, shared
from rongcloud_groups.blocking.stream import BlockingStream

__all__ = ["BlockingGroupClient", "BlockingStream", "shared"]

"""Group profiles as a dlt source, for any of dlt's destinations; needs the extra ``dlt``.

::

    import dlt
    from rongcloud_groups.dlt import all_groups

    pipeline = dlt.pipeline("groups", destination="duckdb", dataset_name="rongcloud")
    pipeline.run(all_groups())

Rows are Arrow tables with the columns of ``rongcloud-groups sync``, merged by ``group_id``. A group that the service no
longer has is deleted. An ID that failed is a row of the table ``groups_failed``, with the reason. Credentials and the
budget come from the environment, as for `GroupClient.from_env`, or from options.

To load very many groups in steps, each of which is kept if a later one is killed, run a limited part until nothing is
left: ``while pipeline.run(all_groups().add_limit(max_time=60)).load_packages: pass``.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from rongcloud_groups._validation import extra_needed
from rongcloud_groups.blocking import BlockingGroupClient
from rongcloud_groups.client import GroupClient
from rongcloud_groups.lookup import Lookup

try:
    import dlt
    import pyarrow as pa  # type: ignore[import-untyped]
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(extra_needed("rongcloud_groups.dlt", "dlt"), name=missing.name) from None

from rongcloud_groups._tables.arrow import SCHEMA, profiles_table

__all__ = ["all_groups", "groups"]

ROWS_IN_A_TABLE: Final = 5000
# dlt's destinations have time stamps to the microsecond, and warn about milliseconds.
_STAMP: Final = pa.timestamp("us", "UTC")
_COLUMNS: Final = pa.schema(
    [field.with_type(_STAMP) if pa.types.is_timestamp(field.type) else field for field in SCHEMA]
)
_GONE: Final = pa.field("gone", pa.bool_())
_FAILED_TABLE: Final = "groups_failed"
_RESOURCE: Final[dict[str, Any]] = {
    "name": "groups",
    "primary_key": "group_id",
    "write_disposition": "merge",
    "columns": {"gone": {"data_type": "bool", "hard_delete": True}},
}


@dlt.resource(**_RESOURCE)
async def groups(group_ids: Iterable[str] | AsyncIterable[str], **options: Any) -> AsyncIterator[Any]:
    """The profiles of given groups.

    Args:
        group_ids: their IDs, any number of them.
        **options: as for `GroupClient`; they take precedence over the environment.
    """
    async with GroupClient.from_env(**options) as client, client.stream(group_ids) as parts:
        tables: list[pa.Table] = []
        async for part in parts:
            tables.append(_table(part))
            for item in _failed(part):
                yield item
            if sum(map(len, tables)) >= ROWS_IN_A_TABLE:
                yield pa.concat_tables(tables)
                tables = []
        if tables:
            yield pa.concat_tables(tables)


@dlt.resource(**_RESOURCE)
def all_groups(**options: Any) -> Iterator[Any]:
    """The profiles of all groups of the app, oldest first; a later run loads the groups created since.

    The state is the listing's page token and, once the end was reached, the latest creation time and its groups. It is
    saved with the rows of its page, so a load that is killed resumes after the last page that was loaded.

    Args:
        **options: as for `GroupClient`; they take precedence over the environment.
    """
    state = dlt.current.resource_state()
    newest = None if "newest" not in state else datetime.fromisoformat(state["newest"])
    known = set(state.get("newest_ids", ()))  # the groups of that very millisecond, which `since` includes
    # Of an asynchronous resource, dlt may take items ahead of a limit: the state would be that of rows it leaves out.
    with BlockingGroupClient.from_env(**options) as client:
        for page in client.list_profiles(after=state.get("after"), since=newest):
            lookup = _without(page.lookup, known)
            yield from _failed(lookup)
            # dlt saves the state with the item that is yielded after it was set.
            if page.next_page_token is not None:
                state["after"] = page.next_page_token
            elif created := [profile.create_time for profile in lookup.found.values() if profile.create_time]:
                newest = max(created)
                ids = [profile.group_id for profile in page.lookup.found.values() if profile.create_time == newest]
                state.update(newest=newest.isoformat(), newest_ids=ids)
            if lookup.found or lookup.missing:
                yield _table(lookup)


def _without(lookup: Lookup, group_ids: set[str]) -> Lookup:
    found = {group_id: profile for group_id, profile in lookup.found.items() if group_id not in group_ids}
    return Lookup(found, lookup.missing, lookup.failed)


def _table(lookup: Lookup) -> pa.Table:
    """The found profiles, and the missing IDs as rows to delete."""
    found = (
        profiles_table(lookup.found.values())
        .cast(_COLUMNS)
        .append_column(_GONE, pa.nulls(len(lookup.found), pa.bool_()))
    )
    missing = {field.name: pa.nulls(len(lookup.missing), field.type) for field in _COLUMNS}
    missing |= {"group_id": pa.array(lookup.missing, pa.string()), "gone": pa.array([True] * len(lookup.missing))}
    return pa.concat_tables([found, pa.table(missing, schema=found.schema)])


def _failed(lookup: Lookup) -> list[Any]:
    rows = [
        {"group_id": group_id, "error": type(error).__name__, "message": str(error)}
        for group_id, error in lookup.failed.items()
    ]
    return [dlt.mark.with_table_name(rows, _FAILED_TABLE)] if rows else []

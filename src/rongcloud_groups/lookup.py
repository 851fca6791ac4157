"""The outcomes of a lookup of many IDs."""

from copy import copy

import msgspec

from rongcloud_groups._validation import extra_needed
from rongcloud_groups.errors import ConfigError, RongCloudError
from rongcloud_groups.models import GroupProfile

Outcome = GroupProfile | RongCloudError | None
"""The outcome of one ID: its profile, the error, or None if the service has no such group."""


class Lookup(msgspec.Struct, eq=False):
    """Every ID of a lookup, in exactly one of three places.

    Attributes:
        found: the profiles by group ID, in the order in which the IDs were first given.
        missing: the IDs that the service has no group for: it left them out of its response.
        failed: the errors by group ID. An invalid ID that is not a str is its own key, or its ``repr`` if it
            cannot be a key.
        request_ids: the ``X-Request-ID`` of each request that served it, which the service's support asks for. Lookups
            with the same outcomes are equal, whichever requests served them.
    """

    found: dict[str, GroupProfile] = msgspec.field(default_factory=dict)
    missing: list[str] = msgspec.field(default_factory=list)
    failed: dict[str, RongCloudError] = msgspec.field(default_factory=dict)
    request_ids: list[str] = msgspec.field(default_factory=list)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Lookup):
            return NotImplemented
        return (self.found, self.missing, self.failed) == (other.found, other.missing, other.failed)

    __hash__ = None  # type: ignore[assignment]  # it can change

    def __len__(self) -> int:
        """The number of distinct IDs."""
        return len(self.found) + len(self.missing) + len(self.failed)

    def raise_for_failures(self) -> None:
        """Raise an ExceptionGroup of the failures; do nothing if there are none.

        Raises:
            ExceptionGroup: one `RongCloudError` for each failed ID, with the ID as its note.
        """
        if not self.failed:
            return
        errors = []
        for group_id, error in self.failed.items():
            each = copy(error)
            each.add_note(f"group ID {group_id!r}")
            errors.append(each)
        raise ExceptionGroup(f"{len(errors)} of {len(self)} group IDs failed", errors)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The found profiles as an Arrow stream, with the columns of ``sync``'s Parquet files.

        So ``polars.DataFrame(lookup)``, ``pyarrow.table(lookup)`` and ``duckdb.sql("from lookup")`` are tables.

        Raises:
            ConfigError: the extra ``arrow`` is missing.
        """
        try:
            from rongcloud_groups._tables.arrow import profiles_table
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "pyarrow":
                raise
            raise ConfigError(extra_needed("a lookup as a table", "arrow")) from None
        return profiles_table(self.found.values()).__arrow_c_stream__(requested_schema)


def lookup_of(outcomes: dict[str, Outcome], request_ids: list[str]) -> Lookup:
    """The lookup with these outcomes, in their order. The dict and the list are the lookup's from now on."""
    if set(map(type, outcomes.values())) <= {GroupProfile}:
        return Lookup(outcomes, request_ids=request_ids)  # type: ignore[arg-type]  # all are found
    lookup = Lookup(request_ids=request_ids)
    for group_id, outcome in outcomes.items():
        if outcome is None:
            lookup.missing.append(group_id)
        elif isinstance(outcome, RongCloudError):
            lookup.failed[group_id] = outcome
        else:
            lookup.found[group_id] = outcome
    return lookup

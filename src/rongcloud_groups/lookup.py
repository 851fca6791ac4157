"""What a lookup of many IDs ends in."""

from copy import copy
from typing import TypeVar

import msgspec

from rongcloud_groups.errors import RongCloudError
from rongcloud_groups.models import GroupProfile

E = TypeVar("E", bound=RongCloudError)

Outcome = GroupProfile | RongCloudError | None
"""What became of one ID: its profile, why it failed, or None where the service has no such group."""


class Lookup(msgspec.Struct):
    """Every ID that was asked for, in exactly one of three places.

    Attributes:
        found: the profiles by group ID, in the order in which the IDs were first given.
        missing: the IDs that the service answered and left out: it has no such group.
        failed: why there is no answer, by group ID. An invalid ID that is
            not even a str is its own key, or its ``repr`` where it cannot be a key.
    """

    found: dict[str, GroupProfile] = msgspec.field(default_factory=dict)
    missing: list[str] = msgspec.field(default_factory=list)
    failed: dict[str, RongCloudError] = msgspec.field(default_factory=dict)

    def __len__(self) -> int:
        """How many distinct IDs were asked for."""
        return len(self.found) + len(self.missing) + len(self.failed)

    def raise_for_failures(self) -> None:
        """Raise an ExceptionGroup of the failures; do nothing where there are none.

        Raises:
            ExceptionGroup: one `RongCloudError` for each failed ID, with the ID as its note.
        """
        if not self.failed:
            return
        errors = []
        for group_id, error in self.failed.items():
            each = copy_error(error)
            each.add_note(f"group ID {group_id!r}")
            errors.append(each)
        raise ExceptionGroup(f"{len(errors)} of {len(self)} group IDs failed", errors)

    def record(self, group_id: str, outcome: Outcome) -> None:
        """Note what became of one ID."""
        if outcome is None:
            self.missing.append(group_id)
        elif isinstance(outcome, RongCloudError):
            self.failed[group_id] = outcome
        else:
            self.found[group_id] = outcome


def copy_error(error: E) -> E:
    """A copy with a traceback and notes of its own, for one more caller."""
    twin = copy(error)
    if notes := getattr(error, "__notes__", None):
        twin.__notes__ = list(notes)
    if error.__cause__ is not None:
        twin.__cause__ = error.__cause__
    return twin

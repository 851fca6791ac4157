"""Tells a service that is down from single IDs that fail."""

from typing import Any, Final

from rongcloud_groups._protocol.error_codes import RETRIED, action_for
from rongcloud_groups.bulk.errors import ServiceUnavailable
from rongcloud_groups.bulk.input import Block
from rongcloud_groups.errors import InvalidGroupId, RongCloudError

OUTAGE_THRESHOLD: Final = 1000
"""Consecutive unanswered IDs after which the service counts as down."""

MAX_HELD_BACK: Final = 3000
"""IDs that are held back at most while some of them are unanswered."""


class OutageDetector:
    """Holds blocks with unanswered IDs back until a whole block is answered: the service may be down."""

    def __init__(self) -> None:
        self._held_back: list[Block] = []
        self._unanswered_in_a_row = 0
        self._any_answered = False

    def feed(self, block: Block) -> list[Block]:
        """Take the next settled block; return those that can be written, or raise `ServiceUnavailable`."""
        errors = [each for each in block.outcomes.values() if isinstance(each, RongCloudError)]
        unanswered = sum(map(_is_unanswered, errors))
        invalid = sum(isinstance(each, InvalidGroupId) for each in errors)
        some_answered = unanswered + invalid < len(block.group_ids)
        self._any_answered |= some_answered
        self._unanswered_in_a_row = 0 if some_answered else self._unanswered_in_a_row + unanswered
        if not unanswered and (some_answered or not self._held_back):
            return [*self._take_all(), block]
        self._held_back.append(block)
        if self._unanswered_in_a_row >= OUTAGE_THRESHOLD:
            raise ServiceUnavailable(f"the service no longer responds: {_reason([block])}")
        released = []
        while sum(len(each.group_ids) for each in self._held_back) > MAX_HELD_BACK:
            released.append(self._held_back.pop(0))
        return released

    def finish(self, *, any_answered: bool) -> list[Block]:
        """Return the blocks that are held back, or raise `ServiceUnavailable` if no ID of the input was answered."""
        blocks = self._take_all()
        reason = _reason(blocks)
        if reason is not None and not (any_answered or self._any_answered):
            raise ServiceUnavailable(f"the service does not respond: {reason}")
        return blocks

    def _take_all(self) -> list[Block]:
        blocks, self._held_back = self._held_back, []
        return blocks


def _is_unanswered(outcome: Any) -> bool:
    return isinstance(outcome, RongCloudError) and action_for(outcome) in RETRIED


def _reason(blocks: list[Block]) -> Any:
    return next((each for block in blocks for each in block.outcomes.values() if _is_unanswered(each)), None)

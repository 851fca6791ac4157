"""Tells a service that is down from single IDs that fail."""

from collections import deque
from collections.abc import Iterable, Iterator
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
        self._held_back: deque[Block] = deque()
        self._unanswered_in_a_row = 0
        self._any_answered = False

    def feed(self, block: Block) -> Iterator[Block]:
        """Take the next settled block; give back those that can be written, or raise `ServiceUnavailable`."""
        errors = [each for each in block.outcomes.values() if isinstance(each, RongCloudError)]
        unanswered = sum(map(_is_unanswered, errors))
        invalid = sum(isinstance(each, InvalidGroupId) for each in errors)
        some_answered = unanswered + invalid < len(block.group_ids)
        self._any_answered |= some_answered
        self._unanswered_in_a_row = 0 if some_answered else self._unanswered_in_a_row + unanswered
        if self._unanswered_in_a_row >= OUTAGE_THRESHOLD:
            raise ServiceUnavailable(f"the service no longer responds: {_reason([block])}")
        responds = not unanswered and (some_answered or not self._held_back)
        self._held_back.append(block)
        while self._held_back and (responds or sum(len(each.group_ids) for each in self._held_back) > MAX_HELD_BACK):
            yield self._held_back.popleft()

    def finish(self, *, any_answered: bool) -> Iterable[Block]:
        """Return the blocks that are held back, or raise `ServiceUnavailable` if no ID of the input was answered."""
        reason = _reason(self._held_back)
        if reason is not None and not (any_answered or self._any_answered):
            raise ServiceUnavailable(f"the service does not respond: {reason}")
        return self._held_back


def _is_unanswered(outcome: Any) -> bool:
    return isinstance(outcome, RongCloudError) and action_for(outcome) in RETRIED


def _reason(blocks: Iterable[Block]) -> Any:
    return next((each for block in blocks for each in block.outcomes.values() if _is_unanswered(each)), None)

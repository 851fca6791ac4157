"""Back into the order of the input: outcomes come as they settle, rows leave block by block."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from rongcloud_groups.errors import RongCloudError


class Block:
    """Some records that follow each other in the input.

    Attributes:
        group_ids: the distinct IDs that occur here for the first time.
        records: how many records there are.
        digest: of all records of the input up to the last one here.
        outcomes: by ID, as far as they have settled: a row, an error, or None for a missing group.
    """

    __slots__ = ("digest", "group_ids", "outcomes", "records")

    def __init__(self, group_ids: list[str], records: int, digest: str) -> None:
        self.group_ids = group_ids
        self.records = records
        self.digest = digest
        self.outcomes: dict[str, Any | RongCloudError | None] = {}

    @property
    def settled(self) -> bool:
        """Whether every ID has its outcome."""
        return len(self.outcomes) == len(self.group_ids)

    def in_order(self) -> Iterator[tuple[str, Any | RongCloudError | None]]:
        """The outcomes in the order of the input."""
        return ((group_id, self.outcomes[group_id]) for group_id in self.group_ids)


class InputOrder:
    """The blocks under way."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self._block_of: dict[str, Block] = {}
        self.held = 0
        """IDs whose block has not left."""

    @property
    def open(self) -> int:
        """IDs without an outcome."""
        return len(self._block_of)

    def add(self, block: Block) -> None:
        """One more block is asked for."""
        self._blocks.append(block)
        self._block_of.update(dict.fromkeys(block.group_ids, block))
        self.held += len(block.group_ids)

    def settle(self, group_id: str, outcome: Any | RongCloudError | None) -> None:
        """An ID has its outcome."""
        self._block_of.pop(group_id).outcomes[group_id] = outcome

    def settled_blocks(self) -> Iterator[Block]:
        """The first blocks, as far as they are settled; they leave."""
        while self._blocks and self._blocks[0].settled:
            block = self._blocks.popleft()
            self.held -= len(block.group_ids)
            yield block

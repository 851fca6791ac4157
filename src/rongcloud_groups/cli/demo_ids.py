"""The group IDs that the demo looks up."""

import random
from collections.abc import Iterator
from typing import Final

LINES: Final = 20_000
DISTINCT: Final = 19_500
"""Different IDs among the lines, the invalid ones included; the other lines are duplicates."""

INVALID: Final = (
    "chess,tea",
    "chess and tea",
    "chess\ttea",
    "chess\N{ZERO WIDTH SPACE}tea",
    f"{'a-very-long-name-':*<65}",
    "g1001,g1002,g1003",
)
"""What no request may ask for: commas, spaces, an invisible character, 65 characters."""


def demo_ids() -> list[str]:
    """All the lines, in an order that is the same each time."""
    shuffle = random.Random(20)
    valid = list(_valid_ids(DISTINCT - len(INVALID)))
    lines = [*valid, *INVALID, *shuffle.choices(valid, k=LINES - DISTINCT)]
    shuffle.shuffle(lines)
    return lines


def _valid_ids(count: int) -> Iterator[str]:
    for number in range(count):
        match number % 10:
            case 0:
                yield f"项目组-{number}"
            case 1:
                yield f"team_{number:x}"
            case _:
                yield f"g{100_000 + number}"

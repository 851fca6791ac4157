"""What pytest loads at its start: the fixture's name, and nothing of the library.

It stands beside the package because importing anything inside imports the package itself, for a quarter of a second
in each run and before coverage is measured. What it gives is described in `rongcloud_groups.pytest_plugin`.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rongcloud_groups.pytest_plugin import InProcessEmulator


@pytest.fixture
def rongcloud_emulator() -> "InProcessEmulator":
    """RongCloud's group service inside the test: add groups, script failures, read what was asked."""
    from rongcloud_groups.pytest_plugin import InProcessEmulator

    return InProcessEmulator()

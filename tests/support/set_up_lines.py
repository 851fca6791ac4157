"""Prints the lines of the pages that set up an environment, as a script.

CI runs it in an unpacked source distribution, where pip finds the wheel.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.pages import Block, all_blocks

CLONE = "README/Try it/indented"
INSTALL = "getting-started/Install/console"
FIRST_STEPS = "getting-started/A service to talk to/console"
PYTEST = ".venv/bin/pytest"


def lines_of(blocks: dict[str, Block]) -> Iterator[str]:
    """The lines of a shell script."""
    demo, tests = blocks[CLONE].commands
    assert tests.endswith(f" && {PYTEST}"), "CI itself installs this and runs the tests"
    yield demo
    yield "mkdir start && cd start"
    yield from blocks[INSTALL].commands
    yield from blocks[FIRST_STEPS].commands
    yield "kill $RONGCLOUD_EMULATOR_PID"
    yield "export PIP_DRY_RUN=1 PIP_NO_DEPS=1"
    for block in blocks.values():
        if block.name not in {CLONE, INSTALL}:
            lines = [line.removeprefix("RUN ") for line in block.commands]
            yield from (line for line in lines if line.startswith("pip install "))


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lines_of(all_blocks()))

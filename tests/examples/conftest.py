from collections.abc import Generator
from typing import Any

import pytest
from support.pages import Block, all_blocks


@pytest.fixture
def blocks(request: pytest.FixtureRequest) -> list[Block]:
    """The blocks of code that the test runs, as its mark names them."""
    there = all_blocks()
    return [there[name] for mark in request.node.iter_markers("runs") for name in mark.args]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> Generator[None, object, object]:
    """A test that passes has read each block that it says it runs."""
    result = yield
    blocks: list[Block] = pyfuncitem.funcargs.get("blocks", [])
    assert [block.name for block in blocks if not block.is_read] == []
    return result

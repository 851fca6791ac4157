"""docs/http2.md names a test for each section, and each test exists."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "http2.md"


def test_every_test_that_the_page_names_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 25
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_every_row_has_a_verdict_and_a_test() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", line)]
    assert len(rows) > 35
    for row in rows:
        assert re.fullmatch(r"\| [\d.].*\| (implemented|refused|tolerated|not needed) \| .+ \| `test_\w+` \|", row), row

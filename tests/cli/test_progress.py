import json
import re

import pytest

from rongcloud_groups.bulk import Counts, Progress
from rongcloud_groups.cli import progress as progress_module
from rongcloud_groups.cli.progress import BarDisplay, JsonDisplay, NoDisplay, PlainDisplay, Speed, display
from rongcloud_groups.cli.sync_options import ProgressStyle, seconds_of


def after(seconds: float, records: int, total: int | None = 100_000, resumed_from: int = 0) -> Progress:
    counts = Counts(records=records, duplicates=1, found=records - 3, missing=1, failed=1)
    done = records - resumed_from
    return Progress(counts, total, resumed_from, seconds, requests=done // 50, rate=100.0)


def test_the_speed_is_that_of_the_last_ten_seconds() -> None:
    speed = Speed()
    for second in range(1, 31):
        speed.add(after(second, second * 1000 if second < 15 else 15_000 + (second - 15) * 5000))
    assert speed.records == 5000
    assert speed.requests == 100
    assert speed.seconds_left(after(30, 90_000)) == 2


def test_what_earlier_runs_did_is_no_speed_of_this_one() -> None:
    speed = Speed()
    speed.add(after(2, 60_000, resumed_from=50_000))
    assert speed.records == 5000


def test_without_a_total_or_a_speed_no_end_is_told() -> None:
    speed = Speed()
    assert speed.seconds_left(after(0, 3)) is None
    speed.add(after(2, 1000, None))
    assert speed.seconds_left(after(2, 1000, None)) is None


def test_a_plain_line_says_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    plain = PlainDisplay()
    plain.show(after(10, 50_000))
    plain.show(after(11, 55_000, None))
    plain.close()
    assert capsys.readouterr().err.splitlines() == [
        "50,000 of 100,000 IDs, 5,000/s, 0:00:10 left, found 49,997, missing 1, failed 1, budget 100% of 100/s",
        "55,000 IDs, 5,000/s, found 54,997, missing 1, failed 1, budget 100% of 100/s",
    ]


def test_a_line_of_json_says_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = JsonDisplay()
    lines.show(after(10, 50_000))
    lines.close()
    assert json.loads(capsys.readouterr().err) == {
        "message_type": "status",
        "records": 50_000,
        "duplicates": 1,
        "found": 49_997,
        "missing": 1,
        "failed": 1,
        "total": 100_000,
        "seconds": 10,
        "seconds_left": 10,
        "records_per_second": 5000,
        "requests": 1000,
        "requests_per_second": 100,
        "rate": 100,
    }


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("total", [None, 10_000_000, 0])
def test_a_bar_fits_the_terminal(
    columns: int, total: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # what rich takes for a terminal
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    bar = BarDisplay()
    bar.show(after(2000, 9_999_999, total))
    bar.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).splitlines()
    assert any("9,999,999" in line for line in lines)
    assert any("budget 100% of 100/s" in line for line in lines)
    assert all(len(line) <= columns for line in lines)


@pytest.mark.parametrize(
    ("style", "terminals", "rows", "term", "kind"),
    [
        ("auto", {"stdout", "stderr"}, False, "xterm", BarDisplay),
        ("auto", {"stderr"}, True, "xterm", BarDisplay),
        ("auto", {"stdout", "stderr"}, True, "xterm", PlainDisplay),
        ("auto", {"stdout"}, False, "xterm", PlainDisplay),
        ("auto", {"stdout", "stderr"}, False, "dumb", PlainDisplay),
        ("plain", {"stderr"}, False, "xterm", PlainDisplay),
        ("json", {"stderr"}, False, "xterm", JsonDisplay),
        ("none", {"stderr"}, False, "xterm", NoDisplay),
    ],
)
def test_there_is_a_bar_only_on_a_terminal_without_rows(
    style: ProgressStyle,
    terminals: set[str],
    rows: bool,  # noqa: FBT001  one of the columns
    term: str,
    kind: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", term)
    for stream in ("stdout", "stderr"):
        stream_object = getattr(progress_module.sys, stream)  # type: ignore[attr-defined]
        monkeypatch.setattr(stream_object, "isatty", lambda stream=stream: stream in terminals)
    shown = display(style, stdout_has_rows=rows)
    shown.close()
    assert type(shown) is kind


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("8h", 28_800)])
def test_a_time_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds

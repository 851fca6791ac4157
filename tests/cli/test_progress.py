import json
import re
import threading

import pytest

from rongcloud_groups.bulk import Counts, Progress
from rongcloud_groups.cli import progress as progress_module
from rongcloud_groups.cli.options import ProgressStyle, SyncOptions
from rongcloud_groups.cli.progress import Display, Speed, display, plain_line, status_line
from rongcloud_groups.cli.progress_bar import BarDisplay


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


def test_records_of_earlier_runs_add_nothing_to_the_speed_of_this_one() -> None:
    speed = Speed()
    speed.add(after(2, 60_000, resumed_from=50_000))
    assert speed.records == 5000


def test_without_a_total_or_a_speed_no_end_is_shown() -> None:
    speed = Speed()
    assert speed.seconds_left(after(0, 3)) is None
    speed.add(after(2, 1000, None))
    assert speed.seconds_left(after(2, 1000, None)) is None


def test_a_plain_line_says_all_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    for progress in (after(10, 50_000), after(10, 50_000, None)):
        shown = Display(30.0, plain_line)
        shown.show(progress)
        shown.close()
    assert capfd.readouterr().err.splitlines() == [
        "50,000 of 100,000 IDs, 5,000/s, 0:00:10 left, found 49,997, missing 1, failed 1, budget 100% of 100/s",
        "50,000 IDs, 5,000/s, found 49,997, missing 1, failed 1, budget 100% of 100/s",
    ]


def test_a_line_of_json_says_all_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    lines = Display(1.0, status_line, in_json=True)
    lines.show(after(10, 50_000))
    lines.close()
    assert json.loads(capfd.readouterr().err) == {
        "message_type": "status",
        "records": 50_000,
        "duplicates": 1,
        "found": 49_997,
        "missing": 1,
        "failed": 1,
        "total": 100_000,
        "scanned": None,
        "seconds": 10,
        "seconds_left": 10,
        "records_per_second": 5000,
        "requests": 1000,
        "requests_per_second": 100,
        "rate": 100,
    }


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("total", [None, 10_000_000, 0])
def test_a_bar_fits_the_terminal(
    columns: int, total: int | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # what rich takes for a terminal
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    bar = BarDisplay(in_json=False)
    bar.show(after(2000, 9_999_999, total))
    bar.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", capfd.readouterr().err).splitlines()
    text = " ".join(" ".join(lines).split())
    assert "9,999,999" in text
    assert "budget 100% of 100/s" in text
    assert "…" not in text
    assert all(len(line) <= columns for line in lines)


class Stuck(Display):
    """A terminal that takes nothing until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.lines: list[str] = []
        super().__init__(1.0)

    def _write(self, line: str) -> None:
        self.released.wait()
        self.lines.append(line)


def test_a_terminal_that_takes_nothing_holds_up_no_job_and_loses_no_message() -> None:
    stuck = Stuck()
    stuck.say("first", {})
    for second in range(1, 100):
        stuck.show(after(second, second * 10))
    stuck.say("last", {})
    stuck.released.set()
    stuck.close()
    assert stuck.lines == ["first", "last"]


@pytest.mark.parametrize(
    ("style", "terminals", "rows", "term", "kind"),
    [
        ("auto", {"stdout", "stderr"}, False, "xterm", BarDisplay),
        ("auto", {"stderr"}, True, "xterm", BarDisplay),
        ("auto", {"stdout", "stderr"}, True, "xterm", plain_line),
        ("auto", {"stdout"}, False, "xterm", plain_line),
        ("auto", {"stdout", "stderr"}, False, "dumb", plain_line),
        ("plain", {"stderr"}, False, "xterm", plain_line),
        ("json", {"stderr"}, False, "xterm", status_line),
        ("none", {"stderr"}, False, "xterm", None),
    ],
)
def test_there_is_a_bar_only_on_a_terminal_without_rows(
    style: ProgressStyle,
    terminals: set[str],
    rows: bool,  # noqa: FBT001  one of the columns
    term: str,
    kind: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", term)
    for stream in ("stdout", "stderr"):
        stream_object = getattr(progress_module.sys, stream)  # type: ignore[attr-defined]
        monkeypatch.setattr(stream_object, "isatty", lambda stream=stream: stream in terminals)
    shown = display(style, stdout_has_rows=rows)
    shown.close()
    assert (type(shown) if isinstance(shown, BarDisplay) else shown.line) is kind


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("8h", 28_800), ("9999999999h", threading.TIMEOUT_MAX)]
)
def test_a_time_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert SyncOptions(max_time=text).max_seconds == seconds

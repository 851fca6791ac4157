"""What a running job shows on stderr: a bar, a line now and then, JSON lines, or nothing."""

import os
import sys
from collections import deque
from typing import Any, Final, Protocol

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rongcloud_groups.bulk.job import Progress
from rongcloud_groups.cli.console import print_json, tell
from rongcloud_groups.cli.sync_options import ProgressStyle

_SECONDS_OF_RATE: Final = 10.0


class Speed:
    """IDs/s, requests/s and what is left, by the last ten seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()
        self.records = 0.0
        self.requests = 0.0

    def add(self, progress: Progress) -> None:
        """Take in how far the job is now."""
        if not self._samples:
            self._samples.append((0.0, progress.resumed_from, 0))
        now = (progress.seconds, progress.counts.records, progress.requests)
        self._samples.append(now)
        while len(self._samples) > 2 and self._samples[0][0] < now[0] - _SECONDS_OF_RATE:  # noqa: PLR2004  a difference needs two
            self._samples.popleft()
        then = self._samples[0]
        seconds = now[0] - then[0]
        self.records = (now[1] - then[1]) / seconds if seconds else 0.0
        self.requests = (now[2] - then[2]) / seconds if seconds else 0.0

    def seconds_left(self, progress: Progress) -> float | None:
        """Seconds until the end, where that can be told."""
        if progress.total is None or not self.records:
            return None
        return (progress.total - progress.counts.records) / self.records


class Display(Protocol):
    """Shows how far a job is.

    Attributes:
        interval: seconds between two calls of `show`.
    """

    interval: float

    def show(self, progress: Progress) -> None:
        """Show it."""
        ...

    def say(self, message: str) -> None:
        """Tell what happens."""
        ...

    def close(self) -> None:
        """The job has ended; leave the terminal as it was."""
        ...


def display(style: ProgressStyle, *, stdout_has_rows: bool, in_json: bool = False) -> Display:
    """The display of that style.

    Args:
        style: ``auto`` is a bar on a terminal that shows no rows, otherwise plain; with ``in_json``, JSON.
        stdout_has_rows: whether rows go to stdout.
        in_json: whether stderr is to be JSON lines.
    """
    if style == "auto" and in_json:
        return JsonDisplay(PlainDisplay.interval)
    if style == "auto":
        rows_on_terminal = stdout_has_rows and sys.stdout.isatty()
        able = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        style = "bar" if able and not rows_on_terminal else "plain"
    kinds: dict[ProgressStyle, type[Display]] = {"bar": BarDisplay, "plain": PlainDisplay, "json": JsonDisplay}
    return kinds.get(style, NoDisplay)()


class NoDisplay:
    """Shows nothing."""

    interval = 3600.0

    def show(self, progress: Progress) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class PlainDisplay:
    """A line every 30 seconds."""

    interval = 30.0

    def __init__(self) -> None:
        self._speed = Speed()

    def show(self, progress: Progress) -> None:
        """Print a line."""
        self._speed.add(progress)
        counts = progress.counts
        parts = [f"{counts.records:,}{_of_total(progress)} IDs", f"{self._speed.records:,.0f}/s"]
        if left := _left(self._speed.seconds_left(progress)):
            parts.append(f"{left} left")
        parts += [f"found {counts.found:,}", f"missing {counts.missing:,}", f"failed {counts.failed:,}"]
        parts.append(f"budget {_budget(self._speed, progress)}")
        tell(", ".join(parts))

    def say(self, message: str) -> None:
        """Print it."""
        tell(message)

    def close(self) -> None:
        """Nothing is open."""


class JsonDisplay:
    """JSON objects with ``"message_type": "status"``.

    Args:
        interval: seconds from one to the next.
    """

    def __init__(self, interval: float = 1.0) -> None:
        self.interval = interval
        self._speed = Speed()

    def show(self, progress: Progress) -> None:
        """Print a line of JSON."""
        self._speed.add(progress)
        left = self._speed.seconds_left(progress)
        status: dict[str, Any] = {
            "message_type": "status",
            **msgspec.structs.asdict(progress.counts),
            "total": progress.total,
            "seconds": round(progress.seconds, 3),
            "seconds_left": None if left is None else round(left, 1),
            "records_per_second": round(self._speed.records, 1),
            "requests": progress.requests,
            "requests_per_second": round(self._speed.requests, 1),
            "rate": progress.rate,
        }
        print_json(status)

    def say(self, message: str) -> None:
        """Print it in an object with ``"message_type": "note"``."""
        print_json({"message_type": "note", "message": message})

    def close(self) -> None:
        """Nothing is open."""


class BarDisplay:
    """Two live lines on a terminal."""

    interval = 0.25

    def __init__(self) -> None:
        self._speed = Speed()
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()

    def show(self, progress: Progress) -> None:
        """Redraw the lines."""
        self._speed.add(progress)
        self._live.update(Group(self._first_line(progress), self._second_line(progress)), refresh=True)

    def say(self, message: str) -> None:
        """Print it above the lines."""
        self._live.console.print(message, highlight=False)

    def close(self) -> None:
        """Wipe the lines."""
        self._live.stop()

    def _first_line(self, progress: Progress) -> Table:
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        for _ in range(3):
            line.add_column(no_wrap=True, justify="right")
        done, total = progress.counts.records, progress.total
        bar = ProgressBar(total=total, completed=done, pulse=total is None)
        percent = "" if not total else f"{done / total:.0%}"
        left = _left(self._speed.seconds_left(progress))
        line.add_row(
            f"{done:,}{_of_total(progress)}",
            bar,
            Text(percent, style="bold"),
            f"{self._speed.records:,.0f} IDs/s",
            f"{left} left" if left else f"{_clock(progress.seconds)} so far",
        )
        return line

    def _second_line(self, progress: Progress) -> Text:
        counts = progress.counts
        failed = Text(f"failed {counts.failed:,}", style="bold red" if counts.failed else "")
        parts = [
            Text(f"found {counts.found:,}", style="green"),
            Text(f"missing {counts.missing:,}"),
            failed,
            Text(f"duplicates {counts.duplicates:,}"),
            Text(f"budget {_budget(self._speed, progress)}"),
        ]
        return Text(" · ", style="dim").join(parts)


def _of_total(progress: Progress) -> str:
    return "" if progress.total is None else f" of {progress.total:,}"


def _budget(speed: Speed, progress: Progress) -> str:
    return f"{speed.requests / progress.rate:.0%} of {progress.rate:.0f}/s"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else _clock(seconds)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"

"""The progress bar of a terminal: one line with the bar, and the counts below it."""

import sys
import time
from typing import IO, Any, Final, cast

from rich.console import Console, Group
from rich.control import Control
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment, Segments
from rich.table import Column, Table
from rich.text import Text

from rongcloud_groups.bulk.report import Progress
from rongcloud_groups.cli.console import write_stderr
from rongcloud_groups.cli.progress import Speed, budget, clock, of_total, reading

_NARROW: Final = 60
"""Columns below which the first line leaves out the total and the speed."""


class _Stderr:
    """stderr for rich: output that cannot be written is dropped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        write_stderr(text)
        return len(text)

    def flush(self) -> None: ...


class Bar:
    interval = 0.25

    def __init__(self) -> None:
        self._console = Console(file=cast("IO[str]", _Stderr()))
        self._drawn: list[list[Segment]] = []

    def show(self, progress: Progress, speed: Speed) -> None:
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        options = self._console.options
        if progress.scanned is not None:
            lines = _lines(reading(progress.scanned), None, 0, "", "", Text())
        else:
            lines = self._progress_lines(progress, speed, narrow=options.max_width < _NARROW)
        self._draw(self._console.render_lines(lines, options, pad=False), options.max_width)

    def write(self, line: str) -> None:
        self._draw(self._drawn, self._console.width, above=line)

    def close(self) -> None:
        self._draw([], self._console.width)

    def _draw(self, lines: list[list[Segment]], width: int, above: str | None = None) -> None:
        """Draw lines in place of those drawn before, which a terminal that became narrower has wrapped."""
        rows = sum(max(1, -(-Segment.get_line_length(line) // width)) for line in self._drawn)
        erase, up = (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)
        with self._console:  # writes all of it at once
            if rows:
                self._console.control(Control(ControlType.CARRIAGE_RETURN, erase, *[up, erase] * (rows - 1)))
            if above is not None:
                self._console.print(above, markup=False, highlight=False, emoji=False, soft_wrap=True)
            segments = [segment for line in lines for segment in (*line, Segment.line())]
            self._console.print(Segments(segments[:-1]), end="", crop=False)
        self._drawn = lines

    def _progress_lines(self, progress: Progress, speed: Speed, *, narrow: bool) -> Group:
        counts, total = progress.counts, progress.total
        left = speed.seconds_left(progress)
        time_left = f"{clock(progress.seconds)} so far" if left is None else f"{clock(left)} left"
        per_second = f"{speed.records:,.0f} IDs/s"
        before = [*([per_second] if narrow else []), f"found {counts.found:,}", f"missing {counts.missing:,}"]
        failed = Text(f"failed {counts.failed:,}", style="bold red" if counts.failed else "")
        after = [f"duplicates {counts.duplicates:,}", f"budget {budget(progress, speed)}"]
        separator = Text(" | " if self._console.options.ascii_only else " · ")
        return _lines(
            f"{counts.records:,}{'' if narrow else of_total(progress)}",
            total,
            counts.records,
            f"{counts.records / total:.0%}" if total else "",
            time_left if narrow else f"{per_second}  {time_left}",
            separator.join([*map(Text, before), failed, *map(Text, after)]),
        )


def _lines(description: str, total: int | None, done: int, percent: str, rate: str, counts: Text) -> Group:
    bar = ProgressBar(
        total,
        done,
        style="bright_black",
        complete_style="cyan",
        finished_style="cyan",
        pulse_style="cyan",
        animation_time=time.monotonic(),
    )
    columns = (Column(no_wrap=True), Column(), Column(no_wrap=True), Column(no_wrap=True))
    line = Table.grid(*columns, padding=(0, 1), expand=True)
    line.add_row(Text(description), bar, Text(percent, "bold"), Text(rate, justify="right"))
    return Group(line, counts)

"""The progress bar of a terminal: one line with the bar, and the counts below it."""

from typing import Final

from rich.console import Console, ConsoleOptions, Group
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from rongcloud_groups.bulk.report import Progress
from rongcloud_groups.cli.console import write_stderr
from rongcloud_groups.cli.progress import Display, Speed, clock, reading

_NARROW: Final = 60
"""Columns below which the first line leaves out the total and the speed."""


class BarDisplay(Display):
    """Draws the bar in place of the previous one, and messages above it."""

    def __init__(self, *, in_json: bool) -> None:
        self._console = Console(stderr=True)
        self._drawn = ""
        super().__init__(0.25, in_json=in_json)

    def _draw(self, progress: Progress) -> None:
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        with self._console.capture() as capture:
            self._console.print(_bar_and_counts(progress, self._speed, self._console.options))
        drawn = capture.get().removesuffix("\n")
        write_stderr(f"{self._erasure()}{drawn}")
        self._drawn = drawn

    def _write(self, line: str) -> None:
        write_stderr(f"{self._erasure()}{line}\n{self._drawn}")

    def _erase(self) -> None:
        write_stderr(self._erasure())
        self._drawn = ""

    def _erasure(self) -> str:
        """The control codes that erase the lines drawn; a terminal that has become narrower has wrapped them."""
        lengths = [Text.from_ansi(line).cell_len for line in self._drawn.split("\n")]
        rows = sum(max(1, -(-length // self._console.width)) for length in lengths)
        return "\r\x1b[2K" + "\x1b[1A\x1b[2K" * (rows - 1) if self._drawn else ""


def _bar_and_counts(progress: Progress, speed: Speed, options: ConsoleOptions) -> Group:
    counts, total, narrow = progress.counts, progress.total, options.max_width < _NARROW
    done = f"{counts.records:,}" if narrow or total is None else f"{counts.records:,} of {total:,}"
    percent = f"{counts.records / total:.0%}" if total else ""
    left, per_second = speed.seconds_left(progress), f"{speed.records:,.0f} IDs/s"
    time_left = f"{clock(progress.seconds)} so far" if left is None else f"{clock(left)} left"
    rate = time_left if narrow else f"{per_second}  {time_left}"
    dot = " | " if options.ascii_only else " · "
    below = Text.assemble(
        f"{per_second}{dot}" if narrow else "",
        f"found {counts.found:,}{dot}missing {counts.missing:,}{dot}",
        (f"failed {counts.failed:,}", "bold red" if counts.failed else ""),
        f"{dot}duplicates {counts.duplicates:,}{dot}budget {speed.of_budget(progress)}",
    )
    if progress.scanned is not None:
        done, total, percent, rate, below = reading(progress.scanned), None, "", "", Text()
    bar = ProgressBar(
        total, counts.records, style="bright_black", complete_style="cyan", finished_style="cyan", pulse_style="cyan"
    )
    columns = (Column(no_wrap=True), Column(), Column(no_wrap=True), Column(no_wrap=True))
    line = Table.grid(*columns, padding=(0, 1), expand=True)
    line.add_row(Text(done), bar, Text(percent, "bold"), Text(rate, justify="right"))
    return Group(line, below)

"""The progress bar of a terminal: one line with the bar, and the counts below it."""

import sys
from collections.abc import Iterable
from typing import IO, Any, Final, cast

from rich import progress as rich_progress
from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.progress import BarColumn, TextColumn
from rich.segment import ControlType, Segment
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


class _Console(Console):
    """Never hides the cursor, so that a process that is stopped or killed leaves it visible."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002  rich's signature
        return False


class Bar(rich_progress.Progress):
    """A bar, and the counts below it."""

    interval = 0.25

    def __init__(self) -> None:
        self._counts = Text()
        self._lengths: list[int] = []
        self._terminal = _Console(file=cast("IO[str]", _Stderr()))
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(None, style="bright_black", complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
            TextColumn("{task.fields[percent]}", style="bold"),
            TextColumn("{task.fields[time]}", justify="right"),
            console=_Console(file=cast("IO[str]", _Stderr())),
            auto_refresh=False,
            expand=True,
        )
        self.live = self._new_live()
        self._task = self.add_task("", total=None, percent="", time="")

    def get_renderables(self) -> Iterable[RenderableType]:
        """The two lines."""
        yield self.make_tasks_table(self.tasks)
        yield self._counts

    def show(self, progress: Progress, speed: Speed) -> None:
        """Redraw both lines."""
        width = self._terminal.width
        if progress.scanned is not None:
            self.update(self._task, description=reading(progress.scanned))
        else:
            self._update(progress, speed, narrow=width < _NARROW)
        self._erase_wrapped_lines(width)
        lines = self.console.render_lines(self.get_renderable(), pad=False)
        self._lengths = [Segment.get_line_length(line) for line in lines]
        if self.live.is_started:
            self.refresh()
        else:
            self.start()

    def _update(self, progress: Progress, speed: Speed, *, narrow: bool) -> None:
        done, total = progress.counts.records, progress.total
        left = speed.seconds_left(progress)
        time = f"{clock(progress.seconds)} so far" if left is None else f"{clock(left)} left"
        per_second = f"{speed.records:,.0f} IDs/s"
        self.update(
            self._task,
            description=f"{done:,}{'' if narrow else of_total(progress)}",
            total=total,
            completed=done,
            percent=f"{done / total:.0%}" if total else "",
            time=time if narrow else f"{per_second}  {time}",
        )
        self._counts = self._counts_of(progress, speed, first=[per_second] if narrow else [])

    def write(self, line: str) -> None:
        """Write a line above the bar."""
        self.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        """Erase both lines."""
        if self.live.is_started:
            self._erase_wrapped_lines(self._terminal.width)
            self.stop()
        self._lengths = []
        self.live = self._new_live()  # the old one would look for its lines where others are now

    def _new_live(self) -> Live:
        return Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self.get_renderable,
        )

    def _counts_of(self, progress: Progress, speed: Speed, first: list[str]) -> Text:
        counts = progress.counts
        before = [*first, f"found {counts.found:,}", f"missing {counts.missing:,}"]
        failed = Text(f"failed {counts.failed:,}", style="bold red" if counts.failed else "")
        after = [f"duplicates {counts.duplicates:,}", f"budget {budget(progress, speed)}"]
        separator = Text(" | " if self.console.options.ascii_only else " · ")
        return separator.join([*map(Text, before), failed, *map(Text, after)])

    def _erase_wrapped_lines(self, width: int) -> None:
        """A terminal that became narrower has wrapped the lines: they take more rows than rich drew."""
        rows = sum(-(-length // width) - 1 for length in self._lengths)
        self.console.control(Control(*[(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * rows))
        self.console.width = width  # rich draws for the width that was looked at

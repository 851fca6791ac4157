"""What a demo shows: how far it is, and what it came to."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rongcloud_groups.cli.demo_outcome import RATE, Outcome
from rongcloud_groups.errors import InvalidGroupId

Display = Callable[[int, int, float], None]
"""Shows how many IDs are settled, how many requests that took, and how many seconds."""

_PARTS = 5
"""How many lines stand for the bar where there is no terminal."""


@contextmanager
def display(total: int) -> Iterator[Display]:
    """A bar on stderr while the context lasts; lines where that is no terminal.

    Args:
        total: how many IDs there are to settle.
    """
    if not sys.stderr.isatty():
        yield _lines(total)
        return
    columns = (
        TextColumn("{task.completed:>6,} of {task.total:,} IDs"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[requests]:>3} requests"),
        TextColumn("{task.fields[seconds]:>4.1f} s"),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        task = progress.add_task("", total=total, requests=0, seconds=0.0)

        def show(settled: int, requests: int, seconds: float) -> None:
            progress.update(task, completed=settled, requests=requests, seconds=seconds)

        yield show


def _lines(total: int) -> Display:
    shown = 0

    def show(settled: int, requests: int, seconds: float) -> None:
        nonlocal shown
        if settled * _PARTS // total > shown:
            shown = settled * _PARTS // total
            sys.stderr.write(f"{settled:,} of {total:,} IDs, {requests} requests, {seconds:.1f} s\n")

    return show


def print_summary(outcome: Outcome) -> None:
    """Print to stdout what a demo came to."""
    invalid = sum(isinstance(error, InvalidGroupId) for error in outcome.failed.values())
    rows = (
        ("lines", f"{outcome.lines:,}", f"in {outcome.ids_file}"),
        ("distinct IDs", f"{outcome.distinct:,}", "each was looked up once"),
        ("found", f"{outcome.found:,}", f"their profiles are in {outcome.profiles_file}"),
        ("missing", f"{outcome.missing:,}", "the service has no such group"),
        ("failed", f"{len(outcome.failed):,}", f"{invalid} of them invalid, refused before any request"),
        ("requests", f"{outcome.requests:,}", f"over HTTP/2, on {outcome.connections} connections, one after another"),
        ("worst second", f"{outcome.worst_second:,}", f"requests, counted by the emulator; {RATE} are allowed"),
        ("time", f"{outcome.seconds:.1f}", "seconds"),
        ("speed", f"{outcome.distinct / outcome.seconds:,.0f}", "IDs/s"),
    )
    console = Console(markup=False, highlight=False, emoji=False)
    for name, number, words in rows:
        console.print(f"{name:<12}  {number:>6}", style="bold", end="  ", soft_wrap=True)
        console.print(words, soft_wrap=True)

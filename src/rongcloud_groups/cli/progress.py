"""The display of a running job on stderr: a bar, a line now and then, JSON lines, or only messages."""

import asyncio
import json
import os
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

import msgspec

from rongcloud_groups.bulk.job import Job
from rongcloud_groups.bulk.report import Progress, Report
from rongcloud_groups.cli.console import Warnings, fitted, write_stderr
from rongcloud_groups.cli.exit import handled
from rongcloud_groups.cli.options import ProgressStyle


class Speed:
    """IDs/s, requests/s and the time that is left, by the last ten seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()
        self.records = self.requests = 0.0

    def add(self, progress: Progress) -> None:
        if not self._samples:
            self._samples.append((0.0, progress.resumed_from, 0))
        now = (progress.seconds, progress.counts.records, progress.requests)
        self._samples.append(now)
        while len(self._samples) > 2 and self._samples[0][0] < now[0] - 10:  # noqa: PLR2004  a difference needs two
            self._samples.popleft()
        then = self._samples[0]
        seconds = now[0] - then[0] or inf
        self.records = (now[1] - then[1]) / seconds
        self.requests = (now[2] - then[2]) / seconds

    def seconds_left(self, progress: Progress) -> float | None:
        """Seconds until the end; None where it cannot be foreseen."""
        if progress.total is None or not self.records:
            return None
        return (progress.total - progress.counts.records) / self.records

    def of_budget(self, progress: Progress) -> str:
        return f"{self.requests / progress.rate:.0%} of {progress.rate:g}/s"


class Display:
    """Shows messages and, every so many seconds, a line on the progress of a job.

    Its own thread writes: a terminal that takes nothing does not hold up the job.
    """

    def __init__(
        self, interval: float, line: Callable[[Progress, Speed], str] | None = None, *, in_json: bool = False
    ) -> None:
        self.interval = interval
        self.line = line
        self._in_json = in_json
        self._speed = Speed()
        self._waiting: queue.Queue[Progress | str | None] = queue.Queue(1000)
        self._drawing = threading.Lock()
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def show(self, progress: Progress) -> None:
        """Show the progress, unless earlier output still waits to be written."""
        self._speed.add(progress)
        if self._waiting.empty():
            self._waiting.put(progress)

    def say(self, text: str, fields: dict[str, Any]) -> None:
        """Show a message above the progress. If 1,000 wait already, the main thread drops it, and another waits."""
        line = json.dumps(fields) if self._in_json else fitted(text, sys.stderr)
        if threading.current_thread() is threading.main_thread():
            with suppress(queue.Full):
                self._waiting.put_nowait(line)
        else:
            self._waiting.put(line)

    def suspend(self, *_: object) -> None:
        """Handle Ctrl-Z: restore the terminal, and stop the process until SIGCONT."""
        locked = self._drawing.acquire(timeout=0.5)  # unless a write to a terminal that takes nothing holds it
        if locked:
            self._erase()
        os.kill(os.getpid(), signal.SIGSTOP)
        if locked:
            self._drawing.release()

    def close(self) -> None:
        """Write all messages, and restore the terminal."""
        self._waiting.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        while (item := self._waiting.get()) is not None:
            with self._drawing:
                if isinstance(item, Progress):
                    self._draw(item)
                else:
                    self._write(item)
        self._erase()

    def _draw(self, progress: Progress) -> None:
        if self.line is not None:
            self._write(self.line(progress, self._speed))

    def _write(self, line: str) -> None:
        write_stderr(f"{line}\n")

    def _erase(self) -> None:
        """Erase a bar; lines stay."""


def display(
    style: ProgressStyle, *, stdout_has_rows: bool, in_json: bool = False, debug: bool = False, interval: float = 30.0
) -> Display:
    """The display of that style; ``auto`` is a bar on a terminal that shows nothing else, otherwise lines."""
    if style == "auto" and not in_json:
        rows_on_terminal = stdout_has_rows and sys.stdout.isatty()
        able = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        style = "bar" if able and not rows_on_terminal and not debug else "plain"
    match style:
        case "bar":
            from rongcloud_groups.cli.progress_bar import BarDisplay

            return BarDisplay(in_json=in_json)
        case "plain":
            return Display(interval, plain_line, in_json=in_json)
        case "none":
            return Display(3600.0, in_json=in_json)
        case _:
            return Display(1.0 if style == "json" else interval, status_line, in_json=True)


async def watch(job: Job, screen: Display, warnings: Warnings) -> Report:
    """Run a job and show its progress; a terminal that is closed, or Ctrl-Z, does not harm it."""

    async def show() -> None:
        while True:
            await asyncio.sleep(screen.interval)
            screen.show(job.progress())

    say, warnings.say = warnings.say, screen.say
    try:
        with handled({signal.SIGTSTP: screen.suspend, signal.SIGHUP: signal.SIG_IGN}):
            showing = asyncio.create_task(show())
            try:
                return await job.run()
            finally:
                showing.cancel()
                await asyncio.wait([showing])
    finally:
        warnings.say = say
        screen.close()


def plain_line(progress: Progress, speed: Speed) -> str:
    if progress.scanned is not None:
        return fitted(reading(progress.scanned), sys.stderr)
    counts, left = progress.counts, speed.seconds_left(progress)
    of_total = "" if progress.total is None else f" of {progress.total:,}"
    time_left = "" if left is None else f"{clock(left)} left, "
    return fitted(
        f"{counts.records:,}{of_total} IDs, {speed.records:,.0f}/s, {time_left}found {counts.found:,}, "
        f"missing {counts.missing:,}, failed {counts.failed:,}, budget {speed.of_budget(progress)}",
        sys.stderr,
    )


def status_line(progress: Progress, speed: Speed) -> str:
    left = speed.seconds_left(progress)
    status = {
        "message_type": "status",
        **msgspec.structs.asdict(progress.counts),
        "total": progress.total,
        "scanned": progress.scanned,
        "seconds": round(progress.seconds, 3),
        "seconds_left": None if left is None else round(left, 1),
        "records_per_second": round(speed.records, 1),
        "requests": progress.requests,
        "requests_per_second": round(speed.requests, 1),
        "rate": progress.rate,
    }
    return json.dumps(status)


def reading(scanned: int) -> str:
    return f"reading the input: {scanned:,} IDs so far"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"

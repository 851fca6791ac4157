"""The display of a running job on stderr: a bar, a line now and then, JSON lines, or only messages."""

import json
import os
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from rongcloud_groups.bulk.report import Progress
from rongcloud_groups.cli.console import fitted, write_stderr
from rongcloud_groups.cli.signals import handled
from rongcloud_groups.cli.sync_options import ProgressStyle

if TYPE_CHECKING:  # it imports rich
    from rongcloud_groups.cli.progress_bar import Bar

_SECONDS_OF_RATE: Final = 10.0
_MAX_WAITING: Final = 1000


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
        while len(self._samples) > 2 and self._samples[0][0] < now[0] - _SECONDS_OF_RATE:  # noqa: PLR2004  a difference needs two
            self._samples.popleft()
        then = self._samples[0]
        seconds = now[0] - then[0]
        self.records = (now[1] - then[1]) / seconds if seconds else 0.0
        self.requests = (now[2] - then[2]) / seconds if seconds else 0.0

    def seconds_left(self, progress: Progress) -> float | None:
        """Seconds until the end; None where it cannot be foreseen."""
        if progress.total is None or not self.records:
            return None
        return (progress.total - progress.counts.records) / self.records


class Display:
    """The display of a job, written by its own thread: a terminal that takes nothing does not hold up the job."""

    def __init__(self, renderer: "Lines | Bar", *, in_json: bool = False) -> None:
        self.interval = renderer.interval
        self._renderer = renderer
        self._in_json = in_json
        self._speed = Speed()
        self._waiting: queue.Queue[Progress | str | None] = queue.Queue(_MAX_WAITING)
        self._drawing = threading.Lock()
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def show(self, progress: Progress) -> None:
        """Show how far the job is, unless the thread is still busy with earlier output."""
        self._speed.add(progress)
        if self._waiting.empty():
            self._waiting.put(progress)

    def say(self, text: str, fields: dict[str, Any]) -> None:
        """Show a message above the progress; where a thousand wait, a thread waits, and an event loop drops it."""
        line = json.dumps(fields) if self._in_json else fitted(text, sys.stderr)
        if threading.current_thread() is threading.main_thread():
            with suppress(queue.Full):
                self._waiting.put_nowait(line)
        else:
            self._waiting.put(line)

    def close(self) -> None:
        """Write all messages, and leave the terminal as it was."""
        self._waiting.put(None)
        self._thread.join()

    @contextmanager
    def suspendable(self) -> Iterator[None]:
        """Leave the terminal as it was, too, while Ctrl-Z stops the process."""

        def suspend(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  a signal handler's signature
            locked = self._drawing.acquire(timeout=0.5)  # without it, a terminal that takes nothing has the process
            if locked:
                self._renderer.close()
            os.kill(os.getpid(), signal.SIGSTOP)
            if locked:
                self._drawing.release()

        with handled({signal.SIGTSTP: suspend}):
            yield

    def _write_all(self) -> None:
        while (item := self._waiting.get()) is not None:
            with self._drawing:
                if isinstance(item, Progress):
                    self._renderer.show(item, self._speed)
                else:
                    self._renderer.write(item)
        self._renderer.close()


def display(
    style: ProgressStyle,
    *,
    stdout_has_rows: bool,
    in_json: bool = False,
    debug: bool = False,
    line_interval: float = 30.0,
) -> Display:
    """The display of that style; ``auto`` is a bar on a terminal that shows nothing else, otherwise lines."""
    if style == "auto" and not in_json:
        rows_on_terminal = stdout_has_rows and sys.stdout.isatty()
        able = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        style = "bar" if able and not rows_on_terminal and not debug else "plain"
    match style:
        case "bar":
            from rongcloud_groups.cli.progress_bar import Bar

            return Display(Bar(), in_json=in_json)
        case "plain":
            return Display(Lines(line_interval, plain_line), in_json=in_json)
        case "none":
            return Display(Lines(), in_json=in_json)
        case _:
            return Display(Lines(1.0 if style == "json" else line_interval, status_line), in_json=True)


class Lines:
    """Messages, and every so many seconds a line on the progress, if there is a function that makes it."""

    def __init__(self, interval: float = 3600.0, line: Callable[[Progress, Speed], str] | None = None) -> None:
        self.interval = interval
        self.line = line

    def show(self, progress: Progress, speed: Speed) -> None:
        if self.line is not None:
            self.write(self.line(progress, speed))

    def write(self, line: str) -> None:
        write_stderr(f"{line}\n")

    def close(self) -> None:
        """Leave the terminal as it was; `show` may follow."""


def plain_line(progress: Progress, speed: Speed) -> str:
    if progress.scanned is not None:
        return fitted(reading(progress.scanned), sys.stderr)
    counts, left = progress.counts, speed.seconds_left(progress)
    parts = [
        f"{counts.records:,}{of_total(progress)} IDs, {speed.records:,.0f}/s",
        *([] if left is None else [f"{clock(left)} left"]),
        f"found {counts.found:,}, missing {counts.missing:,}, failed {counts.failed:,}",
        f"budget {budget(progress, speed)}",
    ]
    return fitted(", ".join(parts), sys.stderr)


def status_line(progress: Progress, speed: Speed) -> str:
    """How far the job is, as a JSON object with ``"message_type": "status"``."""
    left = speed.seconds_left(progress)
    status: dict[str, Any] = {
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


def of_total(progress: Progress) -> str:
    return "" if progress.total is None else f" of {progress.total:,}"


def budget(progress: Progress, speed: Speed) -> str:
    return f"{speed.requests / progress.rate:.0%} of {progress.rate:g}/s"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"

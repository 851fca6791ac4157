"""Records ``rongcloud-groups demo`` as an animated SVG: ``python -m benchmarks.plots.demo_recording [FILE]``.

The command runs on a terminal of its own. What its screen shows each half second is a frame; who prefers no motion, and
what cannot animate, is shown the last one.
"""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import sysconfig
import tempfile
import termios
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

import pyte

ROOT = Path(__file__).parents[2]
COLUMNS, ROWS = 86, 11
CHARACTER, LINE, MARGIN = 8.2, 19, 16
INTERVAL = 0.5
"""Seconds from one frame to the next."""
LAST = 6.0
"""Seconds that the last frame stays."""
COLOURS = {"default": "#e6edf3", "green": "#3fb950", "red": "#ff7b72", "cyan": "#58a6ff", "brightblack": "#484f58"}

Frame = tuple[float, list[str]]


def record(command: list[str]) -> Iterator[Frame]:
    """The lines of the screen as SVG, with the seconds since the start."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    stream.feed(b"\x1b[32m$\x1b[0m rongcloud-groups demo\r\n")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        with subprocess.Popen(command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:  # noqa: S603  our own command
            os.close(theirs)
            start = time.monotonic()
            shown = -INTERVAL
            while data := _read(ours):
                now = time.monotonic() - start
                if now - shown >= INTERVAL:  # the screen as it was until now
                    yield now, lines_of(screen)
                    shown = now
                stream.feed(data)
            os.close(ours)
    if process.returncode:
        sys.exit(f"the demo ended with exit code {process.returncode}")
    yield time.monotonic() - start, lines_of(screen)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other end is closed
        return b""


def lines_of(screen: pyte.Screen) -> list[str]:
    return [_line(screen, row) for row in range(ROWS)]


def _line(screen: pyte.Screen, row: int) -> str:
    cells = [screen.buffer[row][column] for column in range(COLUMNS)]
    length = len("".join(cell.data for cell in cells).rstrip())
    spans = []
    for (colour, bold), same in groupby(cells[:length], key=lambda cell: (cell.fg, cell.bold)):
        weight = ' font-weight="bold"' if bold else ""
        text = escape("".join(cell.data for cell in same))
        spans.append(f'<tspan fill="{COLOURS.get(colour, COLOURS["default"])}"{weight}>{text}</tspan>')
    if not spans:
        return ""
    place = f'x="{MARGIN}" y="{MARGIN + row * LINE + 13}" textLength="{length * CHARACTER:.0f}"'
    return f'<text {place} lengthAdjust="spacingAndGlyphs" xml:space="preserve">{"".join(spans)}</text>'


def svg(frames: list[Frame]) -> str:
    """The frames, one after the other, again and again."""
    width, height = COLUMNS * CHARACTER + 2 * MARGIN, ROWS * LINE + 2 * MARGIN
    total = frames[-1][0] + LAST
    ends = [time for time, _ in frames[1:]] + [total]
    rules, groups = [], []
    for number, ((begin, lines), end) in enumerate(zip(frames, ends, strict=True)):
        first, last = 100 * begin / total if number else 0, 100 * end / total
        rules.append(
            f"@keyframes f{number}{{0%{{visibility:{'hidden' if number else 'visible'}}}"
            f"{first:.2f}%{{visibility:visible}}{last:.2f}%,100%{{visibility:hidden}}}}"
            f"#f{number}{{animation:f{number} {total:.1f}s step-end infinite}}"
        )
        hidden = ' visibility="hidden"' if number < len(frames) - 1 else ""
        groups.append(f'<g id="f{number}"{hidden}>{"".join(lines)}</g>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">',
            "<title>rongcloud-groups demo: 20,000 lines of IDs are looked up</title>",
            "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}",
            "@media (prefers-reduced-motion:no-preference){",
            *rules,
            "}</style>",
            f'<rect width="{width:.0f}" height="{height}" rx="8" fill="#0d1117" stroke="#30363d"/>',
            *groups,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "demo.svg"
    command = [str(Path(sysconfig.get_path("scripts")) / "rongcloud-groups"), "demo"]
    path.write_text(svg(list(record(command))), encoding="utf-8")
    print(path)

"""Runs the installed command as its users do: in a process, with pipes or on a terminal."""

import fcntl
import os
import pty
import struct
import sys
import sysconfig
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import NamedTuple

COMMAND = str(Path(sysconfig.get_path("scripts")) / "rongcloud-groups")
TIMEOUT = 30
APP_SECRET = "emulator-app-secret"


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


class OnTerminal(NamedTuple):
    code: int
    screen: str


def environment(url: str | None = None, ca_file: Path | str | None = None, **changes: str | None) -> dict[str, str]:
    env: dict[str, str | None] = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RONGCLOUD_", "SSL_CERT", "NO_COLOR", "PYTHONUNBUFFERED"))
    }
    env |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "RONGCLOUD_BASE_URL": url}
    env |= {"RONGCLOUD_APP_KEY": "emulator-app-key", "RONGCLOUD_APP_SECRET": APP_SECRET}
    env |= {"SSL_CERT_FILE": None if ca_file is None else str(ca_file)}
    env |= changes
    return {name: value for name, value in env.items() if value is not None}


def run(
    *arguments: str,
    env: Mapping[str, str],
    stdin: bytes = b"",
    stdout: int = PIPE,
    command: Sequence[str] = (COMMAND,),
    cwd: Path | None = None,
) -> Ended:
    with Popen(  # noqa: S603  our own command
        [*command, *arguments], env=env, cwd=cwd, stdin=PIPE, stdout=stdout, stderr=PIPE
    ) as process:
        output, errors = process.communicate(stdin, TIMEOUT)
    return Ended(process.returncode, (output or b"").decode(), errors.decode())


def run_python(code: str, *, env: Mapping[str, str]) -> Ended:
    return run("-c", code, env=env, command=(sys.executable,))


def run_on_terminal(
    *arguments: str,
    env: Mapping[str, str],
    columns: int = 80,
    typed: bytes = b"",
    command: Sequence[str] = (COMMAND,),
    cwd: Path | None = None,
    encoding: str = "utf-8",
) -> OnTerminal:
    ours, theirs = _open_terminal(columns)
    env = {name: value for name, value in env.items() if name not in {"COLUMNS", "LINES"}}  # the terminal has them
    with Popen(  # noqa: S603  likewise
        [*command, *arguments], env=env, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, typed)
        screen = b"".join(_read_all(ours)).decode(encoding)
    os.close(ours)
    return OnTerminal(process.returncode, screen.replace("\r\n", "\n"))


def _read_all(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end is closed
            return
        if not data:
            return
        yield data


def _open_terminal(columns: int) -> tuple[int, int]:
    ours, theirs = pty.openpty()
    _resize(theirs, columns)
    return ours, theirs


def _resize(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


class Terminal:
    """The command in a session of its own, with a terminal that a test holds.

    Attributes:
        process: the command.
        screen: the terminal's content so far.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str], here: Path, columns: int = 80) -> None:
        self._ours, theirs = _open_terminal(columns)
        os.set_blocking(self._ours, False)
        env = {name: value for name, value in env.items() if name not in {"COLUMNS", "LINES"}}
        self.screen = ""
        command = ["/usr/bin/setsid", "--ctty", COMMAND, *arguments]
        self.process = Popen(command, env=env, cwd=here, stdin=theirs, stdout=theirs, stderr=theirs)  # noqa: S603  our own command
        os.close(theirs)

    def read(self) -> str:
        """What is on the screen now."""
        with suppress(BlockingIOError, OSError):
            while data := os.read(self._ours, 65536):
                self.screen += data.decode(errors="replace")
        return self.screen

    def state(self) -> str:
        """The process's state, as Linux has it: T is stopped."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def resize(self, columns: int) -> None:
        _resize(self._ours, columns)

    def hang_up(self) -> None:
        """Close the terminal, as a window is closed or a network connection lost."""
        self.read()
        os.close(self._ours)
        self._ours = -1

    def wait(self) -> int:
        """Wait for the process's end; returns its exit code."""
        deadline = time.monotonic() + TIMEOUT
        while (code := self.process.poll()) is None and time.monotonic() < deadline:
            if self._ours >= 0:
                self.read()
            time.sleep(0.005)
        assert code is not None
        if self._ours >= 0:
            self.read()
            os.close(self._ours)
            self._ours = -1
        return code

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import NamedTuple

import msgspec
from support.command_server import SERVER

from rongcloud_groups import GroupProfile

COMMAND = str(Path(sysconfig.get_path("scripts")) / "rongcloud-groups")
TIMEOUT = 100  # seconds: far more than any run takes
APP_SECRET = "emulator-app-secret"
FOR_PYTHON = {"PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONWARNINGS", "PYTHONDEVMODE"}
"""Variables that change how Python starts."""


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
    """Run the command, or another one, to its end.

    The command is forked from a process that has imported it, unless a variable changes how Python starts.
    """
    if command == (COMMAND,) and FOR_PYTHON.isdisjoint(env):
        return _run_forked(arguments, env=env, stdin=stdin, stdout=stdout, cwd=cwd)
    with Popen(  # noqa: S603  our own command
        [*command, *arguments], env=env, cwd=cwd, stdin=PIPE, stdout=stdout, stderr=PIPE
    ) as process:
        output, errors = process.communicate(stdin, TIMEOUT)
    return Ended(process.returncode, (output or b"").decode(), errors.decode())


def _run_forked(
    arguments: Sequence[str], *, env: Mapping[str, str], stdin: bytes, stdout: int, cwd: Path | None
) -> Ended:
    pipes = [os.pipe() for _ in range(3)]
    (stdin_reader, stdin_writer), (stdout_reader, stdout_writer), (stderr_reader, stderr_writer) = pipes
    streams = (stdin_reader, stdout_writer if stdout == PIPE else stdout, stderr_writer)
    started = SERVER.start(arguments, streams, env, cwd)
    _close(stdin_reader, stdout_writer, stderr_writer)
    with ThreadPoolExecutor(4) as threads:
        code = threads.submit(started.wait)
        threads.submit(_feed, stdin_writer, stdin)
        output, errors = threads.submit(_drain, stdout_reader), threads.submit(_drain, stderr_reader)
        return Ended(code.result(TIMEOUT), output.result(TIMEOUT).decode(), errors.result(TIMEOUT).decode())


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _feed(descriptor: int, content: bytes) -> None:
    with suppress(BrokenPipeError), open(descriptor, "wb") as stdin:
        stdin.write(content)


def _drain(descriptor: int) -> bytes:
    with open(descriptor, "rb") as stream:
        return stream.read()


def run_python(code: str, *, env: Mapping[str, str]) -> Ended:
    return run("-c", code, env=env, command=(sys.executable,))


def without(module: str, *arguments: str) -> str:
    return (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['rongcloud-groups', *{arguments!r}]\n"
        "from rongcloud_groups.cli import main; main()"
    )


def profiles_in(stdout: str) -> list[GroupProfile]:
    return [msgspec.json.decode(line, type=GroupProfile) for line in stdout.splitlines()]


def run_on_terminal(
    *arguments: str,
    env: Mapping[str, str],
    columns: int = 80,
    typed: bytes = b"",
    command: Sequence[str] = (COMMAND,),
    cwd: Path | None = None,
    encoding: str = "utf-8",
) -> OnTerminal:
    ours, theirs = open_terminal(columns)
    env = {name: value for name, value in env.items() if name not in {"COLUMNS", "LINES"}}  # the terminal has them
    os.write(ours, typed)
    with ThreadPoolExecutor(1) as threads:
        if command == (COMMAND,) and FOR_PYTHON.isdisjoint(env):
            code = threads.submit(SERVER.start(arguments, (theirs, theirs, theirs), env, cwd).wait)
        else:
            process = Popen([*command, *arguments], env=env, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs)  # noqa: S603  our own command
            code = threads.submit(process.wait)
        code.add_done_callback(lambda _: os.close(theirs))
        screen = b"".join(_read_all(ours)).decode(encoding)
    os.close(ours)
    return OnTerminal(code.result(), screen.replace("\r\n", "\n"))


def _read_all(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end is closed
            return
        if not data:
            return
        yield data


def open_terminal(columns: int) -> tuple[int, int]:
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
        self._ours, theirs = open_terminal(columns)
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

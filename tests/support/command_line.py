"""Runs the installed command as its users do: in a process, with pipes or on a terminal."""

import fcntl
import os
import pty
import struct
import sys
import sysconfig
import termios
from collections.abc import Iterator, Mapping, Sequence
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
) -> OnTerminal:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in env.items() if name not in {"COLUMNS", "LINES"}}  # the terminal says
    with Popen(  # noqa: S603  likewise
        [*command, *arguments], env=env, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, typed)
        screen = b"".join(_read_all(ours)).decode()
    os.close(ours)
    return OnTerminal(process.returncode, screen.replace("\r\n", "\n"))


def _read_all(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # so Linux says that nobody has the other end
            return
        if not data:
            return
        yield data

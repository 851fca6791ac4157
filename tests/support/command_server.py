"""A process that has imported the command and the emulator, and forks for each run: a start without the imports.

Run as a program, it reads requests from the socket that is its stdin. A request has the program, its arguments, its
environment and its working directory as JSON, and the standard streams as descriptors. The response is the process's
ID, and its exit code when it has ended.
"""

import atexit
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import Any, Literal, NoReturn

IMPORTED_BY_RUNS = (
    "anyio._backends._asyncio",
    "rongcloud_groups._dispatch.assembly",
    "rongcloud_groups._transport.connect",
    "rongcloud_groups.cli.app",
    "rongcloud_groups.cli.get",
    "rongcloud_groups.cli.sync_job",
    "rongcloud_groups.limiters.host",
    "rongcloud_groups.limiters.url",
)
"""Modules that each run of the command would import, most of them when it first needs them."""

IMPORTED_FOR_PARQUET = ("rongcloud_groups.bulk.sinks.parquet", "pandas")
"""Modules that a run with a Parquet file would import besides; pyarrow imports pandas where it is installed."""

_MAX_REQUEST = 1_000_000


class Run:
    """A program that the server runs.

    Attributes:
        pid: its process's ID.
        connection: from which its exit code will come.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.pid = _number(_received(connection, 4))

    def wait(self) -> int:
        """Wait for its end; returns its exit code."""
        with self.connection:
            return _number(_received(self.connection, 4))


class CommandServer:
    """Starts the server with the first run; one for each process that runs tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def start(
        self,
        arguments: Sequence[str],
        streams: tuple[int, int, int],
        env: Mapping[str, str],
        cwd: Path | None,
        program: Literal["command", "emulator"] = "command",
    ) -> Run:
        """Start a run of the command, or of the emulator that it starts.

        Args:
            arguments: its arguments.
            streams: its stdin, stdout and stderr.
            env: its environment.
            cwd: its working directory.
            program: which of the two.
        """
        ours, theirs = socket.socketpair()
        request = {"program": program, "arguments": arguments, "env": dict(env), "cwd": str(cwd or Path.cwd())}
        content = json.dumps(request).encode()
        with theirs, self._lock:
            socket.send_fds(self._started(), [b"r"], [theirs.fileno(), *streams])
        ours.sendall(len(content).to_bytes(4, "big") + content)
        return Run(ours)

    def _started(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            env = {name: value for name, value in os.environ.items() if not name.startswith("RONGCLOUD_")}
            server = Popen([sys.executable, __file__], stdin=theirs.fileno(), env=env)  # noqa: S603  this file
            theirs.close()
            atexit.register(self._end, server)
        return self._socket

    def _end(self, server: "Popen[bytes]") -> None:
        if self._socket is not None:
            self._socket.close()
        server.wait()


SERVER = CommandServer()


def _serve() -> None:
    _import(*IMPORTED_BY_RUNS, "rongcloud_groups.emulator.__main__")
    requests = socket.socket(fileno=os.dup(0))
    child_ended, wakeup = socket.socketpair()
    wakeup.setblocking(False)  # noqa: FBT003  the socket's own signature
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup.fileno())
    runs: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(child_ended, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if child_ended in ready:
                child_ended.recv(4096)
                _report_ended(runs)
            if requests in ready:
                message, descriptors, _, _ = socket.recv_fds(requests, 1, 4)
                if not message:
                    return
                connection = socket.socket(fileno=descriptors[0])
                size = _number(_received(connection, 4))
                request = json.loads(_received(connection, size))
                if any("parquet" in argument for argument in request["arguments"]):
                    _import(*IMPORTED_FOR_PARQUET)
                process = os.fork()
                if process == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in (requests, child_ended, wakeup, connection, *runs.values()):
                        other.close()
                    selector.close()
                    _run(request, descriptors[1:])
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                runs[process] = connection
                connection.sendall(process.to_bytes(4, "big"))


def _import(*names: str) -> None:
    for name in names:
        if find_spec(name) is not None:
            importlib.import_module(name)


def _report_ended(runs: dict[int, socket.socket]) -> None:
    while runs:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        with runs.pop(process) as connection:
            connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))


def _received(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = connection.recv(min(size - len(content), _MAX_REQUEST))
        assert piece, "the other side has gone"
        content += piece
    return content


def _number(content: bytes) -> int:
    return int.from_bytes(content, "big", signed=True)


def _run(request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["rongcloud-groups", *request["arguments"]]
    standard: list[Any] = [
        os.fdopen(number, mode, encoding="utf-8", closefd=False, buffering=1 if number == 2 else -1)
        for number, mode in enumerate("rww")
    ]
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = standard  # type: ignore[misc]
    code: Any = 1
    try:
        _main_of(request["program"])()
    except SystemExit as error:
        code = error.code
    finally:  # as an interpreter ends
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))


def _main_of(program: str) -> Callable[[], None]:
    if program == "command":
        from rongcloud_groups_command import main

        return main
    from rongcloud_groups.emulator.__main__ import main as emulate

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the process that runs tests
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()  # its death ends this one
    return emulate


if __name__ == "__main__":
    _serve()

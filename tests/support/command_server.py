"""A process that has imported the command and forks for each run of it: a start without the imports.

Run as a program, it reads requests from the socket that is its stdin. A request has the arguments, the environment and
the working directory as JSON, and the standard streams as descriptors. The response is the exit code.
"""

import atexit
import importlib
import json
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import Any, NoReturn

_MAX_REQUEST = 1_000_000
IMPORTED_BY_RUNS = (
    "anyio._backends._asyncio",
    "rongcloud_groups._dispatch.assembly",
    "rongcloud_groups._transport.connect",
    "rongcloud_groups._transport.proxy",
    "rongcloud_groups.cli.app",
    "rongcloud_groups.cli.get",
    "rongcloud_groups.cli.sync_job",
    "rongcloud_groups.limiters.host",
    "rongcloud_groups.limiters.url",
)
"""Modules that each run of the command would import, most of them when it first needs them."""


class CommandServer:
    """Starts the server with the first run; one for each process that runs tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def run(
        self, arguments: Sequence[str], streams: tuple[int, int, int], env: Mapping[str, str], cwd: Path | None
    ) -> int:
        """Run the command to its end.

        Args:
            arguments: its arguments.
            streams: its stdin, stdout and stderr.
            env: its environment.
            cwd: its working directory.

        Returns:
            Its exit code.
        """
        ours, theirs = socket.socketpair()
        request = json.dumps({"arguments": arguments, "env": dict(env), "cwd": str(cwd or Path.cwd())}).encode()
        with ours, theirs:
            with self._lock:
                socket.send_fds(self._started(), [b"r"], [theirs.fileno(), *streams])
            theirs.close()
            ours.sendall(len(request).to_bytes(4, "big") + request)
            response = ours.recv(4)
        assert len(response) == 4, "the command's server has gone"
        return int.from_bytes(response, "big", signed=True)

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


def _serve() -> None:
    for name in IMPORTED_BY_RUNS:
        importlib.import_module(name)
    requests = socket.socket(fileno=os.dup(0))
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, 4)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            _supervise(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):  # all have ended
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _supervise(connection: int, *streams: int) -> NoReturn:
    """Fork the run itself, wait for it, and tell its exit code."""
    with socket.socket(fileno=connection) as response:
        size = int.from_bytes(_received(response, 4), "big")
        request = json.loads(_received(response, size))
        process = os.fork()
        if process == 0:
            _run(request, streams)
        for descriptor in streams:
            os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        response.sendall(code.to_bytes(4, "big", signed=True))
    os._exit(0)


def _received(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        content += connection.recv(min(size - len(content), _MAX_REQUEST))
    return content


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
    from rongcloud_groups.cli import main

    code: Any = 1
    try:
        main()
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))


if __name__ == "__main__":
    _serve()

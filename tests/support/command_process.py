"""A run of the command that is under way, beside what the test does."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from subprocess import PIPE

from support.command_line import FOR_PYTHON, TIMEOUT
from support.command_server import SERVER, Run


class CommandProcess:
    """The command's process, with what asyncio's `Process` has.

    Attributes:
        pid: its process's ID.
        stdin: its stdin, where that is a pipe.
        stdout: its stdout, where that is a pipe.
        stderr: its stderr, where that is a pipe.
        returncode: its exit code; None before its end.
    """

    def __init__(self, run: Run) -> None:
        self.pid = run.pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self.returncode: int | None = None
        self._run = run
        self._pipes: list[_ReadPipe] = []
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(run.connection, self._end)

    async def pipe(self, number: int, descriptor: int) -> None:
        """Make a stream of the other end of its stdin, stdout or stderr."""
        loop = asyncio.get_running_loop()
        if number == 0:
            file = open(descriptor, "wb", buffering=0)  # noqa: ASYNC230, SIM115  a pipe, which its transport closes
            transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
            self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
            return
        pipe = _ReadPipe()
        file = open(descriptor, "rb", buffering=0)  # noqa: ASYNC230, SIM115  the same
        await loop.connect_read_pipe(lambda: pipe, file)
        self._pipes.append(pipe)
        if number == 1:
            self.stdout = pipe.reader
        else:
            self.stderr = pipe.reader

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._run.connection)
        self.returncode = self._run.wait()
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        for pipe in self._pipes:
            await pipe.closed.wait()
        assert self.returncode is not None
        return self.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        output, errors = [await pipe.read() if pipe else b"" for pipe in (self.stdout, self.stderr)]
        await self.wait()
        return output, errors

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)


class _ReadPipe(asyncio.StreamReaderProtocol):
    def __init__(self) -> None:
        self.reader = asyncio.StreamReader(2**30)  # however much it prints, it is not held up
        super().__init__(self.reader)
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()


async def started(
    *arguments: str,
    env: Mapping[str, str],
    here: Path | None = None,
    stdin: int | None = None,
    stdout: int = PIPE,
    stderr: int = PIPE,
) -> CommandProcess:
    """Start the command, forked from a process that has imported it; its streams are pipes or descriptors."""
    assert (env.keys() - os.environ.keys()).isdisjoint(FOR_PYTHON), "these take a real start"
    theirs = [number if stream is None else stream for number, stream in enumerate((stdin, stdout, stderr))]
    ours: dict[int, int] = {}
    for number, stream in enumerate(theirs):
        if stream == PIPE:
            reader, writer = os.pipe()
            theirs[number], ours[number] = (reader, writer) if number == 0 else (writer, reader)
    streams = (theirs[0], theirs[1], theirs[2])
    process = CommandProcess(await asyncio.to_thread(SERVER.start, arguments, streams, env, here))
    for number in ours:
        os.close(theirs[number])
    for number, descriptor in ours.items():
        await process.pipe(number, descriptor)
    return process


async def ended(process: CommandProcess | asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    stdout, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT)
    return process.returncode, stdout.decode(), stderr.decode()

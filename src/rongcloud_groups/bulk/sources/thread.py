"""Read an input in a thread: files may be slow, pipes quiet, and parsers block."""

import os
import select
from collections.abc import AsyncGenerator, Callable, Iterator
from io import RawIOBase
from queue import Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RECORDS_AT_A_TIME: Final = 1000
_LISTS_READ_AHEAD: Final = 3
_POLL_SECONDS: Final = 0.1


class ReadingStopped(Exception):  # noqa: N818  a way to end, not an error
    """The IDs of an input are not wanted any more."""


class ThreadedReader:
    """Runs a parser in a thread, and hands its IDs over in lists; the parser has `waiting` called before it waits."""

    def __init__(self, parse: "Callable[[ThreadedReader], Iterator[str]]") -> None:
        self._parse = parse
        self._ids: list[str] = []
        self._queue: Queue[list[str] | BaseException | None] = Queue(_LISTS_READ_AHEAD)
        self._stopped = Event()

    async def lists(self) -> AsyncGenerator[list[str]]:
        """The IDs, each list as soon as there is one; an error of the parser comes after the IDs before it."""
        Thread(target=self._run, name="group-ids", daemon=True).start()  # it cannot be ended where a disk hangs
        try:
            while (item := await anyio.to_thread.run_sync(self._queue.get, abandon_on_cancel=True)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stopped.set()

    def waiting(self) -> None:
        """Hand over the IDs read so far; raise `ReadingStopped` if nothing more is wanted."""
        if self._ids:
            self._hand_over(self._ids)
            self._ids = []
        if self._stopped.is_set():
            raise ReadingStopped

    def _hand_over(self, item: list[str] | BaseException | None) -> None:
        while True:
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except Full:
                if not self._stopped.is_set():
                    continue
            return

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            for group_id in self._parse(self):
                self._ids.append(group_id)
                if len(self._ids) == RECORDS_AT_A_TIME:
                    self.waiting()
        except BaseException as error:  # noqa: BLE001  raised where the IDs are read
            end = error
        if self._ids:
            self._hand_over(self._ids)
        self._hand_over(end)


class PolledInput(RawIOBase):
    """A file descriptor that calls ``waiting``, which may raise, before each wait and often while it waits."""

    def __init__(self, descriptor: int, waiting: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._waiting = waiting
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        while True:
            if self._poll is not None and not self._poll.poll(0):
                self._waiting()
                self._poll.poll(_POLL_SECONDS * 1000)
                continue
            try:
                content = os.read(self._descriptor, memoryview(buffer).nbytes)
            except BlockingIOError:  # another reader was faster
                continue
            memoryview(buffer)[: len(content)] = content
            return len(content)

import os
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from rongcloud_groups._tables.output import WriteCancelled, write_all

CONTENT = bytes(range(256)) * 2000


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._open = {self.reading, self.writing}

    def close_reading(self) -> None:
        self._close(self.reading)

    def close_writing(self) -> None:
        self._close(self.writing)

    def close(self) -> None:
        for descriptor in tuple(self._open):
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with closing(Pipe()) as pipe:
        yield pipe


@pytest.mark.parametrize("blocking", [True, False])
def test_all_bytes_reach_a_slow_reader_of_a_pipe(pipe: Pipe, *, blocking: bool) -> None:
    os.set_blocking(pipe.writing, blocking)
    read = bytearray()

    def read_all() -> None:
        while piece := os.read(pipe.reading, 1000):
            read.extend(piece)

    reader = threading.Thread(target=read_all)
    reader.start()
    write_all(pipe.writing, CONTENT)
    pipe.close_writing()
    reader.join()
    assert read == CONTENT


@pytest.mark.parametrize("blocking", [True, False])
def test_a_wait_for_a_reader_that_does_not_read_can_be_cancelled(pipe: Pipe, *, blocking: bool) -> None:
    os.set_blocking(pipe.writing, blocking)
    cancelled = threading.Event()
    outcome: list[BaseException] = []

    def write() -> None:
        try:
            write_all(pipe.writing, CONTENT, cancelled)
        except WriteCancelled as error:
            outcome.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    cancelled.set()
    writer.join(5)
    assert len(outcome) == 1


def test_a_reader_that_has_gone_is_an_error(pipe: Pipe) -> None:
    pipe.close_reading()
    with pytest.raises(BrokenPipeError):
        write_all(pipe.writing, CONTENT)


def test_a_device_that_is_full_is_an_error() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space"):  # noqa: PTH123
        write_all(full.fileno(), CONTENT)

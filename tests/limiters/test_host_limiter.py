import asyncio
import errno
import fcntl
import logging
import math
import os
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rongcloud_groups import ConfigError, GroupClient
from rongcloud_groups.emulator import Emulator, Service, worst_second
from rongcloud_groups.limiters.budget_file import HEADER, MARK, _record
from rongcloud_groups.limiters.budget_file import _schedule as decode
from rongcloud_groups.limiters.host import WARN_AFTER, HostLimiter
from rongcloud_groups.limiters.schedule import (
    HOST_JITTER,
    MAX_LATE,
    MAX_RESERVED,
    PAUSE,
    QUIET_PERIOD,
    WAKE_UP_SLACK,
    SlotSchedule,
)
from rongcloud_groups.limiters.url import limiter_from_url

GAP = (1 + HOST_JITTER + WAKE_UP_SLACK) / 100
GRANTS_UNTIL_A_LINE = """
import asyncio, json, sys
from time import monotonic, process_time
from typing import Any
from rongcloud_groups.limiters.host import WARN_AFTER, HostLimiter

async def main():
    limiter = HostLimiter(sys.argv[1], float(sys.argv[2]))
    granted = []
    print("ready", flush=True)
    line = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    while not line.done():
        await limiter.acquire()
        granted.append(monotonic())
    print(json.dumps(granted))

asyncio.run(main())
"""
RESERVES_A_SLOT = """
import asyncio, sys
from rongcloud_groups.limiters import HostLimiter

async def main():
    limiter = HostLimiter(sys.argv[1], 0.1)
    await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    print("reserved", flush=True)
    await waiting

asyncio.run(main())
"""
HOLDS_THE_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


class Warnings(logging.Handler):
    """Keeps all warnings; the event is set when one comes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.came.set()


@pytest.fixture
async def warnings() -> AsyncIterator[Warnings]:
    logger = logging.getLogger("rongcloud_groups")
    handler = Warnings()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A budget in use."""
    path = tmp_path / "budget"
    put(path)
    return path


@pytest.fixture
def children() -> Iterator[list["subprocess.Popen[str]"]]:
    children: list[subprocess.Popen[str]] = []
    yield children
    for child in children:
        child.kill()
        child.communicate()


def started(children: list["subprocess.Popen[str]"], program: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", program, *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603  ours
    children.append(child)
    return child


def line_of(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def schedule(limit: float = 100, **state: Any) -> SlotSchedule:
    return SlotSchedule(limit, jitter=HOST_JITTER, **state)


def encode(schedule: SlotSchedule, limit: float) -> bytes:
    return _record(b"a budget", schedule, limit)


def put(path: Path, *, limit: float = 100, ahead: float = 0.0) -> None:
    path.write_bytes(encode(schedule(limit, next_slot=monotonic() + ahead), limit))


def next_slot(path: Path, limit: float = 100) -> float:
    read = decode(path.read_bytes(), limit, monotonic())
    assert read is not None
    return read.next_slot


def state_of(path: Path) -> tuple[float, float]:
    """When the first request left that the file remembers, and the lateness that was seen."""
    found = decode(path.read_bytes(), 100, monotonic())
    assert found is not None
    return found.sent[0], found.late


@asynccontextmanager
async def waiting(limiter: HostLimiter) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that waits for its slot."""
    task = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    yield task
    task.cancel()
    await asyncio.wait([task])


async def reserve_and_leave(limiter: HostLimiter) -> None:
    async with waiting(limiter):
        pass


# ---- the record


@given(st.binary(max_size=2 * HEADER.size))
def test_a_damaged_record_is_no_schedule(record: bytes) -> None:
    assert decode(record, 100, 500.0) is None


times = st.lists(st.floats(), max_size=MAX_RESERVED)
counts = st.none() | st.integers(-(2**63), 2**63 - 1)


@given(st.tuples(*[st.floats()] * 6), times, times, st.tuples(counts, counts))
def test_with_any_numbers_in_a_record_slots_come_within_minutes_at_a_sane_rate(
    numbers: tuple[float, ...], sent: list[float], reserved: list[float], claimed: tuple[int | None, ...]
) -> None:
    counted = [len(each) if count is None else count for each, count in zip((sent, reserved), claimed, strict=True)]
    empty = encode(schedule(), 100)
    header = HEADER.unpack_from(empty)[:4]
    read = decode(HEADER.pack(*header, *counted, 100.0, *numbers) + array("d", sent + reserved).tobytes(), 100, 500.0)
    if read is not None:
        assert 500.0 - MAX_LATE <= read.reserve(500.0) <= 500.0 + 300
        assert 5 <= read.rate(500.0) <= 100


past = st.floats(0, 1000)
pids = st.integers(1, 2**31)


@given(
    past,
    past,
    st.floats(0, 500),
    st.floats(0, 100),
    st.floats(0, MAX_LATE),
    past,
    st.lists(past),
    st.dictionaries(past, pids),
)
def test_a_record_is_read_as_it_was_written(
    next_slot: float,
    paused_until: float,
    cut_at: float,
    cut_from: float,
    late: float,
    late_at: float,
    sent: list[float],
    owners: dict[float, int],
) -> None:
    written = schedule(
        next_slot=next_slot,
        sent=sorted(sent),
        late=late,
        late_at=late_at,
        paused_until=paused_until,
        cut_at=cut_at,
        cut_from=cut_from,
    )
    written.reserved, written.owners = array("d", sorted(owners)), owners
    read = decode(encode(written, 100), 100, 1000.0)
    assert read is not None
    assert vars(read) == vars(written)


@pytest.mark.parametrize(
    "state", [{"next_slot": 40.0}, {"paused_until": 100.0}, {"cut_at": 11.0}, {"sent": [9.0, 10.5]}, {"late_at": 11.0}]
)
def test_a_record_from_the_future_is_no_schedule(state: dict[str, Any]) -> None:
    assert decode(encode(schedule(**state), 100), 100, 10.0) is None


def test_a_record_of_another_boot_is_no_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    record = encode(schedule(), 100)
    boot_id = os.urandom(16)
    monkeypatch.setattr("rongcloud_groups.limiters.budget_file._boot_id", lambda: boot_id)
    assert decode(record, 100, 10.0) is None


# ---- one process


async def test_limiters_of_one_file_share_its_slots(path: Path) -> None:
    before = monotonic()
    first, second = HostLimiter(path), HostLimiter(path)
    for _ in range(5):
        await asyncio.gather(first.acquire(), second.acquire())
    assert next_slot(path) >= before + 10 * GAP - WAKE_UP_SLACK
    assert monotonic() >= before + 9 * GAP - WAKE_UP_SLACK


async def test_tasks_that_share_a_limiter_get_one_slot_each(path: Path) -> None:
    before = monotonic()
    limiter = HostLimiter(path)
    await asyncio.gather(*[limiter.acquire() for _ in range(10)])
    assert monotonic() >= before + 9 * GAP - WAKE_UP_SLACK


async def test_a_new_file_begins_with_the_whole_budget(tmp_path: Path, warnings: Warnings) -> None:
    before = monotonic()
    await HostLimiter(tmp_path / "new").acquire()
    await HostLimiter(tmp_path / "new").acquire()
    assert next_slot(tmp_path / "new") < before + QUIET_PERIOD
    assert warnings.messages == []


def test_a_file_that_is_deleted_in_use_is_made_again_and_silent_first(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = HostLimiter(path)
    asyncio.run(limiter.acquire())
    path.unlink()
    asyncio.run(HostLimiter(path).acquire())  # which cannot know
    before = monotonic()
    asyncio.run(reserve_and_leave(limiter))
    assert next_slot(path) >= before + QUIET_PERIOD
    assert ["replaced" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("content", [MARK, MARK + b"3 not a record", MARK + os.urandom(600)])
def test_a_damaged_file_is_silent_first_and_says_so(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    before = monotonic()
    asyncio.run(reserve_and_leave(HostLimiter(path)))
    assert next_slot(path) >= before + QUIET_PERIOD
    assert [str(path) in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("content", [b"[section]\nkey=value\n", b"\0" * 200])
def test_a_file_with_something_else_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="something else; name a file that does not exist yet"):
        HostLimiter(path)
    assert path.read_bytes() == content


def test_a_file_that_becomes_something_else_is_left_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limiter = HostLimiter(path)
    path.write_text("Dear Sir")
    asyncio.run(reserve_and_leave(limiter))
    assert path.read_text() == "Dear Sir"
    assert ["something else" in message for message in caplog.messages] == [True]


def test_a_symbolic_link_is_not_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(ConfigError, match="symbolic link; name the file itself"):
        HostLimiter(link)


@pytest.mark.parametrize(("directory_mode", "file_mode"), [(0o2775, 0o660), (0o755, 0o640)])
def test_a_group_that_shares_the_directory_shares_the_file(tmp_path: Path, directory_mode: int, file_mode: int) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(directory_mode)
    umask = os.umask(0o027)
    try:
        HostLimiter(directory / "budget")
    finally:
        os.umask(umask)
    assert (directory / "budget").stat().st_mode & 0o777 == file_mode


def test_a_file_system_without_locks_is_refused_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)  # there is no such file system here
    with pytest.raises(ConfigError, match="its file system has no locks"):
        HostLimiter(path)


async def test_two_rates_on_one_file_are_reported_once(path: Path, warnings: Warnings) -> None:
    await HostLimiter(path, 100).acquire()
    other = HostLimiter(path, 50)
    await other.acquire()
    await other.acquire()
    assert len(warnings.messages) == 1
    assert "a rate of 50 here and of 100 in another process" in warnings.messages[0]


@pytest.mark.parametrize("held", [False, True])
async def test_a_request_counts_from_the_moment_at_which_it_left(path: Path, held: bool) -> None:  # noqa: FBT001
    put(path)
    limiter = HostLimiter(path)
    await limiter.acquire()
    time.sleep(0.02)  # noqa: ASYNC251  the process is interrupted
    left_at = monotonic()
    with path.open("rb") as file:
        if held:
            fcntl.flock(file, fcntl.LOCK_EX)
        limiter.sent()
    if held:
        await limiter.acquire()
    sent_at, late = state_of(path)
    assert left_at <= sent_at <= monotonic()
    assert late >= 0.02 - WAKE_UP_SLACK


async def test_cancelled_waits_take_one_slot_together(path: Path) -> None:
    put(path, limit=1, ahead=5)
    first = next_slot(path, 1)
    limiter = HostLimiter(path, 1)
    for _ in range(20):
        async with waiting(limiter):
            pass
    assert next_slot(path, 1) == pytest.approx(first + 1 + HOST_JITTER + WAKE_UP_SLACK)


async def test_a_refusal_pauses_and_cuts_the_rate_for_every_limiter(path: Path) -> None:
    refused, other = HostLimiter(path), HostLimiter(path)
    before = monotonic()
    pause = await refused.throttle(None, age=0.01)
    assert pause >= PAUSE
    assert refused.rate == pytest.approx(85)
    await other.acquire()
    assert monotonic() >= before + pause
    assert 85 <= other.rate < 100


async def test_a_burst_of_refusals_is_one_cut(path: Path) -> None:
    limiters = [HostLimiter(path) for _ in range(4)]
    for limiter in limiters:
        await limiter.throttle(None, age=1.0)
    assert [limiter.rate for limiter in limiters] == pytest.approx([85] * 4, abs=0.5)


async def test_a_refusal_holds_back_a_request_that_has_a_slot_already(path: Path) -> None:
    put(path, ahead=1.5)
    async with waiting(HostLimiter(path)) as task:
        before = monotonic()
        pause = await HostLimiter(path).throttle(2, age=0.0)
        await task
        assert monotonic() >= before + pause


async def test_retry_after_is_honoured_up_to_a_minute(path: Path) -> None:
    assert 60 <= await HostLimiter(path).throttle(math.inf, age=0.0) <= 60.05


async def test_a_file_that_cannot_be_used_for_a_while_is_reported_once_and_stops_requests(
    path: Path, warnings: Warnings
) -> None:
    limiter = HostLimiter(path)
    make_unusable(path)
    async with waiting(limiter) as task:
        await warnings.came.wait()
        assert await limiter_is_stuck(task)
        make_usable(path)
        await task
    assert len(warnings.messages) == 1
    assert str(path) in warnings.messages[0]


def make_unusable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_usable(path: Path) -> None:
    path.rmdir()
    put(path)


async def limiter_is_stuck(task: "asyncio.Task[None]") -> bool:
    done, _ = await asyncio.wait([task], timeout=0.3)
    return not done


def test_a_path_that_cannot_be_a_budget_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "such", Path("/dev/null")):
        with pytest.raises(ConfigError, match=str(path)):
            HostLimiter(path)


@pytest.mark.parametrize("limit", [0, -1, math.nan, "100"])
def test_a_limit_that_is_no_positive_number_is_refused(path: Path, limit: float) -> None:
    with pytest.raises(ConfigError, match="rate is"):
        HostLimiter(path, limit)


def test_without_locks_it_says_what_to_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rongcloud_groups.limiters.budget_file.fcntl", None)
    with pytest.raises(ConfigError, match="RedisLimiter"):
        HostLimiter(path)


# ---- several processes


async def test_processes_keep_the_limit_together_also_when_one_is_killed(
    path: Path, children: list["subprocess.Popen[str]"]
) -> None:
    workers = [started(children, GRANTS_UNTIL_A_LINE, str(path), "100") for _ in range(3)]
    for worker in workers:
        assert line_of(worker) == "ready"
    await asyncio.sleep(0.5)  # nothing to wait for: they work
    workers[0].kill()
    await asyncio.sleep(1.5)
    granted = [granted_by(worker) for worker in workers[1:]]
    assert worst_second(time for times in granted for time in times) <= 100
    assert all(len(times) > 20 for times in granted)


def granted_by(worker: "subprocess.Popen[str]") -> Sequence[float]:
    output, _ = worker.communicate("enough\n", timeout=100)
    return msgspec.json.decode(output, type=list[float])


async def test_the_slot_of_a_process_that_was_killed_goes_to_another_one(
    path: Path, children: list["subprocess.Popen[str]"]
) -> None:
    worker = started(children, RESERVES_A_SLOT, str(path))
    assert line_of(worker) == "reserved"
    following = next_slot(path, 0.1)
    worker.kill()
    worker.wait()
    async with waiting(HostLimiter(path, 0.1)):
        assert next_slot(path, 0.1) == following


async def test_a_lock_of_another_process_stops_requests_and_is_reported_after_a_second(
    path: Path, children: list["subprocess.Popen[str]"], warnings: Warnings
) -> None:
    holder = started(children, HOLDS_THE_LOCK, str(path))
    assert line_of(holder) == "locked"
    before = monotonic()
    async with waiting(HostLimiter(path)) as task:
        processor_time = process_time()
        await warnings.came.wait()
        assert monotonic() >= before + WARN_AFTER
        assert process_time() - processor_time < 0.1 * WARN_AFTER
        assert "another process holds its lock" in warnings.messages[0]
        holder.kill()
        await task
    assert len(warnings.messages) == 1


async def test_a_forked_limiter_shares_the_lock_with_its_parent(path: Path) -> None:
    limiter = HostLimiter(path)
    await limiter.acquire()
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing of it is locked, or could be inherited


def test_a_limiter_serves_one_event_loop_after_the_other(path: Path) -> None:
    limiter = HostLimiter(path)
    for _ in range(3):
        asyncio.run(limiter.acquire())


# ---- in a client


async def test_a_client_takes_the_words_for_it(path: Path) -> None:
    async with Emulator(Service()) as emulator:
        client = GroupClient(
            emulator.app_key,
            emulator.app_secret,
            base_urls=emulator.url,
            verify=emulator.ssl_context,
            limiter=f"file:{path}",
        )
        before = next_slot(path)
        async with client:
            await client.get("g1")
        assert next_slot(path) > before


@pytest.mark.parametrize("words", ["", "file:", "file", "memcached://host", "100"])
def test_words_that_mean_no_limiter_are_refused(words: str) -> None:
    with pytest.raises(ConfigError, match="file:PATH or redis://"):
        limiter_from_url(words, app_key="key", limit=100)


async def test_its_words_carry_the_limit(path: Path) -> None:
    async with HostLimiter(path, 30) as limiter:
        assert repr(limiter_from_url(f"file:{path}", app_key="key", limit=30)) == repr(limiter)
    assert repr(limiter) == f"HostLimiter({str(path)!r}, 30, rate=30.0)"

import asyncio
import fcntl
import logging
import math
import os
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rongcloud_groups import ConfigError, GroupClient
from rongcloud_groups.emulator import Emulator, Service, worst_second
from rongcloud_groups.limiters.host import HEADER, MARK, MAX_DAMAGED, Budget, HostLimiter
from rongcloud_groups.limiters.schedule import HOST_JITTER, MAX_LATE, MAX_RESERVED, QUIET_PERIOD, WAKE_UP_SLACK
from rongcloud_groups.limiters.throttle import PAUSE
from rongcloud_groups.limiters.url import limiter_from_url

GAP = (1 + HOST_JITTER + WAKE_UP_SLACK) / 100
GRANTS_UNTIL_TOLD = """
import asyncio, json, sys
from time import monotonic
from rongcloud_groups.limiters.host import HostLimiter

async def main():
    limiter = HostLimiter(sys.argv[1], float(sys.argv[2]))
    granted = []
    print("ready", flush=True)
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    while not told.done():
        await limiter.acquire()
        granted.append(monotonic())
    print(json.dumps(granted))

asyncio.run(main())
"""
HOLDS_THE_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


class Heard(logging.Handler):
    """Tells when the next warning comes, and keeps them all."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.came.set()


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    logger = logging.getLogger("rongcloud_groups")
    handler = Heard()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A budget in use, so that no silence comes first."""
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


def said(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def put(path: Path, *, limit: float = 100, ahead: float = 0.0) -> None:
    path.write_bytes(Budget(limit, monotonic() + ahead).record())


def next_slot(path: Path, limit: float = 100) -> float:
    return Budget.read(path.read_bytes(), limit, monotonic()).next_slot


@asynccontextmanager
async def waiting(limiter: HostLimiter) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that is at the door, with its slot reserved."""
    task = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    yield task
    task.cancel()
    await asyncio.wait([task])


async def reserve_and_leave(limiter: HostLimiter) -> None:
    async with waiting(limiter):
        pass


# ---- what the file holds, without a clock


@given(st.binary(max_size=2 * HEADER.size))
def test_a_damaged_record_is_a_silent_budget(record: bytes) -> None:
    budget = Budget.read(record, 100, 500.0)
    assert budget.reserve(500.0) == 500.0 + QUIET_PERIOD
    assert budget.rate(500.0) == 100


times = st.lists(st.floats(), max_size=MAX_RESERVED)
counts = st.none() | st.integers(-(2**63), 2**63 - 1)


@given(st.tuples(*[st.floats()] * 6), times, times, st.tuples(counts, counts))
def test_whatever_numbers_a_record_has_slots_come_within_minutes_at_a_sane_rate(
    numbers: tuple[float, ...], sent: list[float], reserved: list[float], said: tuple[int | None, ...]
) -> None:
    counted = [len(each) if count is None else count for each, count in zip((sent, reserved), said, strict=True)]
    record = HEADER.pack(MARK, *counted, *numbers) + array("d", sent + reserved).tobytes()
    budget = Budget.read(record, 100, 500.0)
    assert 500.0 - MAX_LATE <= budget.reserve(500.0) <= 500.0 + 120
    assert 5 <= budget.rate(500.0) <= 100


past = st.floats(0, 1000)


@given(past, past, st.floats(0, 500), st.floats(0, 100), st.floats(0, MAX_LATE), past, st.lists(past), st.lists(past))
def test_a_record_is_read_as_it_was_written(
    next_slot: float,
    paused_until: float,
    cut_at: float,
    cut_from: float,
    late: float,
    late_at: float,
    sent: list[float],
    reserved: list[float],
) -> None:
    written = Budget(
        100,
        next_slot,
        sent=sorted(sent),
        reserved=sorted(reserved),
        late=late,
        late_at=late_at,
        paused_until=paused_until,
        cut_at=cut_at,
        cut_from=cut_from,
    )
    assert vars(Budget.read(written.record(), 100, 1000.0)) == vars(written)


@pytest.mark.parametrize("what", ["next_slot", "paused_until", "cut_at"])
def test_a_record_from_before_a_reboot_is_a_silent_budget(what: str) -> None:
    times = {"next_slot": 9.0, "paused_until": 9.0, "cut_at": 9.0} | {what: 40_000.0}
    written = Budget(100, times["next_slot"], paused_until=times["paused_until"], cut_at=times["cut_at"])
    budget = Budget.read(written.record(), 100, 10.0)
    assert budget.reserve(10.0) == 10.0 + QUIET_PERIOD


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


async def test_a_new_file_is_silent_first(tmp_path: Path) -> None:
    before = monotonic()
    limiter = HostLimiter(tmp_path / "new", 1000)
    async with waiting(limiter):
        assert next_slot(tmp_path / "new", 1000) >= before + QUIET_PERIOD


def test_a_deleted_file_is_made_anew(path: Path) -> None:
    limiter = HostLimiter(path)
    asyncio.run(limiter.acquire())
    path.unlink()
    before = monotonic()
    asyncio.run(reserve_and_leave(limiter))
    assert next_slot(path) >= before + QUIET_PERIOD


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", os.urandom(HEADER.size), os.urandom(MAX_DAMAGED)],
    ids=["empty", "text", "noise", "much noise"],
)
def test_a_damaged_file_starts_afresh(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    before = monotonic()
    asyncio.run(reserve_and_leave(HostLimiter(path)))
    first = next_slot(path)
    assert first >= before + QUIET_PERIOD
    asyncio.run(reserve_and_leave(HostLimiter(path)))
    assert next_slot(path) == pytest.approx(first + GAP)


async def test_cancelled_waits_take_one_slot_together(path: Path) -> None:
    put(path, limit=1, ahead=5)
    first = next_slot(path)
    limiter = HostLimiter(path, 1)
    for _ in range(20):
        async with waiting(limiter):
            pass
    assert next_slot(path) == pytest.approx(first + 1 + HOST_JITTER + WAKE_UP_SLACK)


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


async def test_a_refusal_holds_back_who_has_a_slot_already(path: Path) -> None:
    put(path, ahead=0.1)
    async with waiting(HostLimiter(path)) as task:
        before = monotonic()
        pause = await HostLimiter(path).throttle(0.5, age=0.0)
        await task
        assert monotonic() >= before + pause


async def test_retry_after_is_honoured_up_to_a_minute(path: Path) -> None:
    assert 60 <= await HostLimiter(path).throttle(math.inf, age=0.0) <= 60.05


async def test_a_file_that_cannot_be_used_for_a_while_is_told_once_and_stops_requests(path: Path, heard: Heard) -> None:
    limiter = HostLimiter(path)
    make_unusable(path)
    async with waiting(limiter) as task:
        await heard.came.wait()
        assert await limiter_is_stuck(task)
        make_usable(path)
        await task
    assert len(heard.messages) == 1
    assert str(path) in heard.messages[0]


def make_unusable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_usable(path: Path) -> None:
    path.rmdir()
    put(path)


async def limiter_is_stuck(task: "asyncio.Task[None]") -> bool:
    done, _ = await asyncio.wait([task], timeout=0.3)
    return not done


def test_a_path_that_cannot_be_a_budget_is_refused_and_left_alone(tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    letter.write_text("Dear Sir" * MAX_DAMAGED)
    for path in (letter, tmp_path, tmp_path / "no" / "such", Path("/dev/null")):
        with pytest.raises(ConfigError, match=str(path)):
            HostLimiter(path)
    assert letter.read_text().startswith("Dear Sir")


@pytest.mark.parametrize("limit", [0, -1, math.nan, "100"])
def test_a_limit_that_is_no_positive_number_is_refused(path: Path, limit: float) -> None:
    with pytest.raises(ConfigError, match="rate is"):
        HostLimiter(path, limit)


def test_without_locks_it_says_what_to_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rongcloud_groups.limiters.host.fcntl", None)
    with pytest.raises(ConfigError, match="RedisLimiter"):
        HostLimiter(path)


# ---- several processes


async def test_processes_keep_the_limit_together_also_when_one_is_killed(
    path: Path, children: list["subprocess.Popen[str]"]
) -> None:
    workers = [started(children, GRANTS_UNTIL_TOLD, str(path), "100") for _ in range(3)]
    for worker in workers:
        assert said(worker) == "ready"
    await asyncio.sleep(0.5)  # nothing to wait for: they work
    workers[0].kill()
    await asyncio.sleep(1.5)
    granted = [granted_by(worker) for worker in workers[1:]]
    assert worst_second(time for times in granted for time in times) <= 100
    assert all(len(times) > 20 for times in granted)


def granted_by(worker: "subprocess.Popen[str]") -> Sequence[float]:
    output, _ = worker.communicate("enough\n", timeout=20)
    return msgspec.json.decode(output, type=list[float])


async def test_a_lock_that_another_process_holds_stops_requests_and_not_the_event_loop(
    path: Path, children: list["subprocess.Popen[str]"]
) -> None:
    holder = started(children, HOLDS_THE_LOCK, str(path))
    assert said(holder) == "locked"
    async with waiting(HostLimiter(path)) as task:
        assert await limiter_is_stuck(task)
        holder.kill()
        await task


async def test_a_forked_limiter_shares_the_lock_with_its_parent(path: Path) -> None:
    limiter = HostLimiter(path)
    await limiter.acquire()
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing of it is locked, or could be inherited


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

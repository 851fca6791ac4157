import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from rongcloud_groups import (
    AuthenticationError,
    DeadlineExceeded,
    InvalidGroupId,
    JoinPerm,
    Permissions,
    Problem,
    RolePerm,
    ServerError,
    ServiceNotEnabled,
)
from rongcloud_groups.config import DialectName
from rongcloud_groups.emulator.faults import ON_REQUEST
from rongcloud_groups.pytest_plugin import InProcessEmulator

FULL = {
    "group_name": "Chess & Tea ♞",
    "owner": "user1",
    "create_time": datetime(2024, 2, 29, 12, 30, 1, 999_000, tzinfo=UTC),
    "member_count": 7,
    "introduction": "We play.",
    "announcement": 'Thursday, "8 pm"',
    "portrait_url": "https://img.example.com/1.png",
    "ext_profile": {"ext_city": "杭州"},
    "permissions": Permissions(join_perm=JoinPerm.CLOSED, profile_perm=RolePerm.ALL_MEMBERS),
}


@pytest.mark.parametrize("dialect", ["rongcloud", "nexconn"])
@pytest.mark.parametrize(
    "fields",
    [
        FULL,
        {"group_name": "Tea"},
        {},
        {"create_time": datetime(2024, 2, 29, 12, 30, 1, 999_999, tzinfo=UTC)},
        {"create_time": datetime(1969, 2, 28, 12, 30, 1, 1, tzinfo=timezone(timedelta(hours=8)))},
        {"permissions": {"join_perm": 1, "remove_perm": 7}},
        {"extra": {}, "problems": ()},
    ],
)
async def test_a_group_is_found_as_it_was_added(
    rongcloud_emulator: InProcessEmulator, dialect: DialectName, fields: dict[str, object]
) -> None:
    added = rongcloud_emulator.add("g1", **fields)
    async with rongcloud_emulator.client(dialect=dialect) as client:
        assert await client.get("g1") == added
    assert rongcloud_emulator.requests == [["g1"]]


async def test_a_group_that_was_not_added_is_missing(rongcloud_emulator: InProcessEmulator) -> None:
    async with rongcloud_emulator.client() as client:
        assert (await client.get_many(["g1", "g2"])).missing == ["g1", "g2"]


async def test_a_group_can_be_replaced(rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.add("g1", group_name="old", owner="user1")
    renamed = rongcloud_emulator.add("g1", group_name="new")
    async with rongcloud_emulator.client() as client:
        assert await client.get("g1") == renamed


def test_a_misspelt_field_is_refused(rongcloud_emulator: InProcessEmulator) -> None:
    with pytest.raises(TypeError, match="groupName"):
        rongcloud_emulator.add("g1", groupName="Tea")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"member_count": "7"}, r"Expected `int | null`, got `str` - at `\$.member_count`"),
        ({"ext_profile": {"a": 1}}, r"Expected `str`, got `int` - at `\$.ext_profile"),
        ({"ext_profile": None}, r"\$.ext_profile"),
        ({"permissions": {"join_perm": "closed"}}, r"\$.permissions.join_perm"),
        ({"permissions": None}, r"\$.permissions"),
        ({"create_time": datetime(2024, 2, 29, 12)}, "create_time has no time zone"),  # noqa: DTZ001  that is refused
        ({"create_time": 1_700_000_000_000}, r"\$.create_time"),
        ({"extra": {"colour": "red"}}, "extra cannot be added"),
        ({"problems": (Problem(field="owner", reason="no", raw="1"),)}, "problems cannot be added"),
    ],
)
async def test_a_field_that_the_client_would_not_find_is_refused(
    rongcloud_emulator: InProcessEmulator, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rongcloud_emulator.add("g1", **fields)
    async with rongcloud_emulator.client() as client:
        assert await client.get("g1") is None


@pytest.mark.parametrize(
    ("group_id", "reason"), [("a b", "whitespace"), ("", "empty"), ("a" * 65, "65"), (5, "must be a str, not int")]
)
def test_an_id_that_the_client_refuses_is_refused(
    rongcloud_emulator: InProcessEmulator, group_id: Any, reason: str
) -> None:
    with pytest.raises(InvalidGroupId, match=reason):
        rongcloud_emulator.add(group_id)


async def test_requests_that_failed_are_recorded_too(rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.fail_next("error-500")
    async with rongcloud_emulator.client() as client:
        await client.get_many(f"g{number}" for number in range(51))
        assert [group async for group in client.list_groups()] == []
    assert sorted(map(len, rongcloud_emulator.requests)) == [1, 50, 50]


async def test_a_scripted_failure_happens_as_often_as_it_was_scripted(rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.add("g1")
    rongcloud_emulator.fail_next("error-500", times=2)
    async with rongcloud_emulator.client(max_attempts=2) as client:
        with pytest.raises(ServerError):
            await client.get("g1")
        assert await client.get("g1") is not None
    assert len(rongcloud_emulator.requests) == 3


@pytest.mark.parametrize("fault", sorted(set(ON_REQUEST) - {"hang", "skew", "html-403"}))
async def test_a_client_gets_over_a_fault(rongcloud_emulator: InProcessEmulator, fault: str) -> None:
    added = rongcloud_emulator.add("g1", group_name="one")
    rongcloud_emulator.fail_next(fault)
    async with rongcloud_emulator.client() as client:
        profile = await client.get("g1")
    assert profile is not None
    assert profile.group_name == added.group_name


async def test_no_response_is_a_deadline_that_passes(rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.fail_next("hang")
    async with rongcloud_emulator.client() as client:
        with pytest.raises(DeadlineExceeded, match="waiting for the service"):
            await client.get("g1", deadline=0.05)


async def test_a_fatal_error_is_raised(rongcloud_emulator: InProcessEmulator) -> None:
    async with rongcloud_emulator.client(app_secret="another") as client:
        with pytest.raises(AuthenticationError):
            await client.get("g1")
    rongcloud_emulator.service.enabled = False
    async with rongcloud_emulator.client() as client:
        with pytest.raises(ServiceNotEnabled):
            await client.get("g1")


async def test_a_response_can_take_its_time(rongcloud_emulator: InProcessEmulator) -> None:
    rongcloud_emulator.service.latency = 0.05
    clock = asyncio.get_running_loop().time
    async with rongcloud_emulator.client() as client:
        began = clock()
        await client.get("g1")
    assert clock() - began >= 0.05


async def test_a_thousand_groups_take_no_second_of_budget(rongcloud_emulator: InProcessEmulator) -> None:
    async with rongcloud_emulator.client() as client:
        assert len(await client.get_many(f"g{number}" for number in range(1000))) == 1000
        assert client.stats().budget_wait < 0.5


def test_a_fault_that_does_not_exist_is_refused(rongcloud_emulator: InProcessEmulator) -> None:
    with pytest.raises(ValueError, match="error-500"):
        rongcloud_emulator.fail_next("explode")


async def test_a_request_that_asks_for_nothing_is_recorded_as_that(rongcloud_emulator: InProcessEmulator) -> None:
    async with httpx.AsyncClient(transport=rongcloud_emulator.transport) as client:
        answer = await client.post("https://rongcloud.test/entrust/group/profile/query.json", data={})
        assert answer.status_code == 401
    assert rongcloud_emulator.requests == [[]]


def pytest_in(directory: Path, *options: str, program: str = "") -> str:
    """The output of pytest in a process of its own, which the measuring of this test's coverage leaves alone."""
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error", *options]
    run = f"{program}\nimport sys, pytest\nsys.exit(pytest.main({arguments!r}))"
    finished = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", run],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        capture_output=True,
        text=True,
        check=False,
    )
    return finished.stdout + finished.stderr


def test_pytest_finds_the_fixture_by_itself_and_starts_without_the_library(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "loaded = {'rongcloud_groups', 'httpx', 'h2', 'msgspec', 'trustme'} & set(sys.modules)\n"
        "def test_it(rongcloud_emulator): assert (loaded, rongcloud_emulator.requests) == (set(), [])\n"
    )
    output = pytest_in(tmp_path, "-p", "no:respx")
    assert "1 passed" in output, output


def test_the_library_is_measured_whole_where_its_coverage_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(rongcloud_emulator): rongcloud_emulator.add('g1')")
    output = pytest_in(tmp_path, "--cov=rongcloud_groups", "--cov-report=term")
    assert "1 passed" in output, output
    measured = {
        "/".join(line.split()[0].split("/")[-2:]): line.split()[-1] for line in output.splitlines() if "%" in line
    }
    assert measured["rongcloud_groups/__init__.py"] == "100%"
    assert measured["rongcloud_groups/events.py"] != "0%"


def test_the_fixture_needs_no_extra(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(rongcloud_emulator): rongcloud_emulator.add('g1')")
    output = pytest_in(tmp_path, program="import sys; sys.modules['trustme'] = None")
    assert "1 passed" in output

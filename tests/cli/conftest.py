"""The service, the environment and the directory of a command that a test runs."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.bulk_jobs import environment_of
from support.command_line import environment
from support.emulators import emulator_process

from rongcloud_groups.emulator import Emulator, Universe

GROUPS = (
    {
        "groupId": "g1",
        "groupName": "Chess & Tea",
        "owner": "user1",
        "createTime": 1_700_000_000_000,
        "memberCount": 7,
        "groupProfile": {"introduction": "We meet every other Thursday and keep notes of what was decided there."},
    },
    {"groupId": "项目组-1", "groupName": "产品设计讨论组", "owner": "user2", "memberCount": 1234},
    {"groupId": "team_3", "groupName": "週末攝影 🥾", "owner": "user3", "memberCount": 20},
    {"groupId": "-dash"},
    {"groupId": "odd", "groupName": "\x1b[2Jone\ntwo\u202e [bold]three[/bold]", "owner": ":smile:"},
)


@pytest.fixture(scope="session")
def groups_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("groups") / "groups.jsonl"
    path.write_text("".join(json.dumps(group) + "\n" for group in GROUPS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def env(groups_file: Path) -> Iterator[dict[str, str]]:
    """The environment of a command whose service is a process of its own and has `GROUPS`."""
    with emulator_process(f"--groups={groups_file}") as address:
        yield environment(address.url, address.ca_file)


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(limit=None, universe=Universe(unknown_share=0.1, listed=1500)) as emulator:
        yield emulator


@pytest.fixture
def variables(emulator: Emulator, tmp_path: Path) -> dict[str, str]:
    return environment_of(emulator, tmp_path)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    return directory

"""Clients of others get right answers from the emulator: ncsdk (v4), and rc-server-sdk (v1, by its generic request)."""

import asyncio
import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rongcloud_groups.emulator import Emulator, Universe

BATCH = "/entrust/group/profile/query.json"
LISTING = "/entrust/group/query.json"
ASKED = [f"g{number}" for number in range(50)]
# ncsdk is imported by the tests that use it: it takes as long as half of the suite's other modules.


@pytest.fixture(autouse=True)
def default_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    yield
    socket.setdefaulttimeout(before)  # rc-server-sdk changes it for the whole process


def known(universe: Universe) -> list[str]:
    return [group_id for group_id in ASKED if universe.knows(group_id)]


# ncsdk


def nexconn(emulator: Emulator, **credentials: str) -> Any:
    import ncsdk

    configuration = ncsdk.Configuration(ca_cert_data=emulator.ca_pem.decode() or None)
    configuration.set_nexconn_credentials(
        credentials.get("app_key", emulator.app_key), credentials.get("app_secret", emulator.app_secret)
    )
    configuration.set_primary_backup_domains(emulator.url, emulator.url)
    return ncsdk.GroupChannelManagementApi(ncsdk.ApiClient(configuration))


def profiles_asked(api: Any, channel_ids: list[str]) -> Any:
    import ncsdk

    request = ncsdk.GroupChannelProfileListRequest(channelIds=channel_ids)
    return api.batch_get_group_channel_profiles(request)


def channels_listed(api: Any) -> list[Any]:
    import ncsdk

    listed, token = [], None
    while token != "":
        request = ncsdk.GroupChannelListRequest(pageToken=token, pageSize=100, order=0)
        page = api.list_group_channels(request).result
        listed += page.groups
        token = page.page_token or ""
    return listed


@pytest.mark.parametrize("tls", [False, True])
async def test_ncsdk_reads_profiles(*, tls: bool) -> None:
    async with Emulator(tls=tls) as emulator:
        api = nexconn(emulator)
        answers = [await asyncio.to_thread(profiles_asked, api, ASKED) for _ in range(3)]
        universe = emulator.service.universe
        assert emulator.report().connections == 1
    assert [answer.code for answer in answers] == [0, 0, 0]
    profiles = answers[0].result.profiles
    assert [profile.channel_id for profile in profiles] == known(universe)
    for profile in profiles:
        group = universe.get(profile.channel_id)
        assert group is not None
        assert (profile.name, profile.owner) == (group["groupName"], group["owner"])
        assert (profile.created_at, profile.member_count) == (group["createTime"], group["memberCount"])
        assert profile.group_profile == group["groupProfile"]
        assert (profile.group_ext_profile or {}) == group.get("groupExtProfile", {})
        assert (profile.permissions or {}) == group.get("permissions", {})


async def test_ncsdk_lists_every_channel_once_oldest_first() -> None:
    async with Emulator(tls=False, universe=Universe(listed=250)) as emulator:
        channels = await asyncio.to_thread(channels_listed, nexconn(emulator))
    assert [channel.channel_id for channel in channels] == [f"g{number}" for number in range(250)]
    assert all(channel.name and channel.created_at and channel.group_profile for channel in channels)


@pytest.mark.parametrize(
    ("of_the_service", "asked", "error", "status", "code"),
    [
        ({"app_secret": "another"}, ["g1"], "UnauthorizedException", 401, 1004),
        ({"app_key": "another"}, ["g1"], "UnauthorizedException", 401, 1001),
        ({"enabled": False}, ["g1"], "ApiException", 430, 1009),
        ({"limit": 0}, ["g1"], "TooManyRequestsException", 429, 1008),
        ({"versions": frozenset({1})}, ["g1"], "NotFoundException", 404, 404),
        ({}, [f"g{number}" for number in range(51)], "BadRequestException", 400, 1002),
    ],
)
async def test_ncsdk_understands_refusals(
    of_the_service: dict[str, Any], asked: list[str], error: str, status: int, code: int
) -> None:
    import ncsdk

    async with Emulator(tls=False, **{"app_key": "key", "app_secret": "secret"} | of_the_service) as emulator:
        api = nexconn(emulator, app_key="key", app_secret="secret")
        with pytest.raises(ncsdk.ApiException) as caught:
            await asyncio.to_thread(profiles_asked, api, asked)
    assert type(caught.value).__name__ == error
    assert (caught.value.status, json.loads(caught.value.body or "{}")["code"]) == (status, code)


# rc-server-sdk


def posted(emulator: Emulator, path: str, body: str, **credentials: str) -> dict[str, Any]:
    from rongcloud.rongcloud import RongCloud  # type: ignore[import-untyped]  # it has no types

    client = RongCloud(
        credentials.get("app_key", emulator.app_key), credentials.get("app_secret", emulator.app_secret), emulator.url
    )
    answer = client.get_group()._http_post(path, body)  # its generic request, which it keeps to itself
    decoded: dict[str, Any] = json.loads(answer) if isinstance(answer, bytes) else answer  # bytes where it was refused
    return decoded


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "body", ["&".join(f"groupIds={group_id}" for group_id in ASKED), f"groupIds={','.join(ASKED)}"], ids=["&", ","]
)
async def test_rc_server_sdk_reads_profiles(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tls: bool
) -> None:
    async with Emulator(tls=tls) as emulator:
        (tmp_path / "ca.pem").write_bytes(emulator.ca_pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        monkeypatch.setattr(urllib.request, "_opener", None)  # since Python 3.12 it keeps the trust of its first use
        answer = await asyncio.to_thread(posted, emulator, BATCH, body)
        universe = emulator.service.universe
    assert answer["code"] == 200
    assert [profile["groupId"] for profile in answer["profiles"]] == known(universe)
    for profile in answer["profiles"]:
        group = universe.get(profile["groupId"])
        assert group is not None
        for name in ("groupProfile", "groupExtProfile", "permissions"):
            assert json.loads(profile.pop(name, "{}")) == group.pop(name, {})
        assert profile == group


async def test_rc_server_sdk_lists_groups_page_by_page() -> None:
    async with Emulator(tls=False, universe=Universe(listed=70)) as emulator:
        first = await asyncio.to_thread(posted, emulator, LISTING, "size=50&order=0")
        body = f"size=50&order=0&pageToken={first['pageToken']}"
        second = await asyncio.to_thread(posted, emulator, LISTING, body)
    listed = [group["groupId"] for group in first["groups"] + second["groups"]]
    assert listed == [f"g{number}" for number in range(70)]
    assert "pageToken" not in second


@pytest.mark.parametrize(
    ("path", "credentials", "code"),
    [(BATCH, {"app_secret": "another"}, 1004), (BATCH, {"app_key": "another"}, 1001), ("/no/such/api.json", {}, 404)],
)
async def test_rc_server_sdk_understands_refusals(path: str, credentials: dict[str, str], code: int) -> None:
    async with Emulator(tls=False) as emulator:
        answer = await asyncio.to_thread(posted, emulator, path, "groupIds=g1", **credentials)
    assert answer["code"] == code
    assert answer["errorMessage"]

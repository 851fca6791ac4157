"""The published packages that reach the service, each used as its own documentation or source shows.

None of them splits what is over fifty IDs, paces itself or tries again, so all that is added is the split, and for
the one that is asynchronous the same cap on requests in flight. The others send one request after the other. Each is
imported only in the process that measures it, in the environment of `field_environment.py`.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from benchmarks.clients.field_recipes import PATH

from rongcloud_groups.emulator.program import Address

Profiles = dict[str, Any]


def batches_of(group_ids: list[str]) -> Iterator[list[str]]:
    return (group_ids[start : start + 50] for start in range(0, len(group_ids), 50))


class _Sequential:
    """One request after the other; a batch that fails is lost."""

    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        del rate, in_flight  # they know neither
        os.environ["SSL_CERT_FILE"] = address.ca_file or ""
        self.address = address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def look_up(self, group_ids: list[str]) -> Profiles:
        found: Profiles = {}
        for batch in batches_of(group_ids):
            try:
                found |= self.ask(batch)
            except Exception:  # noqa: BLE001, S112  whatever it raises: its IDs are counted as lost
                continue
        return found

    def ask(self, group_ids: list[str]) -> Profiles:
        raise NotImplementedError


class Ncsdk(_Sequential):
    """The vendor's SDK for Nexconn (v4); its models are pydantic's."""

    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        super().__init__(address, rate=rate, in_flight=in_flight)
        ncsdk: Any = import_module("ncsdk")
        configuration = ncsdk.Configuration(ssl_ca_cert=address.ca_file)
        configuration.set_nexconn_credentials(address.app_key, address.app_secret)
        configuration.set_primary_backup_domains(address.url, address.url)
        self._api = ncsdk.GroupChannelManagementApi(ncsdk.ApiClient(configuration))
        self._query = ncsdk.GroupChannelProfileListRequest

    def ask(self, group_ids: list[str]) -> Profiles:
        answer = self._api.batch_get_group_channel_profiles(self._query(channel_ids=group_ids))
        return {profile.channel_id: profile for profile in answer.result.profiles}


class RcServerSdk(_Sequential):
    """The vendor's older SDK, by its private method for any path; the nested texts stay as they are."""

    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        super().__init__(address, rate=rate, in_flight=in_flight)
        package: Any = import_module("rongcloud.rongcloud")
        self._group = package.RongCloud(address.app_key, address.app_secret, address.url).get_group()

    def ask(self, group_ids: list[str]) -> Profiles:
        form = "&".join(f"groupIds={group_id}" for group_id in group_ids)
        answer = self._group._http_post(PATH, form)  # noqa: SLF001  there is no public one
        return {profile["groupId"]: profile for profile in answer["profiles"]}


class McpBaseClient:
    """The base client of the vendor's MCP server; the nested texts stay as they are."""

    def __init__(self, address: Address, *, rate: float, in_flight: int) -> None:
        del rate  # it knows none
        os.environ["SSL_CERT_FILE"] = address.ca_file or ""
        package: Any = import_module("rongcloud_server_mcp.sdk.base_client")
        logging.disable(logging.INFO)  # the package logs each request to the terminal, which is not the client's cost
        self._client = package.BaseClient(address.app_key, address.app_secret, address.url)
        self._in_flight = asyncio.Semaphore(in_flight)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def look_up(self, group_ids: list[str]) -> Profiles:
        answers = await asyncio.gather(*map(self._ask, batches_of(group_ids)), return_exceptions=True)
        good = (answer for answer in answers if isinstance(answer, dict))
        return {profile["groupId"]: profile for answer in good for profile in answer["profiles"]}

    async def _ask(self, group_ids: list[str]) -> Profiles:
        async with self._in_flight:
            answer: Profiles = await self._client.request("POST", PATH, data={"groupIds": group_ids})
        return answer

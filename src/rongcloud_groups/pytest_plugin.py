"""The service inside your tests: no socket, no account, no wait. pytest finds the fixture by itself.

::

    async def test_the_page_shows_the_groups_name(rongcloud_emulator):
        rongcloud_emulator.add("g1", group_name="Chess & Tea", member_count=7)
        async with rongcloud_emulator.client() as client:
            assert await title(client, "g1") == "Chess & Tea (7)"
        assert rongcloud_emulator.requests == [["g1"]]

    async def test_the_page_shows_no_title_while_the_service_is_down(rongcloud_emulator):
        rongcloud_emulator.fail_next("error-500", times=2)
        async with rongcloud_emulator.client(max_attempts=2) as client:
            assert await title(client, "g1") == ""

The fixture ``rongcloud_emulator`` is a new `InProcessEmulator` for each test. It is not asynchronous, so it goes with
pytest-asyncio and with anyio's plugin. Signing, batching, retries and decoding are the real client's; only the
connection is left out. The client reads no environment variables, so options replace them. An app that calls
``GroupClient.from_env()`` gets the emulator's client in its place, such as by FastAPI's ``dependency_overrides``.

To leave it out, run pytest with ``-p no:rongcloud_groups``.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any, Unpack

import anyio
import httpx
import msgspec

from rongcloud_groups._protocol.dialects import RONGCLOUD
from rongcloud_groups._protocol.lenient import PERMISSION_KEYS
from rongcloud_groups._protocol.requests import validated_group_id
from rongcloud_groups.client import GroupClient
from rongcloud_groups.config import AllOptions
from rongcloud_groups.emulator import Service, Universe
from rongcloud_groups.emulator.requests import ServiceRefusal, parse_group_ids
from rongcloud_groups.emulator.service import ROUTES
from rongcloud_groups.models import GroupProfile, Permissions


class InProcessEmulator:
    """The service without its network. Only the groups that are added exist, and no rate limit holds.

    Attributes:
        service: the service; its attributes (``enabled``, ``locked``, ``latency`` and so on) may be changed.
        requests: the group IDs of each batch query, in the order in which they came, also of those that failed.
        transport: carries a client's requests to this service.
    """

    def __init__(self) -> None:
        self.service = Service(universe=Universe(only_explicit=True), limit=None)
        self.requests: list[list[str]] = []
        self.transport: httpx.AsyncBaseTransport = httpx.MockTransport(self._respond)

    def add(self, group_id: str, **fields: Any) -> GroupProfile:
        """Add a group, or replace it.

        Args:
            group_id: its ID.
            **fields: its fields of `GroupProfile`, but not ``problems`` and ``extra``.

        Returns:
            The profile that the client will find; the service cuts ``create_time`` to the millisecond.

        Raises:
            InvalidGroupId: the client refuses this ID.
            TypeError: `GroupProfile` has no such field.
            ValueError: a field is of another type than `GroupProfile` says, or ``create_time`` has no time zone, or
                the field cannot be added.
        """
        profile = _as_found(GroupProfile(group_id=validated_group_id(group_id), **fields))
        self.service.universe.add(group_id, **_service_fields(profile))
        return profile

    def fail_next(self, fault: str, times: int = 1) -> None:
        """Script a fault for the next requests, after those already scripted.

        Args:
            fault: ``"error-500"``, ``"error-504"``, ``"429"``, ``"html-502"``, ``"garbage"``, ``"truncated"``,
                ``"drop"`` (the connection breaks), ``"hang"`` (no response), or another name in
                `rongcloud_groups.emulator.faults.ON_REQUEST`.
            times: to how many requests.

        Raises:
            ValueError: there is no fault of that name; the message lists them.
        """
        self.service.faults.next(fault, times)

    def client(self, **options: Unpack[AllOptions]) -> GroupClient:
        """A client of this emulator, to be opened with ``async with``.

        Args:
            **options: as for `GroupClient`; they take precedence over the emulator's.
        """
        service = AllOptions(
            app_key=self.service.app_key,
            app_secret=self.service.app_secret,
            base_urls="https://rongcloud.test",
            rate=10_000.0,
            transport=self.transport,
        )
        return GroupClient(**(service | options))

    async def _respond(self, request: httpx.Request) -> httpx.Response:
        path, headers, body = request.url.path, request.headers, request.content
        route = ROUTES.get(path)
        if route is not None and route[1] == "batch":
            try:
                self.requests.append(parse_group_ids(route[0], headers, body))
            except ServiceRefusal:
                self.requests.append([])
        now = asyncio.get_running_loop().time()
        response = self.service.respond(request.method, path, headers, body, now)
        if response.fault == "hang":
            await anyio.sleep_forever()
        await anyio.sleep(response.delay)
        if response.fault not in (None, "goaway", "slow-body"):  # these lose no response
            raise httpx.RemoteProtocolError(f"the connection was lost, as was scripted: {response.fault}")
        return httpx.Response(response.status, headers=response.headers, content=response.body)


def _as_found(profile: GroupProfile) -> GroupProfile:
    """The profile, checked, and with no more than the service keeps of it."""
    for name in ("problems", "extra"):
        if getattr(profile, name):
            raise ValueError(f"{name} cannot be added: it is the client's account of a response that it cannot read")
    values = msgspec.to_builtins(profile, builtin_types=(datetime,))
    profile = msgspec.convert(values, GroupProfile)
    time = profile.create_time
    if time is None:
        return profile
    if time.tzinfo is None:
        raise ValueError(f"create_time has no time zone: give one, such as {time!r} with tzinfo=UTC")
    time = time.astimezone(UTC).replace(microsecond=time.microsecond // 1000 * 1000)
    return msgspec.structs.replace(profile, create_time=time)


def _service_fields(profile: GroupProfile) -> dict[str, Any]:
    """The fields under the service's names, without those that are None."""
    fields: dict[str, Any] = {}
    for name, (path, *_) in RONGCLOUD.profile.items():
        value = getattr(profile, name)
        if isinstance(value, datetime):
            value = round(value.timestamp() * 1000)
        elif isinstance(value, Permissions):
            value = {PERMISSION_KEYS[each]: number for each, number in msgspec.structs.asdict(value).items()}
        outer, _, key = path.rpartition(".")
        if value is not None and name != "group_id":
            (fields.setdefault(outer, {}) if outer else fields)[key] = value
    return fields

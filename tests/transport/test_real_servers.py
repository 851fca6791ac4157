"""The client through web servers that others use, which limit streams, compress, and end connections at any time."""

import asyncio
import ssl
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support.web_servers import WEB_SERVERS, authority, reason_to_skip

from rongcloud_groups import GroupClient
from rongcloud_groups.emulator import Emulator, Service, Universe
from rongcloud_groups.events import BatchAnswered, ConnectionOpened, Event

BATCHES = 400
"""The least number; more are asked for until the last reload has ended a connection."""
RELOADS = 3
PARTS_BETWEEN = 50
"""Parts of the stream from one reload to the next, at least."""


@pytest.mark.parametrize("name", WEB_SERVERS)
async def test_every_id_is_found_while_the_server_ends_connections_and_is_reloaded(name: str, tmp_path: Path) -> None:
    if reason := reason_to_skip(name):
        pytest.skip(reason)
    context = ssl.create_default_context()
    authority().configure_trust(context)
    given: list[str] = []
    found: list[str] = []
    opened: list[str] = []
    events: list[Event] = []
    reloads = 0

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, ConnectionOpened):
            opened.append(event.http_version)

    def group_ids() -> Iterator[str]:
        for number in count():
            if number >= 50 * BATCHES and reloads == RELOADS < len(opened):
                return
            given.append(f"group-{number}")
            yield given[-1]

    backend = Emulator(Service(universe=Universe(unknown_share=0), limit=None), tls=False)
    async with (
        asyncio.timeout(300),
        backend,
        WEB_SERVERS[name](tmp_path, int(backend.url.rpartition(":")[2])) as server,
        GroupClient(
            backend.app_key,
            backend.app_secret,
            base_urls=[server.url],
            verify=context,
            rate=1000,
            max_attempts=20,
            requests_per_connection=1000,
            hooks=[on_event],
        ) as client,
        client.stream(group_ids()) as parts,
    ):
        number, next_reload = 0, PARTS_BETWEEN
        async for part in parts:
            assert not part.missing
            assert not part.failed
            found += part.found
            number += 1
            if reloads < RELOADS and number >= next_reload and len(opened) > reloads:
                await server.reload()
                reloads += 1
                next_reload = number + PARTS_BETWEEN
    assert sorted(found) == sorted(given)
    assert sum(isinstance(event, BatchAnswered) for event in events) >= len(given) // 50
    assert set(opened) == {"HTTP/2"}
    assert len(opened) > RELOADS

"""The client through web servers that others use, which limit streams, compress, and end connections at any time."""

import ssl
from pathlib import Path

import pytest
from support.web_servers import WEB_SERVERS, authority, reason_to_skip

from rongcloud_groups import GroupClient
from rongcloud_groups.emulator import Emulator, Service, Universe
from rongcloud_groups.events import BatchAnswered, ConnectionOpened, Event

BATCHES = 800
RELOAD_AFTER = (50, 125, 200)
"""Parts of the stream after which the server is reloaded."""


@pytest.mark.parametrize("name", WEB_SERVERS)
async def test_every_id_is_found_while_the_server_ends_connections_and_is_reloaded(name: str, tmp_path: Path) -> None:
    if reason := reason_to_skip(name):
        pytest.skip(reason)
    context = ssl.create_default_context()
    authority().configure_trust(context)
    group_ids = [f"group-{number}" for number in range(50 * BATCHES)]
    events: list[Event] = []
    found: list[str] = []
    backend = Emulator(Service(universe=Universe(unknown_share=0), limit=None), tls=False)
    async with (
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
            hooks=[events.append],
        ) as client,
        client.stream(group_ids) as parts,
    ):
        number = 0
        async for part in parts:
            assert not part.missing
            assert not part.failed
            found += part.found
            number += 1
            if number in RELOAD_AFTER:
                await server.reload()
    assert sorted(found) == sorted(group_ids)
    assert sum(isinstance(event, BatchAnswered) for event in events) >= BATCHES
    opened = [event.http_version for event in events if isinstance(event, ConnectionOpened)]
    assert set(opened) == {"HTTP/2"}
    assert len(opened) > len(RELOAD_AFTER)

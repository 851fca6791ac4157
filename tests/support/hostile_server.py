"""HTTP/2 servers that are broken or mean harm, each answering group IDs until it turns; apart from the emulator."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import parse_qs

from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from support.h2_peer import HIGHEST_STREAM_ID, Peer, Received, Script, Server, client_context, serving

from rongcloud_groups import GroupClient

STREAMS: Final = SettingsFrame.MAX_CONCURRENT_STREAMS

HARMLESS_FIELDS: Final = [
    [("connection", "keep-alive"), ("keep-alive", "timeout=5, max=1000")],
    [("connection", "close")],
    [("proxy-connection", "keep-alive")],
    [("transfer-encoding", "chunked")],
    [("upgrade", "h2c")],
    [("te", "gzip")],
    [("Server", "Upper-Case"), ("X-Request-ID", "7")],
    [("x-padded", "  value "), ("x-empty", "")],
    [("content-type", "application/json"), ("content-type", "application/json")],
]
"""Response fields that RFC 9113, section 8.2, forbids or frowns on, and that change nothing for the reader."""

EARLY_HINTS: Final = b"\x08\x03103"
"""The header block of a response 103, the same every time."""

FLOODS: Final[dict[str, bytes]] = {
    "SETTINGS": SettingsFrame(settings={STREAMS: 100}).serialize(),
    "SETTINGS of many values": bytes([0, 0x3F, 0xF6, 4, 0, 0, 0, 0, 0]) + bytes([0, 3, 0, 0, 0, 100]) * 2729,
    "SETTINGS ACK": SettingsFrame(flags=["ACK"]).serialize(),
    "empty DATA": DataFrame(1, b"").serialize(),
    "padding alone": DataFrame(1, b"", flags=["PADDED"], pad_length=255).serialize(),
    "DATA byte by byte": DataFrame(1, b"x").serialize(),
    "response 103": HeadersFrame(1, EARLY_HINTS, flags=["END_HEADERS"]).serialize(),
    "response 103 of many fields": HeadersFrame(1, EARLY_HINTS + b"\x90" * 700, flags=["END_HEADERS"]).serialize(),
    "PING": PingFrame(opaque_data=b"12345678").serialize(),
    "PING ACK": PingFrame(flags=["ACK"], opaque_data=b"12345678").serialize(),
    "WINDOW_UPDATE": WindowUpdateFrame(0, window_increment=1).serialize(),
    "WINDOW_UPDATE of a stream": WindowUpdateFrame(1, window_increment=1).serialize(),
    "PRIORITY": PriorityFrame(1, depends_on=3).serialize(),
    "RST_STREAM of another": RstStreamFrame(3, error_code=8).serialize(),
    "GOAWAY": GoAwayFrame(last_stream_id=HIGHEST_STREAM_ID).serialize(),
    "an unknown frame": ExtensionFrame(0x77, 0, body=b"").serialize(),
    "CONTINUATION": ContinuationFrame(1, b"").serialize(),
}
"""What a server may send without end while it owes a response to stream 1, and has closed stream 3."""


def respond(peer: Peer, request: Received) -> None:
    """Responds with a profile for each group ID."""
    group_ids = parse_qs(request.body.decode())["groupIds"]
    profiles = [{"groupId": group_id, "groupName": f"name of {group_id}"} for group_id in group_ids]
    peer.respond(request.stream_id, json.dumps({"code": 200, "profiles": profiles}).encode())


def on_first_connection(behave: Script) -> Script:
    """Behaves so on the first connection; responds on the others."""

    def script(peer: Peer, request: Received) -> None:
        (behave if peer is peer.server.peers[0] else respond)(peer, request)

    return script


def after(requests: int, behave: Script) -> Script:
    """Responds to so many requests of each connection, then behaves so."""

    def script(peer: Peer, request: Received) -> None:
        (respond if len(peer.requests) <= requests else behave)(peer, request)

    return script


def ignore(_peer: Peer, _request: Received) -> None:
    """Never responds, though PINGs are answered."""


def lower_streams_to_none(peer: Peer, request: Received) -> None:
    peer.write(SettingsFrame(settings={STREAMS: 0}))
    respond(peer, request)


def stop_reading(peer: Peer, _request: Received) -> None:
    """Reads no more, yet keeps sending PINGs, so it never falls silent."""
    peer.stop_reading()
    _repeat(peer, PingFrame(opaque_data=b"12345678").serialize(), 0.02)


def flood(frame: bytes) -> Script:
    """Sends a frame without end as soon as a request has come."""

    def script(peer: Peer, request: Received) -> None:
        if request.stream_id == 1:
            if frame == FLOODS["CONTINUATION"]:
                peer.write(HeadersFrame(1, b""))
            if frame[3] == DataFrame.type:
                peer.write(peer.headers(1))
            _repeat(peer, frame * (65_536 // len(frame)), 0)

    return script


def _repeat(peer: Peer, data: bytes, pause: float) -> None:
    async def send() -> None:
        while not peer.lost.is_set():
            peer.transport.write(data)
            await peer.drained.wait()
            await asyncio.sleep(pause)

    peer.tasks.append(asyncio.get_running_loop().create_task(send()))


def client_of(server: Server, **options: Any) -> GroupClient:
    """A client whose attempts take as long as a busy machine may need, but where a test has them short."""
    defaults: dict[str, Any] = {
        "base_urls": [f"https://127.0.0.1:{server.port}"],
        "verify": client_context(),
        "attempt_timeout": 30,
        "max_attempts": 3,
    }
    return GroupClient("key", "secret", **(defaults | options))


@asynccontextmanager
async def hostile(
    script: Script, settings: dict[int, int] | None = None, greet: Callable[[Peer], None] | None = None, **options: Any
) -> AsyncIterator[tuple[Server, GroupClient]]:
    """A server that plays `script`, and a client of it."""
    async with serving(script, settings, greet) as server, client_of(server, **options) as client:
        yield server, client

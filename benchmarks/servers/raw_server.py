"""A server that does as little as it can for a request, so that the client is what takes the time.

It speaks TLS with HTTP/2 or HTTP/1.1, as ALPN has it, and answers each request for profiles at once with
`realistic_profiles`, without a look at the signature. It is the same for every client. A group ID that begins with
``after-SECONDS-`` delays the response it is in. On its one line of output it says where it is.
"""

import argparse
import asyncio
import ssl
import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec
import trustme
from benchmarks.servers.realistic_profiles import reply
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from rongcloud_groups.emulator.program import Address

WINDOW = 2**24
STREAMS = 200


class _NexconnQuery(msgspec.Struct):
    group_ids: list[str] = msgspec.field(name="channelIds")


def answer(path: str, body: bytes) -> tuple[float, bytes]:
    """After how many seconds to answer, and what."""
    if path.startswith("/v4/"):
        group_ids = msgspec.json.decode(body, type=_NexconnQuery).group_ids
        content = reply("nexconn", group_ids)
    else:
        values = [value for key, value in parse_qsl(body.decode()) if key == "groupIds"]
        group_ids = ",".join(values).split(",")
        content = reply("rongcloud", group_ids)
    delays = [float(group_id.split("-")[1]) for group_id in group_ids if group_id.startswith("after-")]
    return max(delays, default=0.0), content


class HTTP2(asyncio.Protocol):
    def __init__(self) -> None:
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._requests: dict[int, tuple[str, bytearray]] = {}
        self._unsent: dict[int, memoryview] = {}
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS})
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._flush()
            self._transport.close()
            return
        for event in events:
            match event:
                case RequestReceived():
                    path = dict(event.headers)[b":path"].decode()
                    self._requests[event.stream_id] = (path, bytearray())
                case DataReceived():
                    self._requests[event.stream_id][1].extend(event.data)
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    self._answer(event.stream_id)
                case StreamReset():
                    self._requests.pop(event.stream_id, None)
                    self._unsent.pop(event.stream_id, None)
                case WindowUpdated():
                    for stream_id in list(self._unsent):
                        self._send(stream_id)
                case _:
                    pass
        self._flush()

    def _answer(self, stream_id: int) -> None:
        path, body = self._requests[stream_id]
        delay, content = answer(path, bytes(body))
        if delay:
            asyncio.get_running_loop().call_later(delay, self._answer_late, stream_id, content)
        else:
            self._start(stream_id, content)

    def _answer_late(self, stream_id: int, content: bytes) -> None:
        if stream_id in self._requests and not self._transport.is_closing():
            self._start(stream_id, content)
            self._flush()

    def _start(self, stream_id: int, content: bytes) -> None:
        del self._requests[stream_id]
        headers = [(":status", "200"), ("content-type", "application/json"), ("content-length", str(len(content)))]
        self._h2.send_headers(stream_id, headers)
        self._unsent[stream_id] = memoryview(content)
        self._send(stream_id)

    def _send(self, stream_id: int) -> None:
        unsent = self._unsent[stream_id]
        while size := min(len(unsent), self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size):
            self._h2.send_data(stream_id, unsent[:size], end_stream=size == len(unsent))
            unsent = unsent[size:]
        self._unsent[stream_id] = unsent
        if not unsent:
            del self._unsent[stream_id]

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._transport.write(data)


class HTTP1(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while True:
            head, separator, rest = self._received.partition(b"\r\n\r\n")
            if not separator:
                return
            request, *lines = head.decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(fields.get("content-length", "0"))
            if len(rest) < length:
                return
            self._received = rest[length:]
            delay, content = answer(request.split(" ")[1], rest[:length])
            closes = fields.get("connection", "").lower() == "close"
            send = partial(self._send, content, closes=closes)
            if delay:
                asyncio.get_running_loop().call_later(delay, send)
            else:
                send()

    def _send(self, content: bytes, *, closes: bool) -> None:
        if self._transport.is_closing():
            return
        connection = "close" if closes else "keep-alive"
        head = (
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: {connection}\r\n\r\n"
        )
        self._transport.write(head.encode() + content)
        if closes:
            self._transport.close()


class Negotiated(asyncio.Protocol):
    """Hands a new connection to the protocol that ALPN chose."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        tls = transport.get_extra_info("ssl_object")
        protocol = HTTP2() if tls.selected_alpn_protocol() == "h2" else HTTP1()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


async def serve(ca_file: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = await asyncio.get_running_loop().create_server(Negotiated, "127.0.0.1", 0, ssl=context, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    address = Address(f"https://127.0.0.1:{port}", "app-key", "app-secret", str(ca_file))
    print(msgspec.json.encode(address).decode(), flush=True)
    await server.serve_forever()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(serve(Path(directory) / "ca.pem"))


if __name__ == "__main__":
    main()

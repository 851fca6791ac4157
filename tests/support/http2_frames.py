"""Frames of a server for property tests: sound ones, and others."""

from collections.abc import Callable

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import strategies as st


def serialize(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """A frame of any type, with any payload."""
    size = len(payload)
    return size.to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload


def response(stream_id: int, body: bytes, *, length: int | None, status: str = "200") -> bytes:
    fields = [(":status", status), ("server", "x")]
    if length is not None:
        fields.append(("content-length", str(length)))
    headers = HeadersFrame(stream_id, Encoder().encode(fields), flags=["END_HEADERS"])
    return headers.serialize() + DataFrame(stream_id, body, flags=["END_STREAM"]).serialize()


stream_ids = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 2**31 - 1])
open_stream_ids = st.sampled_from([1, 3, 5, 7])
flags = st.sets(st.sampled_from(["END_STREAM", "END_HEADERS", "PADDED", "PRIORITY", "ACK"]))
words = st.integers(0, 2**31 - 1)


def frames(build: Callable[..., Frame], **parts: st.SearchStrategy[object]) -> st.SearchStrategy[bytes]:
    def serialized(options: dict[str, object]) -> bytes:
        chosen = options.pop("flags", ())
        frame = build(**options)
        defined = {flag.name for flag in frame.defined_flags}
        for flag in sorted(set(chosen) & defined):  # type: ignore[call-overload]
            frame.flags.add(flag)
        return frame.serialize()

    return st.fixed_dictionaries({**parts, "flags": flags}).map(serialized)


sound = st.one_of(
    st.builds(
        response, open_stream_ids, st.binary(max_size=40), length=st.none() | st.integers(0, 40), status=st.just("200")
    ),
    st.builds(lambda stream_id, body: response(stream_id, body, length=len(body)), open_stream_ids, st.binary()),
    st.builds(
        response, open_stream_ids, st.just(b""), length=st.just(0), status=st.sampled_from(["500", "2x0", "103"])
    ),
    frames(
        SettingsFrame,
        settings=st.dictionaries(st.sampled_from([1, 2, 3, 4, 5, 6]), st.sampled_from([0, 1, 2, 100, 16384, 65536])),
    ),
    frames(DataFrame, stream_id=open_stream_ids, data=st.binary(max_size=50)),
    frames(RstStreamFrame, stream_id=open_stream_ids, error_code=st.sampled_from([0, 2, 7, 8, 99])),
    frames(GoAwayFrame, last_stream_id=words | open_stream_ids, error_code=st.sampled_from([0, 1, 11, 999])),
    frames(WindowUpdateFrame, stream_id=st.just(0) | open_stream_ids, window_increment=st.integers(1, 2**31 - 1)),
    frames(PingFrame, opaque_data=st.binary(min_size=8, max_size=8)),
)
hostile = st.one_of(
    frames(HeadersFrame, stream_id=open_stream_ids, data=st.binary(max_size=30)),
    frames(ContinuationFrame, stream_id=open_stream_ids, data=st.binary(max_size=30)),
    frames(PushPromiseFrame, stream_id=open_stream_ids, promised_stream_id=st.just(2), data=st.binary(max_size=9)),
    st.builds(lambda t, s, b: ExtensionFrame(t, s, body=b).serialize(), st.integers(11, 255), stream_ids, st.binary()),
    st.builds(
        lambda length, kind, flag, stream_id, payload: (
            bytes([0, 0, length, kind, flag]) + stream_id.to_bytes(4, "big") + payload
        ),
        st.integers(0, 30),
        st.integers(0, 12),
        st.integers(0, 255),
        stream_ids,
        st.binary(max_size=30),
    ),
    st.binary(max_size=60),
)

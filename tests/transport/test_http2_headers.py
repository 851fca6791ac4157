import logging

import pytest
from hpack import Decoder, HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from rongcloud_groups._http import Request
from rongcloud_groups._transport.http2.headers import HeaderBuilder, HeaderEncoder

names = st.sampled_from([b"app-key", b"nonce", b"content-length", b":authority", b":path", b"accept-encoding", b"x"])
values = st.binary(max_size=40) | st.sampled_from(
    [b"", b"POST", b"/", b"gzip, deflate", b"v" * 126, b"v" * 127, b"v" * 300]
)
fields = st.builds(HeaderTuple, names, values) | st.builds(NeverIndexedHeaderTuple, names, values)


@given(
    st.lists(
        st.tuples(st.lists(fields, max_size=12), st.none() | st.sampled_from([0, 40, 200, 4096, 8192])), max_size=12
    )
)
def test_every_header_block_is_read_as_it_was_given_whatever_the_table_holds(
    blocks: list[tuple[list[HeaderTuple], int | None]],
) -> None:
    encoder, decoder = HeaderEncoder(), Decoder()
    decoder.max_allowed_table_size = 8192
    for block, table_size in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        assert decoder.decode(encoder.encode(block), raw=True) == [tuple(field) for field in block]


def test_what_requests_repeat_takes_a_byte_and_what_differs_stays_out_of_the_table() -> None:
    fields, encoder, decoder = HeaderBuilder("groups.test"), HeaderEncoder(), Decoder()
    sizes = []
    for number in range(4):
        headers = [("app-key", "key"), ("nonce", f"{number:016}"), ("signature", f"{number:040}")]
        block = encoder.encode(fields.build(Request("/query.json", headers, b"groupIds=g1")))
        sizes.append(len(block))
        assert (b"nonce", b"%016d" % number) in list(decoder.decode(block, raw=True))
    repeated = [":method", ":scheme", ":authority", ":path", "app-key", "content-length"]
    differing = len("nonce" + "0" * 16) + len("signature" + "0" * 40) + 2 * 3  # the representation and two lengths
    assert sizes[0] > sizes[1]
    assert sizes[1:] == [sizes[1]] * 3
    assert sizes[1] <= len(repeated) + differing
    assert len(decoder.header_table.dynamic_entries) == len({"authority", "path", "app-key", "length"})


def test_a_signature_is_never_indexed_and_reaches_no_log(caplog: pytest.LogCaptureFixture) -> None:
    fields, encoder, decoder = HeaderBuilder("groups.test"), HeaderEncoder(), Decoder()
    headers = [("app-key", "key"), ("nonce", "nonce-seen-by-none"), ("signature", "5ec4e7" * 7)]
    with caplog.at_level(logging.DEBUG):
        blocks = [encoder.encode(fields.build(Request("/query.json", headers, b""))) for _ in range(2)]
    assert "5ec4e7" not in caplog.text
    assert "nonce-seen-by-none" not in caplog.text
    for block in blocks:
        indexable = {bytes(field[0]): field.indexable for field in decoder.decode(block, raw=True)}
        assert not indexable[b"signature"]
        assert not indexable[b"nonce"]
        assert indexable[b"app-key"]

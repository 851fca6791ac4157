import logging
import random

import pytest
from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from rongcloud_groups._http import Request
from rongcloud_groups._transport.http2.frames import ErrorCode, ProtocolError
from rongcloud_groups._transport.http2.headers import HeaderDecoder, HeaderEncoder
from rongcloud_groups._transport.response import MAX_HEADER_LIST_SIZE

names = st.sampled_from(["app-key", "nonce", "content-type", "accept-encoding", "user-agent", "x", "x-" + "y" * 130])
values = st.text(max_size=40) | st.sampled_from(["", "gzip", "v" * 126, "v" * 127, "v" * 300, "v" * 20_000])
requests = st.builds(
    Request,
    st.sampled_from(["/", "/group/query.json", "/" + "p" * 200]),
    st.lists(st.tuples(names, values), max_size=12),
    st.binary(max_size=40),
)


def fields_of(request: Request) -> list[tuple[bytes, bytes]]:
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "groups.test"), (":path", request.path)]
    fields = [*pseudo, *request.headers, ("content-length", str(len(request.body)))]
    return sorted((name.encode(), value.encode()) for name, value in fields)


@given(st.lists(st.tuples(requests, st.none() | st.sampled_from([0, 40, 200, 4096, 8192])), max_size=12))
def test_hpack_reads_every_block_as_it_was_given_whatever_table_the_server_allows(
    blocks: list[tuple[Request, int | None]],
) -> None:
    encoder, decoder = HeaderEncoder("groups.test"), Decoder(2**20)
    for request, table_size in blocks:
        if table_size is not None:
            decoder.max_allowed_table_size = table_size
        decoded = [tuple(field) for field in decoder.decode(encoder.encode(request), raw=True)]
        assert sorted(decoded) == fields_of(request)
        assert [name.startswith(b":") for name, _ in decoded[:4]] == [True] * 4
        assert not decoder.header_table.dynamic_entries


def test_no_field_that_may_hold_a_secret_is_ever_indexed_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    encoder, decoder = HeaderEncoder("groups.test"), Decoder()
    headers = [("app-key", "key"), ("nonce", "nonce-seen-by-none"), ("signature", "5ec4e7" * 7)]
    with caplog.at_level(logging.DEBUG):
        blocks = [encoder.encode(Request("/query.json", headers, b"")) for _ in range(2)]
    assert "5ec4e7" not in caplog.text
    assert "nonce-seen-by-none" not in caplog.text
    for block in blocks:
        indexable = {bytes(field[0]): field.indexable for field in decoder.decode(block, raw=True)}
        assert {name for name, indexed in indexable.items() if not indexed} == {b"app-key", b"nonce", b"signature"}


def test_responses_are_read_as_hpack_wrote_them_with_the_table_changing_its_size() -> None:
    encoder, decoder, chosen = Encoder(), HeaderDecoder(), random.Random(7)
    for number in range(300):
        if number % 10 == 0:
            encoder.header_table_size = chosen.choice([0, 64, 200, 4096])
        fields = [(b":status", b"200"), (b"date", b"%d" % (number // 3)), (b"x", bytes(chosen.randbytes(9)))]
        tuples = [chosen.choice([HeaderTuple, NeverIndexedHeaderTuple])(*field) for field in fields]
        assert decoder.decode(encoder.encode(tuples, huffman=bool(number % 2))) == fields


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        pytest.param(b"\x80", "header block", id="index 0"),
        pytest.param(b"\xff\x00", "header block", id="an index beyond both tables"),
        pytest.param(b"\x00\x05nam", "header block", id="cut short"),
        pytest.param(b"\x3f\xe2\x1f", "header block", id="a table larger than was allowed"),
        pytest.param(b"\x88\x20", "header block", id="a table size behind a field"),
        pytest.param(b"\x20\x3f\xe1\x1f\x20\x88", "more than two table sizes", id="three table sizes"),
        pytest.param(b"\x20" * 65_000, "more than two table sizes", id="very many table sizes"),
        pytest.param(b"\x7f" + b"\xff" * 3_000 + b"\x00", "header block", id="an endless integer"),
        pytest.param(b"\x00\x81\xff\x00", "header block", id="padding that is no Huffman code"),
        pytest.param(b"\x00\x01x\x00" * 4_000, "header list larger than 65536", id="many fields"),
        pytest.param(b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4_000 + b"\xbe" * 20, "header list larger", id="a bomb"),
    ],
)
def test_a_block_that_is_none_ends_the_connection(block: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason) as error:
        HeaderDecoder().decode(block)
    assert error.value.code == ErrorCode.COMPRESSION_ERROR


def test_two_table_sizes_and_the_largest_list_are_sound() -> None:
    decoder = HeaderDecoder()
    value = b"v" * (MAX_HEADER_LIST_SIZE // 2 - 33)
    field = b"\x00\x01x" + b"\x7f\xe0\xfe\x01" + value
    assert len(value) == 0x7F + 0x60 + (0x7E << 7) + (1 << 14)
    assert decoder.decode(b"\x20\x3f\xe1\x1f" + field * 2) == [(b"x", value)] * 2

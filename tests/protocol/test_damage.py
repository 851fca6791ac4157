"""Responses that are damaged, or made to do damage."""

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
import pytest
from support.service_api import api

from rongcloud_groups import DecodeError, GroupProfile
from rongcloud_groups._http import Response
from rongcloud_groups._protocol.api import BatchResult, ListingPage
from rongcloud_groups._protocol.dialects import DIALECTS, NEXCONN, RONGCLOUD, Dialect
from rongcloud_groups._protocol.repair import MAX_DEPTH
from rongcloud_groups._protocol.responses import max_body

IDS = [f"g{number}" for number in range(50)]
Encode = Callable[[bytes], bytes]
ENCODINGS: dict[str, Encode] = {"identity": bytes, "gzip": lambda body: gzip.compress(body, mtime=0)} | {
    "deflate": zlib.compress
}


@pytest.fixture(params=list(DIALECTS.values()), ids=list(DIALECTS))
def spoken(request: pytest.FixtureRequest) -> Dialect:
    dialect: Dialect = request.param
    return dialect


def body_with(dialect: Dialect, values: bytes, key: bytes = b"profiles") -> bytes:
    if dialect is RONGCLOUD:
        return b'{"code":200,"' + key + b'":' + values + b"}"
    return b'{"code":0,"result":{"' + key + b'":' + values + b"}}"


def entry(dialect: Dialect, group_id: str, member: bytes = b"") -> bytes:
    key = dialect.profile["group_id"][0]
    return b'{"%s":"%s"' % (key.encode(), group_id.encode()) + (b"," + member if member else b"") + b"}"


def read(dialect: Dialect, body: bytes, encoding: str = "identity", requested: list[str] | None = None) -> BatchResult:
    response = Response(200, {"content-encoding": encoding}, ENCODINGS[encoding](body))
    return api(dialect).read_batch(response, IDS if requested is None else requested, "r1")


def listed(dialect: Dialect, body: bytes, encoding: str = "identity") -> ListingPage:
    return api(dialect).read_listing(Response(200, {"content-encoding": encoding}, ENCODINGS[encoding](body)), "r1")


@contextmanager
def little_memory(mib: int) -> Iterator[None]:
    for dialect in DIALECTS.values():  # the first response of a kind makes its reader
        read(dialect, body_with(dialect, b"[NaN]"))
        listed(dialect, body_with(dialect, b"[NaN]", b"groups"))
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mib << 20
    finally:
        tracemalloc.stop()


# One damaged value costs itself


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"Infinity", b"undefined", b"0x1", b".5", b"1_0"])
@pytest.mark.parametrize("where", [b'"memberCount":%b', b'"x":[1,{"y":%b}]', b'"permissions":{"joinPerm":%b}'])
def test_a_word_that_is_not_json_costs_its_value(spoken: Dialect, value: bytes, where: bytes) -> None:
    damaged = entry(spoken, "g0", where % value)
    others = b",".join(entry(spoken, group_id, b'"owner":"u"') for group_id in IDS[1:])

    result = read(spoken, body_with(spoken, b"[" + damaged + b"," + others + b"]"))

    assert list(result.found) == IDS
    profile = result.found["g0"]
    assert bool(profile.problems) is (b'"x"' not in where)
    assert value.decode() in repr([profile.problems, profile.extra])
    assert all(result.found[group_id] == GroupProfile(group_id=group_id, owner="u") for group_id in IDS[1:])


@pytest.mark.parametrize("nested", [rb'"groupProfile":"{\"introduction\":\"a\",\"x\":NaN}"'])
def test_a_word_inside_a_nested_text_costs_its_value(spoken: Dialect, nested: bytes) -> None:
    profile = read(spoken, body_with(spoken, b"[" + entry(spoken, "g0", nested) + b"]")).found["g0"]

    assert (profile.introduction, profile.extra) == ("a", {"groupProfile": {"x": "NaN"}})


def test_control_characters_in_a_text_are_read(spoken: Dialect) -> None:
    values = b"[" + entry(spoken, "g0", b'"owner":"a\nb\tc\x00"') + b"," + entry(spoken, "g1") + b"]"

    result = read(spoken, body_with(spoken, values))

    assert result.found == {"g0": GroupProfile(group_id="g0", owner="a\nb\tc\0"), "g1": GroupProfile(group_id="g1")}


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 970, 30_000])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"])
def test_deep_nesting_costs_its_value(spoken: Dialect, levels: int, brackets: tuple[bytes, bytes]) -> None:
    opening, closing = brackets
    deep = b'"x":' + opening * levels + b"1" + closing * levels
    values = b"[" + entry(spoken, "g0", deep + b',"owner":"u"') + b"," + entry(spoken, "g1") + b"]"

    result = read(spoken, body_with(spoken, values))

    assert list(result.found) == ["g0", "g1"]
    profile = result.found["g0"]
    assert (profile.owner, profile.extra, [problem.field for problem in profile.problems]) == ("u", {}, ["x"])
    assert msgspec.json.decode(msgspec.json.encode(profile), type=GroupProfile) == profile


def test_nesting_up_to_the_limit_is_kept(spoken: Dialect) -> None:
    deep = b'"x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH

    profile = read(spoken, body_with(spoken, b"[" + entry(spoken, "g0", deep) + b"]")).found["g0"]

    assert profile.problems == ()
    assert json.dumps(profile.extra["x"], separators=(",", ":")).encode() == b"[" * MAX_DEPTH + b"]" * MAX_DEPTH


@pytest.mark.parametrize("levels", [970, 100_000])
def test_deep_nesting_costs_no_page_of_the_listing(spoken: Dialect, levels: int) -> None:
    deep = entry(spoken, "g0", b'"x":' + b"[" * levels + b"]" * levels)
    values = b"[" + deep + b"," + entry(spoken, "g1", b'"y":NaN') + b"]"

    page = listed(spoken, body_with(spoken, values, b"groups"))

    assert [(group.group_id, group.extra) for group in page.groups] == [("g0", {}), ("g1", {"y": "NaN"})]
    assert [problem.field for problem in page.groups[0].problems] == ["x"]


@pytest.mark.parametrize("levels", [970, 100_000])
def test_an_entry_that_is_nothing_but_nesting_has_no_id(spoken: Dialect, levels: int) -> None:
    values = b"[" + b"[" * levels + b"]" * levels + b"," + entry(spoken, "g1") + b"]"

    result = read(spoken, body_with(spoken, values), requested=["g0", "g1"])

    assert (list(result.found), result.missing, result.unreadable) == (["g1"], [], ["g0"])


# A response cannot freeze the event loop or fill the memory


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("value", [b"1", b"{}", b'{"groupId":"g1"}', b"null"])
def test_more_entries_than_any_request_can_ask_for_are_refused(spoken: Dialect, encoding: str, value: bytes) -> None:
    body = body_with(spoken, b"[" + b",".join([value] * 51) + b"]")

    with pytest.raises(DecodeError, match="at most 50 entries"):
        read(spoken, body, encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_eight_million_entries_are_refused_before_any_is_read(spoken: Dialect, encoding: str) -> None:
    body = ENCODINGS[encoding](body_with(spoken, b"[" + b"1," * 8_000_000 + b"1]"))

    with little_memory(8), pytest.raises(DecodeError, match="more than"):
        api(spoken).read_batch(Response(200, {"content-encoding": encoding}, body), IDS, "r1")


@pytest.mark.parametrize("value", [b"1", b'{"groupId":"g","channelId":"g"}'])
def test_the_first_entry_too_many_is_refused_before_any_is_read(spoken: Dialect, value: bytes) -> None:
    body = body_with(spoken, b"[" + b",".join([value] * ((3 << 20) // (len(value) + 1))) + b"]")
    assert len(body) < max_body(50)

    with little_memory(1), pytest.raises(DecodeError, match="at most 50 entries"):
        read(spoken, body)


def test_a_page_with_too_many_entries_is_refused(spoken: Dialect) -> None:
    body = body_with(spoken, b"[" + b"1," * 4_000_000 + b"1]", b"groups")

    with little_memory(1), pytest.raises(DecodeError, match="at most 1000 entries"):
        listed(spoken, body)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_size_of_a_body_follows_from_the_ids(encoding: str) -> None:
    padding = b" " * (max_body(1) + 1)
    assert read(RONGCLOUD, body_with(RONGCLOUD, b"[]" + padding), encoding).missing == IDS

    with pytest.raises(DecodeError, match=f"more than {max_body(1)} bytes"):
        read(RONGCLOUD, body_with(RONGCLOUD, b"[]" + padding), encoding, ["g1"])


def test_a_bomb_is_inflated_no_further_than_the_limit() -> None:
    bomb = gzip.compress(bytes(200 << 20), 9, mtime=0)

    with little_memory(5), pytest.raises(DecodeError, match="more than"):
        api(NEXCONN).read_batch(Response(200, {"content-encoding": "gzip"}, bomb), ["g1"], "r1")


@pytest.mark.parametrize("mark", [rb"\x01", rb"\ud800", rb"\\"], ids=["control", "surrogate", "backslash"])
def test_a_text_with_too_many_marks_is_not_repaired(spoken: Dialect, mark: bytes) -> None:
    mark = b"\x01" if mark == rb"\x01" else mark
    few, many = (entry(spoken, "g1", b'"x":"' + mark * count + b'\x01"') for count in (90_000, 110_000))
    assert list(read(spoken, body_with(spoken, b"[" + few + b"]")).found) == ["g1"]
    with pytest.raises(DecodeError):
        read(spoken, body_with(spoken, b"[" + many + b"]"))


def test_of_a_thousand_unknown_keys_and_more_only_the_number_is_kept(spoken: Dialect) -> None:
    for count in (1000, 1001):
        members = b",".join(b'"k%d":1' % number for number in range(count))
        profile = read(spoken, body_with(spoken, b"[" + entry(spoken, "g1", members) + b"]")).found["g1"]
        assert len(profile.extra) == (count if count == 1000 else 0)
        assert [problem.reason for problem in profile.problems] == (
            [] if count == 1000 else ["more than 1000 keys that are not known"]
        )


HOSTILE: dict[str, bytes] = {
    "control characters": b'{"groupId":"g1","x":"' + b"\x01" * 3_200_000 + b'"}',
    "backslashes": b'{"groupId":"g1","x":NaN,"y":"' + rb"\\" * 1_600_000 + b'"}',
    "members": b"{" + b",".join(b'"k%d":1' % number for number in range(300_000)) + b"}",
    "texts": b'{"groupId":"g1","groupExtProfile":{' + b",".join(b'"%d":[]' % n for n in range(250_000)) + b"}}",
    "quotes": b'{"groupId":"g1","x":NaN,"y":"' + rb"\"" * 1_600_000 + b"}",
    "strings": b'{"groupId":"g1","x":NaN,"y":[' + b'"",' * 1_000_000 + b'""]}',
    "words": b'{"groupId":"g1","x":[' + b"N," * 1_600_000 + b"N]}",
    "brackets": b'{"groupId":"g1","x":NaN,"y":[' + b"[]," * 1_000_000 + b"[]]}",
    "numbers": b'{"groupId":"g1","x":[' + b"1," * 1_600_000 + b"1]}",
    "digits": b'{"groupId":"g1","memberCount":' + b"1" * 3_000_000 + b"}",
    "digits in text": b'{"groupId":"g1","memberCount":"' + b"1" * 3_000_000 + b'"}',
    "escapes": b'{"groupId":"g1","owner":"' + rb"\ud83d" * 500_000 + b'"}',
}


@pytest.mark.parametrize("shape", HOSTILE)
def test_no_body_within_its_limit_takes_long(shape: str) -> None:
    body = body_with(RONGCLOUD, b"[" + HOSTILE[shape] + b"]")
    assert len(body) < max_body(50)
    before = time.process_time()

    with little_memory(256), suppress(DecodeError):
        assert len(read(RONGCLOUD, body, requested=["g1", *IDS[2:]]).found) <= 1

    assert time.process_time() - before < 10  # with tracemalloc on; a quadratic reader takes minutes


def test_an_error_page_of_any_size_is_its_status() -> None:
    with pytest.raises(Exception, match="HTTP 502") as caught:
        api(RONGCLOUD).read_batch(Response(502, {}, b"<html>" * 1_000_000), ["g1"], "r1")
    assert type(caught.value).__name__ == "ServerError"

import gzip
import hashlib
import json
import zlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from support.service_api import api

from rongcloud_groups import errors
from rongcloud_groups._http import Response
from rongcloud_groups._protocol import error_codes, requests, signing
from rongcloud_groups._protocol.api import BatchResult, ListingPage
from rongcloud_groups._protocol.dialects import NEXCONN, RONGCLOUD, Dialect
from rongcloud_groups._protocol.responses import max_body
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups.models import (
    GroupProfile,
    InvitePerm,
    JoinPerm,
    ListedGroup,
    MemProfilePerm,
    Permissions,
    Problem,
    RolePerm,
)


@pytest.fixture
def _one_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", {8: "nonce1", 16: "r1"}.get)
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)


def v1(*profiles: Any, **more: Any) -> bytes:
    return json.dumps({"code": 200, "profiles": list(profiles), **more}).encode()


def v4(*profiles: Any) -> bytes:
    return json.dumps({"code": 0, "result": {"profiles": list(profiles)}}).encode()


def read(body: bytes, *requested: str, dialect: Dialect = RONGCLOUD, **headers: str) -> BatchResult:
    response = Response(200, {name.replace("_", "-"): value for name, value in headers.items()}, body)
    return api(dialect).read_batch(response, requested or ("g1",), "r1")


def profile_of(members: dict[str, Any], dialect: Dialect = RONGCLOUD) -> GroupProfile:
    body = v1({"groupId": "g1", **members}) if dialect is RONGCLOUD else v4({"channelId": "g1", **members})
    return read(body, dialect=dialect).found["g1"]


def error_of(status: int, body: bytes = b"", dialect: Dialect = RONGCLOUD, **headers: str) -> errors.RongCloudError:
    response = Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
    with pytest.raises(errors.RongCloudError) as caught:
        api(dialect).read_batch(response, ["g1"], "r1")
    return caught.value


def code(number: Any, **more: Any) -> bytes:
    return json.dumps({"code": number, **more}).encode()


# Group IDs


@pytest.mark.parametrize("group_id", ["g", "g_1-2.3@x:y", "x" * 64, "群组", "名" * 64, "😀", "a&b=c+d%20"])
def test_an_id_the_service_can_take_is_valid(group_id: str) -> None:
    assert requests.validated_group_id(group_id) == group_id


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "it must be a str, not NoneType"),
        (7, "it must be a str, not int"),
        (b"g1", "it must be a str, not bytes"),
        ([], "it must be a str, not list"),
        ("", "it is empty"),
        ("x" * 65, "it has 65 characters, over the limit of 64"),
        ("名" * 65, "it has 65 characters, over the limit of 64"),
        ("g1,g2", "it has a comma in it"),
        ("g 1", "it has whitespace in it"),
        ("g1\n", "it has a control character in it"),
        ("g\x00", "it has a control character in it"),
        ("g\x7f", "it has a control character in it"),
        ("g\x85", "it has a control character in it"),
        ("g\xa0", "it has whitespace in it"),
        ("g\u3000", "it has whitespace in it"),
        ("g\u2028", "it has whitespace in it"),
        ("g\u200b", "it has an invisible format character in it"),
        ("\ufeffg", "it has an invisible format character in it"),
        ("g\ud83d", "it has half of a surrogate pair in it"),
    ],
)
def test_an_id_the_service_cannot_take_is_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(errors.InvalidGroupId) as caught:
        requests.validated_group_id(value)
    assert caught.value.reason == reason


@pytest.mark.parametrize("group_id", ["a,b", "a,", ",", "", "a b", "a\nb", "x" * 65, "groupé"])
def test_one_id_that_is_not_plain_makes_its_whole_batch_not_plain(group_id: str) -> None:
    assert requests.are_plain_group_ids(["g1", "g2"])
    for values in ([group_id], ["g1", group_id], [group_id, "g1"]):
        assert not requests.are_plain_group_ids(values)


# Requests


@pytest.mark.parametrize(
    ("secret", "nonce", "timestamp_ms", "expected"),  # made with sha1sum
    [
        ("secret1", "nonce1", 1_700_000_000_000, "8b5ceefe28e51aa2aa66d8b51ad15f26cd961e7d"),
        ("密钥", "n", 1, "5a6466244840801ced5451845ef438519a7a8aa4"),
    ],
)
def test_the_signature_is_sha1_of_secret_nonce_and_milliseconds(
    secret: str, nonce: str, timestamp_ms: int, expected: str
) -> None:
    assert signing.sign(Secret(secret), nonce, timestamp_ms) == expected


def test_a_secret_that_is_not_unicode_raises_nothing_that_could_show_it() -> None:
    assert len(signing.sign(Secret("secret\ud83d"), "n", 1)) == 40


@pytest.mark.usefixtures("_one_nonce")
def test_a_form_request_repeats_the_key() -> None:
    request = api(RONGCLOUD).batch_request(["g1", "g2"])

    assert request.path == "/entrust/group/profile/query.json"
    assert request.body == b"groupIds=g1&groupIds=g2"
    assert dict(request.headers) == {
        "app-key": "key1",
        "nonce": "nonce1",
        "timestamp": "1700000000000",
        "signature": hashlib.sha1(b"secret1nonce11700000000000").hexdigest(),
        "x-request-id": "r1",
        "content-type": "application/x-www-form-urlencoded",
        "accept-encoding": "gzip",
        "user-agent": "rongcloud-groups",
    }


def test_a_form_request_carries_any_id_unharmed() -> None:
    group_ids = ["a&groupIds=b", "c=d", "e+f", "g%20h", "群组", "😀", "plain"]

    body = api(RONGCLOUD).batch_request(group_ids).body

    assert body.isascii()
    assert parse_qs(body.decode(), strict_parsing=True) == {"groupIds": group_ids}


def test_a_json_request_lists_the_ids() -> None:
    request = api(NEXCONN).batch_request(("g1", '群"'))

    assert request.path == "/v4/group-channel/profile/list"
    assert json.loads(request.body) == {"channelIds": ["g1", '群"']}
    assert ("content-type", "application/json") in request.headers


@pytest.mark.parametrize(
    ("page_token", "expected"),
    [
        (None, {"size": ["1000"], "order": ["0"]}),
        ("a+b/c==", {"size": ["1000"], "order": ["0"], "pageToken": ["a+b/c=="]}),
    ],
)
@pytest.mark.usefixtures("_one_nonce")
def test_a_listing_request_names_page_size_and_order(page_token: str | None, expected: dict[str, list[str]]) -> None:
    request = api(RONGCLOUD).listing_request(page_token)

    assert request.path == "/entrust/group/query.json"
    assert parse_qs(request.body.decode(), strict_parsing=True) == expected
    assert dict(request.headers)["signature"] == signing.sign(Secret("secret1"), "nonce1", 1_700_000_000_000)


def test_a_listing_request_in_json_has_numbers() -> None:
    request = api(NEXCONN).listing_request("t")

    assert request.path == "/v4/group-channel/list"
    assert json.loads(request.body) == {"pageSize": 1000, "order": 0, "pageToken": "t"}


# Profiles

DOCUMENTED = {
    "groupName": "RongCloud",
    "owner": "u1",
    "createTime": 1_700_000_000_123,
    "memberCount": 3,
    "groupProfile": '{"introduction":"intro","announcement":"news","portraitUrl":"https://x/p.png"}',
    "groupExtProfile": '{"ext_level":"3"}',
    "permissions": '{"joinPerm":3,"removePerm":1,"memInvitePerm":2,"invitePerm":1,"profilePerm":1,"memProfilePerm":2}',
}
EXPECTED = GroupProfile(
    group_id="g1",
    group_name="RongCloud",
    owner="u1",
    create_time=datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC),
    member_count=3,
    introduction="intro",
    announcement="news",
    portrait_url="https://x/p.png",
    ext_profile={"ext_level": "3"},
    permissions=Permissions(
        join_perm=JoinPerm(3),
        remove_perm=RolePerm(1),
        mem_invite_perm=RolePerm(2),
        invite_perm=InvitePerm(1),
        profile_perm=RolePerm(1),
        mem_profile_perm=MemProfilePerm(2),
    ),
)


def as_objects(members: dict[str, Any]) -> dict[str, Any]:
    nested = ("groupProfile", "groupExtProfile", "permissions")
    return {key: json.loads(value) if key in nested else value for key, value in members.items()}


def as_nexconn(members: dict[str, Any]) -> dict[str, Any]:
    names = {"groupName": "name", "createTime": "createdAt"}
    return {names.get(key, key): value for key, value in members.items()}


@pytest.mark.parametrize("form", [dict, as_objects])
def test_a_documented_profile_is_read_whole(form: Any) -> None:
    assert profile_of(form(DOCUMENTED)) == EXPECTED
    assert profile_of(as_nexconn(form(DOCUMENTED)), NEXCONN) == EXPECTED


@pytest.mark.parametrize("nothing", [None, ""])
def test_only_the_id_is_required(nothing: Any) -> None:
    nested = dict.fromkeys(("groupProfile", "groupExtProfile", "permissions"), nothing)
    numbers = dict.fromkeys(("createTime", "memberCount"), nothing)

    assert profile_of({}) == profile_of(nested) == profile_of(numbers) == GroupProfile(group_id="g1")


def test_empty_text_stays_empty_text_in_either_place() -> None:
    assert profile_of({"groupProfile": '{"introduction":""}'}).introduction == ""
    assert profile_of({"introduction": ""}).introduction == ""


def test_numbers_as_text_and_text_as_numbers_are_read() -> None:
    profile = profile_of(
        {
            "groupName": 7,
            "owner": 1.50,
            "createTime": "1700000000123",
            "memberCount": " 3 ",
            "groupExtProfile": {"ext_level": 3, "ext_none": None},
            "permissions": {"joinPerm": "3", "removePerm": 1.0, "invitePerm": None},
        }
    )

    assert (profile.group_name, profile.owner, profile.member_count) == ("7", "1.5", 3)
    assert profile.create_time == EXPECTED.create_time
    assert profile.ext_profile == {"ext_level": "3"}
    assert profile.permissions == Permissions(join_perm=JoinPerm.CLOSED, remove_perm=RolePerm(1))
    assert profile.problems == ()


def test_names_from_the_other_pages_are_read() -> None:
    profile = profile_of(
        {
            "name": "RongCloud",
            "announcement": "news",
            "introduction": "intro",
            "groupProfile": {"portrait_url": "https://x/p.png"},
        }
    )

    assert (profile.group_name, profile.announcement, profile.introduction) == ("RongCloud", "news", "intro")
    assert profile.portrait_url == "https://x/p.png"
    assert (profile.extra, profile.problems) == ({}, ())


def test_where_both_names_are_there_the_usual_one_counts_and_the_other_is_kept() -> None:
    profile = profile_of(
        {"name": "b", "groupName": "a", "introduction": "top", "groupProfile": '{"introduction":"inner"}'}
    )

    assert (profile.group_name, profile.introduction) == ("a", "inner")
    assert profile.extra == {"name": "b", "introduction": "top"}


def test_unknown_keys_are_kept_where_they_were() -> None:
    profile = profile_of(
        {"isBanned": [1, {"a": None}], "groupProfile": '{"color":"red"}', "permissions": {"newPerm": 5}}
    )

    assert profile.extra == {
        "isBanned": [1, {"a": None}],
        "groupProfile": {"color": "red"},
        "permissions": {"newPerm": 5},
    }


@pytest.mark.parametrize("form", [dict, json.dumps])
def test_an_unknown_permission_number_is_kept(form: Any) -> None:
    assert profile_of({"permissions": form({"joinPerm": 9})}).permissions.join_perm == 9


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"groupName": True}, Problem("groupName", "expected text", "true")),
        ({"owner": ["u1"]}, Problem("owner", "expected text", '["u1"]')),
        ({"memberCount": True}, Problem("memberCount", "expected an integer", "true")),
        ({"memberCount": "many"}, Problem("memberCount", "expected an integer", '"many"')),
        ({"memberCount": 2**63}, Problem("memberCount", "over 64 bits", "9223372036854775808")),
        ({"memberCount": 1.5}, Problem("memberCount", "expected an integer", "1.5")),
        ({"createTime": 10**18}, Problem("createTime", "outside the range of dates", str(10**18))),
        ({"createTime": "-" + "9" * 18}, Problem("createTime", "outside the range of dates", f'"-{"9" * 18}"')),
        ({"createTime": {}}, Problem("createTime", "expected an integer", "{}")),
        ({"groupProfile": "{oops"}, Problem("groupProfile", "not a JSON object", "{oops")),
        ({"groupProfile": "[1]"}, Problem("groupProfile", "not a JSON object", "[1]")),
        ({"groupProfile": 5}, Problem("groupProfile", "not a JSON object", "5")),
        ({"groupProfile": {"portraitUrl": []}}, Problem("groupProfile.portraitUrl", "expected text", "[]")),
        ({"groupExtProfile": '{"ext_a":{}}'}, Problem("groupExtProfile.ext_a", "expected text", "{}")),
        ({"permissions": {"joinPerm": "x"}}, Problem("permissions.joinPerm", "expected an integer", '"x"')),
        ({"permissions": {"joinPerm": 2**64}}, Problem("permissions.joinPerm", "expected a small integer", str(2**64))),
    ],
)
def test_an_unreadable_value_is_a_problem_and_costs_only_itself(members: dict[str, Any], problem: Problem) -> None:
    profile = profile_of(DOCUMENTED | members)
    without = profile_of({key: value for key, value in DOCUMENTED.items() if key not in members})

    assert profile == msgspec.structs.replace(without, problems=(problem,))


def test_text_that_is_not_utf8_costs_no_other_profile() -> None:
    body = b'{"code":200,"profiles":[{"groupId":"g1","groupName":"a\xffb"},{"groupId":"g2"}]}'

    result = read(body, "g1", "g2")

    assert result.found["g1"].group_name == "a\ufffdb"
    assert result.found["g1"].problems == (
        Problem("groupName", "not valid Unicode; U+FFFD stands where it is not", '"a\ufffdb"'),
    )
    assert result.found["g2"].problems == ()


@pytest.mark.parametrize(
    "member",
    [
        rb'"groupName":"cut \ud83d"',
        rb'"groupName":"cut \\\ud83d"',
        rb'"groupProfile":"{\"introduction\":\"cut \\ud83d\"}"',
        rb'"groupProfile":{"introduction":"cut \udc00"}',
        rb'"groupProfile":{"cut \udc00":"x"}',
        rb'"cut \ud83d":1',
        rb'"unknown":"\ud83d\ud83d\ude00"',
    ],
)
def test_text_cut_inside_an_emoji_costs_no_other_profile(member: bytes) -> None:
    body = b'{"code":200,"profiles":[{"groupId":"g1",' + member + b'},{"groupId":"g2","owner":"\\ud83d\\ude00"}]}'

    result = read(body, "g1", "g2")

    assert list(result.found) == ["g1", "g2"]
    assert result.found["g2"] == GroupProfile(group_id="g2", owner="\N{GRINNING FACE}")


def test_a_number_out_of_range_in_an_unknown_key_is_a_problem() -> None:
    profile = read(b'{"code":200,"profiles":[{"groupId":"g1","x":1e999,"memberCount":1e999}]}').found["g1"]

    assert profile.problems == (
        Problem("memberCount", "expected an integer", "1e999"),
        Problem("x", "cannot be read", "1e999"),
    )


# Which ID gets what


def test_ids_left_out_are_missing_in_the_order_of_the_request() -> None:
    result = read(v1({"groupId": "g3"}), "g2", "g3", "g1")

    assert (list(result.found), result.missing, result.unreadable) == (["g3"], ["g2", "g1"], [])


def test_foreign_profiles_are_ignored_and_the_first_of_two_counts() -> None:
    result = read(v1({"groupId": "gX"}, {"groupId": "g1", "owner": "a"}, {"groupId": "g1", "owner": "b"}))

    assert result.found == {"g1": GroupProfile(group_id="g1", owner="a")}


def test_an_id_given_as_a_number_is_its_digits() -> None:
    assert list(read(v1({"groupId": 123}), "123").found) == ["123"]


@pytest.mark.parametrize("entry", [{}, {"groupId": ""}, {"groupId": None}, {"groupId": [1]}, 7, "g1", []])
def test_an_entry_without_an_id_leaves_the_unmatched_open(entry: Any) -> None:
    result = read(v1({"groupId": "g1"}, entry), "g1", "g2")

    assert (list(result.found), result.missing, result.unreadable) == (["g1"], [], ["g2"])


def test_a_null_entry_stands_for_no_group() -> None:
    assert read(v1(None, {"groupId": "g1"}), "g1", "g2").missing == ["g2"]


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        (b'{"code":200}', RONGCLOUD),
        (b'{"code":"200","profiles":null}', RONGCLOUD),
        (b'{"code":"\\u001c200","profiles":null}', RONGCLOUD),
        (b'{"code":0}', NEXCONN),
        (b'{"code":0,"result":null}', NEXCONN),
        (b'{"code":0,"result":{}}', NEXCONN),
    ],
)
def test_success_without_profiles_means_that_all_are_missing(body: bytes, dialect: Dialect) -> None:
    assert read(body, "g1", "g2", dialect=dialect) == ({}, ["g1", "g2"], [])


# Responses that cannot be read


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Welcome</body></html>",
        b'{"code":200,"profiles":[{"groupId":"g1"',
        b"[]",
        b"null",
        b'{"profiles":[]}',
        b'{"code":null,"profiles":[]}',
        b'{"code":true}',
        b'{"code":"ok"}',
        b'{"code":200,"profiles":{}}',
        b'{"code":200,"profiles":"[]"}',
        b"[" * 100_000,
        b'{"code":200,"profiles":' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_body_that_is_no_response_of_the_service_is_a_decode_error(body: bytes) -> None:
    error = error_of(200, body)

    assert type(error) is errors.DecodeError
    assert "r1" in str(error)
    assert len(str(error)) < 250


def test_an_excerpt_is_one_visible_line() -> None:
    error = error_of(200, b"<html>\r\n\x1b[31m  red </html>" + b"x" * 1000)

    assert str(error).startswith("not a response of the service: <html> [31m red </html>xxx")
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("body", "dialect", "other"),
    [
        (b'{"code":0,"result":{"profiles":[]}}', RONGCLOUD, "nexconn"),
        (b'{"code":200,"result":{"profiles":[]}}', RONGCLOUD, "nexconn"),
        (b'{"code":200,"profiles":[]}', NEXCONN, "rongcloud"),
        (b'{"code":0,"profiles":[]}', NEXCONN, "rongcloud"),
    ],
)
def test_data_in_the_other_dialect_is_fatal_and_names_the_switch(body: bytes, dialect: Dialect, other: str) -> None:
    error = error_of(200, body, dialect)

    assert type(error) is errors.ConfigError
    assert f"set dialect='{other}' (RONGCLOUD_DIALECT={other})" in str(error)
    assert error_codes.action_for(error) == "fatal"


@pytest.mark.parametrize(
    ("body", "dialect", "other"),
    [
        (b'{"code":0}', RONGCLOUD, "nexconn"),
        (b'{"code":0,"result":{}}', RONGCLOUD, "nexconn"),
        (b'{"code":0,"profiles":[]}', RONGCLOUD, "nexconn"),
        (b'{"code":200,"result":"ok","msg":"busy"}', RONGCLOUD, "nexconn"),
        (b'{"code":200}', NEXCONN, "rongcloud"),
        (b'{"code":200,"result":{"profiles":[]}}', NEXCONN, "rongcloud"),
    ],
)
def test_a_mere_sign_of_the_other_dialect_is_retried_and_names_the_switch(
    body: bytes, dialect: Dialect, other: str
) -> None:
    error = error_of(200, body, dialect)

    assert type(error) is errors.DecodeError
    assert f"try dialect='{other}' (RONGCLOUD_DIALECT={other})" in str(error)
    assert error_codes.action_for(error) == "repeat"


@pytest.mark.parametrize(("dialect", "other"), [(RONGCLOUD, "nexconn"), (NEXCONN, "rongcloud")])
def test_a_path_that_is_not_there_names_the_switch(dialect: Dialect, other: str) -> None:
    assert f"try dialect='{other}' (RONGCLOUD_DIALECT={other})" in str(error_of(404, b"<html>", dialect))


def test_a_result_that_is_no_object_is_a_decode_error() -> None:
    assert "result is not an object" in str(error_of(200, b'{"code":0,"result":[]}', NEXCONN))


def test_deep_nesting_inside_one_profile_costs_only_that_field() -> None:
    profile = profile_of({"groupProfile": "[" * 100_000, "owner": "u1"})

    assert profile.owner == "u1"
    assert [problem.field for problem in profile.problems] == ["groupProfile"]


# Content encodings


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("", bytes),
    ],
)
def test_a_content_encoding_is_undone(encoding: str, encode: Any) -> None:
    assert list(read(encode(v1({"groupId": "g1"})), content_encoding=encoding).found) == ["g1"]


@pytest.mark.parametrize(
    ("encoding", "body", "reason"),
    [
        ("br", v1(), "content encoding br is not known"),
        ("gzip, gzip", v1(), "content encoding gzip, gzip is not known"),
        ("gzip", v1(), "damaged"),
        ("gzip", gzip.compress(v1(), mtime=0)[:-9], "cut short"),
        ("gzip", b"", "cut short"),
        ("deflate", b"", "cut short"),
        ("gzip", gzip.compress(b" " * (max_body(1) + 1), mtime=0), f"more than {max_body(1)} bytes"),
    ],
)
def test_a_body_that_cannot_be_decompressed_is_a_decode_error(encoding: str, body: bytes, reason: str) -> None:
    error = error_of(200, body, content_encoding=encoding)

    assert isinstance(error, errors.DecodeError)
    assert reason in str(error)


def test_a_body_of_just_the_limit_is_read() -> None:
    body = v1({"groupId": "g1"})
    padded = body + b" " * (max_body(1) - len(body))

    assert list(read(gzip.compress(padded), content_encoding="gzip").found) == ["g1"]


def test_an_error_status_counts_even_where_its_body_cannot_be_decompressed() -> None:
    assert type(error_of(502, b"garbage", content_encoding="gzip")) is errors.ServerError


# Errors

DOCUMENTED_ERRORS = [
    (1000, 500, errors.ServerError, "retry"),
    (1001, 401, errors.AuthenticationError, "fatal"),
    (1002, 400, errors.ParameterError, "bisect"),
    (1003, 400, errors.ParameterError, "bisect"),
    (1004, 401, errors.AuthenticationError, "fatal"),
    (1005, 400, errors.ParameterError, "bisect"),
    (1006, 401, errors.AuthenticationError, "fatal"),
    (1007, 401, errors.AuthenticationError, "fatal"),
    (1008, 429, errors.RateLimited, "pause"),
    (1009, 430, errors.ServiceNotEnabled, "fatal"),
    (1050, 504, errors.ServerError, "retry"),
    (1508, 400, errors.ParameterError, "bisect"),
    (404, 404, errors.ServiceError, "fatal"),
    (2007, 403, errors.ServiceError, "fail"),
    (1099, 400, errors.ServiceError, "fail"),
    (10000, 200, errors.ServiceError, "fail"),
]


@pytest.mark.parametrize("dialect", [RONGCLOUD, NEXCONN])
@pytest.mark.parametrize(("number", "status", "kind", "action"), DOCUMENTED_ERRORS)
def test_each_code_is_its_error_with_its_action(
    number: int, status: int, kind: type[errors.ServiceError], action: str, dialect: Dialect
) -> None:
    error = error_of(status, code(number, errorMessage="what happened"), dialect)

    assert isinstance(error, errors.ServiceError)
    assert type(error) is kind
    assert (error.code, error.status, error.message, error.request_id) == (number, status, "what happened", "r1")
    assert error_codes.action_for(error) == action


@pytest.mark.parametrize(("number", "_status", "kind", "action"), DOCUMENTED_ERRORS)
def test_a_code_counts_under_http_200_and_as_text(
    number: int, _status: int, kind: type[errors.ServiceError], action: str
) -> None:
    error = error_of(200, code(f" {number} "))

    assert type(error) is kind
    assert error_codes.action_for(error) == action


@pytest.mark.parametrize(
    ("status", "kind", "action"),
    [
        (302, errors.ServiceError, "fail"),
        (400, errors.ParameterError, "bisect"),
        (401, errors.AuthenticationError, "fatal"),
        (403, errors.ServiceError, "fail"),
        (404, errors.ServiceError, "fatal"),
        (413, errors.ParameterError, "bisect"),
        (414, errors.ParameterError, "bisect"),
        (429, errors.RateLimited, "pause"),
        (430, errors.ServiceNotEnabled, "fatal"),
        (500, errors.ServerError, "retry"),
        (502, errors.ServerError, "retry"),
        (503, errors.ServerError, "retry"),
        (599, errors.ServerError, "retry"),
    ],
)
@pytest.mark.parametrize("body", [b"<html>\n<h1>Oops</h1>", b"", b"{", code(200), code(0), b"[" * 100_000, b"\xff"])
def test_without_a_code_the_status_decides(
    status: int, kind: type[errors.ServiceError], action: str, body: bytes
) -> None:
    error = error_of(status, body)

    assert isinstance(error, errors.ServiceError)
    assert type(error) is kind
    assert error.code == status
    assert error.message
    assert "\n" not in str(error)
    assert error_codes.action_for(error) == action


@pytest.mark.parametrize(
    ("number", "status", "kind"),
    [
        (1002, 429, errors.RateLimited),
        (1009, 429, errors.ServiceNotEnabled),
        (1001, 500, errors.AuthenticationError),
        (1002, 500, errors.ParameterError),
        (7777, 500, errors.ServerError),
        (7777, 401, errors.AuthenticationError),
        (1008, 500, errors.RateLimited),
    ],
)
def test_where_code_and_status_disagree(number: int, status: int, kind: type[errors.ServiceError]) -> None:
    assert type(error_of(status, code(number))) is kind


@pytest.mark.parametrize("key", ["errorMessage", "msg", "message"])
def test_the_message_is_found_under_each_of_its_names(key: str) -> None:
    error = error_of(400, code(1002, **{key: "bad\nid"}))

    assert isinstance(error, errors.ParameterError)
    assert error.message == "bad id"


@pytest.mark.parametrize(
    ("number", "status", "hint"),
    [
        (1001, 401, "App Secret does not fit the App Key"),
        (1004, 401, "hashing the App Key, or a clock far off"),
        (1006, 401, "locked or deleted"),
        (1007, 401, "IP address"),
        (1009, 430, "enable group profile hosting"),
        (404, 404, "check region or base_urls"),
    ],
)
def test_an_error_with_a_cure_names_it(number: int, status: int, hint: str) -> None:
    assert hint in str(error_of(status, code(number)))


def test_a_redirect_says_where_it_pointed() -> None:
    text = str(error_of(301, b"", location="https://elsewhere.example/x"))

    assert "redirected to https://elsewhere.example/x" in text
    assert "redirects are not followed" in text


DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "3"}, 3.0),
        ({"retry_after": " 0.5 "}, 0.5),
        ({"retry_after": "Tue, 14 Nov 2023 22:13:25 GMT", "date": DATE}, 5.0),
        ({"retry_after": "Tue, 14 Nov 2023 22:13:25 -0000", "date": DATE}, 5.0),
        ({"retry_after": "Tue, 14 Nov 2023 22:13:10 GMT", "date": DATE}, 0.0),
        ({"retry_after": "Tue, 14 Nov 2023 22:13:25 GMT"}, None),
        ({"retry_after": "soon", "date": DATE}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_seconds_or_as_a_date(headers: dict[str, str], seconds: float | None) -> None:
    error = error_of(429, b"", RONGCLOUD, **headers)

    assert isinstance(error, errors.RateLimited)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.TransportError("reset"), "retry"),
        (errors.DecodeError("cut"), "repeat"),
        (errors.ClientClosed("closed"), "fail"),
        (errors.InvalidGroupId("", "it is empty"), "fail"),
        (ValueError("other"), "fail"),
    ],
)
def test_the_action_for_errors_that_come_without_a_response(error: Exception, expected: str) -> None:
    assert error_codes.action_for(error) == expected


# Listing


def listing(body: Any, dialect: Dialect = RONGCLOUD) -> ListingPage:
    return api(dialect).read_listing(Response(200, {}, json.dumps(body).encode()), "r1")


def test_a_listing_page_is_read_in_either_dialect() -> None:
    shared = {"name": "n", "creator": "c", "owner": "o", "groupProfile": '{"introduction":"i"}', "x": 1}
    expected = ListedGroup(
        group_id="g1",
        group_name="n",
        creator="c",
        owner="o",
        create_time=EXPECTED.create_time,
        introduction="i",
        portrait_url="p",
        extra={"x": 1},
    )
    v1_entry = {"groupId": "g1", "time": 1_700_000_000_123, "portraitUrl": "p", **shared}
    v4_entry = {"channelId": "g1", "createdAt": "1700000000123", "portrait_url": "p", **shared}

    assert listing({"code": 200, "pageToken": "t2", "groups": [v1_entry]}) == ([expected], "t2", 0)
    page = listing({"code": 0, "result": {"pageToken": 2, "groups": [v4_entry]}}, NEXCONN)
    assert page == ([expected], "2", 0)


def test_a_v4_listing_may_call_the_nested_part_profile() -> None:
    entry = {"channelId": "g1", "profile": '{"introduction":"i","portrait_url":"p","x":1}'}
    ((group,), _, _) = listing({"code": 0, "result": {"groups": [entry]}}, NEXCONN)

    assert (group.introduction, group.portrait_url, group.extra) == ("i", "p", {"profile": {"x": 1}})


@pytest.mark.parametrize(
    ("body", "dialect"), [({"code": 0, "result": {"groups": []}}, RONGCLOUD), ({"code": 200, "groups": []}, NEXCONN)]
)
def test_a_listing_of_the_other_dialect_names_the_switch(body: dict[str, Any], dialect: Dialect) -> None:
    with pytest.raises(errors.ConfigError, match="RONGCLOUD_DIALECT"):
        listing(body, dialect)


@pytest.mark.parametrize("last", [{}, {"pageToken": ""}, {"pageToken": None}, {"groups": None}])
def test_the_last_page_has_no_token(last: dict[str, Any]) -> None:
    assert listing({"code": 200, **last}) == ([], None, 0)


def test_listed_entries_without_an_id_are_counted() -> None:
    page = listing({"code": 200, "groups": [{}, None, 5, {"groupId": "g1", "time": 10**18}]})

    assert [group.group_id for group in page.groups] == ["g1"]
    assert [problem.field for problem in page.groups[0].problems] == ["time"]
    assert page.unreadable == 2


@pytest.mark.parametrize("body", [{"code": 200, "groups": 5}, {"code": 200, "pageToken": []}])
def test_a_listing_of_another_shape_is_a_decode_error(body: dict[str, Any]) -> None:
    with pytest.raises(errors.DecodeError, match="request r1"):
        listing(body)


def test_a_refused_listing_is_the_same_error_as_a_refused_batch() -> None:
    with pytest.raises(errors.ServiceNotEnabled):
        listing({"code": 1009})

import gc
import gzip
import json
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.service_requests import SECRET, V1_BATCH, V1_LISTING, V4_BATCH, V4_LISTING, ask, form, profiles, signed

from rongcloud_groups.emulator import Faults, OtherConsumer, Service, Universe

TEAM: dict[str, Any] = {
    "groupName": '产品 "A"',
    "owner": "u1",
    "createTime": 1_700_000_000_000,
    "memberCount": 3,
    "groupProfile": {"introduction": "你好\n", "announcement": "Hi", "portraitUrl": "https://example.com/p"},
    "groupExtProfile": {"ext_city": "杭州"},
    "permissions": {"joinPerm": 1},
}


def universe() -> Universe:
    groups = Universe(only_explicit=True)
    for group_id in ("a", "b", "c"):
        groups.add(group_id, **TEAM)
    return groups


def service(**options: Any) -> Service:
    return Service(universe=universe(), **options)


def ids(found: list[Any]) -> list[Any]:
    return [profile if profile is None else profile.get("groupId", profile.get("channelId")) for profile in found]


def refusal(options: dict[str, Any], body: bytes | list[str], path: str = V1_BATCH) -> tuple[int, int]:
    answer = ask(service(**options), body, path)
    assert json.loads(answer.body)["code"] == answer.code
    return answer.status, answer.code


def test_v1_responds_with_nested_parts_as_strings() -> None:
    answer = ask(service(), ["a"])
    assert (answer.status, answer.code) == (200, 200)
    assert json.loads(answer.body)["code"] == 200
    (profile,) = profiles(answer)
    for name in ("groupProfile", "groupExtProfile", "permissions"):
        assert json.loads(profile.pop(name)) == TEAM[name]
    assert profile == {
        "groupId": "a", "groupName": TEAM["groupName"], "owner": "u1", "createTime": 1_700_000_000_000,
        "memberCount": 3,
    }  # fmt: skip


def test_v4_responds_with_nested_parts_as_objects_under_its_own_names() -> None:
    content = json.loads(ask(service(), ["a"], V4_BATCH).body)
    assert content["code"] == 0
    (profile,) = content["result"]["profiles"]
    assert profile == {
        "channelId": "a", "name": TEAM["groupName"], "owner": "u1", "createdAt": 1_700_000_000_000,
        "memberCount": 3, "groupProfile": TEAM["groupProfile"], "groupExtProfile": TEAM["groupExtProfile"],
        "permissions": TEAM["permissions"],
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"groupIds=a&groupIds=b", b"groupIds=a%2Cb", b"groupIds=a,b", b"groupId=a&groupId=b"])
def test_ids_come_repeated_or_joined_under_either_name(body: bytes) -> None:
    assert ids(profiles(ask(service(), body))) == ["a", "b"]


@pytest.mark.parametrize("prefix", ["", "rc-"])
def test_credentials_come_under_either_name(prefix: str) -> None:
    assert ask(service(), ["a"], headers=signed(prefix=prefix)).code == 200


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"app-key": "another"}, 1001),
        ({"signature": "0" * 40}, 1004),
        ({"signature": "é"}, 1004),
        ({"nonce": "n" * 19}, 1004),
        ({"nonce": ""}, 1004),
        ({"timestamp": "now"}, 1004),
    ],
)
def test_credentials_that_do_not_fit_are_refused(changed: dict[str, str], code: int) -> None:
    answer = ask(service(), ["a"], headers=signed() | changed)
    assert (answer.status, answer.code) == (401, code)


@pytest.mark.parametrize("name", ["app-key", "nonce", "timestamp", "signature"])
def test_a_missing_credential_is_named(name: str) -> None:
    headers = signed()
    del headers[name]
    answer = ask(service(), ["a"], headers=headers)
    assert (answer.status, answer.code) == (401, 1004)
    assert name in answer.body.decode()


def test_a_hash_with_the_app_key_for_the_secret_is_refused() -> None:
    assert ask(service(), ["a"], headers=signed(app_secret="emulator-app-key")).code == 1004


def test_a_nonce_of_18_characters_is_long_enough_to_pass() -> None:
    assert ask(service(), ["a"], headers=signed(nonce="n" * 18)).code == 200


def test_a_clock_far_off_is_refused_where_the_service_minds() -> None:
    minding = service(clock_tolerance=60, wall_clock=lambda: 1_000_000.0)
    codes = [ask(minding, ["a"], headers=signed(at=at)).code for at in (999_950, 1_000_059, 999_900, 1_000_061)]
    assert codes == [200, 200, 1004, 1004]
    assert ask(service(), ["a"], headers=signed(at=5)).code == 200


def test_the_secret_is_in_no_repr() -> None:
    assert SECRET not in repr(service())


@pytest.mark.parametrize(
    ("options", "body", "path", "expected"),
    [
        ({}, b"", V1_BATCH, (400, 1003)),
        ({}, b"names=a", V1_BATCH, (400, 1003)),
        ({}, b"{}", V4_BATCH, (400, 1003)),
        ({}, b'{"channelIds": []}', V4_BATCH, (400, 1003)),
        ({}, b'{"channelIds": "a"}', V4_BATCH, (400, 1003)),
        ({}, b'{"channelIds": [5]}', V4_BATCH, (400, 1002)),
        ({}, b"[]", V4_BATCH, (400, 1002)),
        ({}, b"{", V4_BATCH, (400, 1002)),
        ({}, b"[" * 100_000, V4_BATCH, (400, 1002)),
        ({}, ["a" * 65], V1_BATCH, (400, 1002)),
        ({}, ["a", ""], V1_BATCH, (400, 1002)),
        ({}, ["a"] * 51, V1_BATCH, (400, 1002)),
        ({}, ["a"], "/entrust/group/nothing.json", (404, 404)),
        ({"versions": frozenset({1})}, ["a"], V4_BATCH, (404, 404)),
        ({"versions": frozenset({4})}, ["a"], V1_BATCH, (404, 404)),
        ({"locked": True}, ["a"], V1_BATCH, (401, 1006)),
        ({"enabled": False}, ["a"], V1_BATCH, (430, 1009)),
        ({"faults": Faults(poison_prefix="a")}, ["b", "a"], V1_BATCH, (400, 1002)),
        ({"faults": Faults(poison={"a"})}, ["a"], V1_BATCH, (400, 1002)),
        ({"unknown": "refused"}, ["a", "unknown"], V1_BATCH, (400, 1002)),
    ],
)
def test_refusals(options: dict[str, Any], body: Any, path: str, expected: tuple[int, int]) -> None:
    assert refusal(options, body, path) == expected


def test_ids_in_another_content_type_are_not_seen() -> None:
    answer = ask(service(), form(["a"]), headers=signed(content_type="text/plain"))
    assert answer.code == 1003
    assert ask(service(), b'{"channelIds": ["a"]}', V4_BATCH, headers=signed()).code == 1003
    assert ask(service(), b"size=0", V1_LISTING, headers=signed(content_type="text/plain")).code == 200


def test_get_is_no_such_interface() -> None:
    assert service().respond("GET", V1_BATCH, signed(), b"", 0.0).status == 404


def test_fifty_ids_of_64_characters_pass() -> None:
    group_ids = [f"{number:064d}" for number in range(50)]
    answer = ask(service(), group_ids)
    assert answer.code == 200
    assert answer.group_ids == group_ids


@pytest.mark.parametrize("as_string", [False, True])
def test_the_error_code_may_be_a_string(as_string: bool) -> None:  # noqa: FBT001  a parameter of the test
    answer = ask(service(code_as_string=as_string, locked=True), ["a"])
    content = json.loads(answer.body)
    assert content == {"code": "1006" if as_string else 1006, "errorMessage": "app is locked or deleted"}


def test_over_the_rate_is_refused_until_the_second_has_passed() -> None:
    limited = service(limit=2, retry_after=1.5)
    answers = [ask(limited, ["a"], now=now) for now in (0.0, 0.1, 0.2, 1.05)]
    assert [(answer.status, answer.code) for answer in answers] == [(200, 200), (200, 200), (429, 1008), (200, 200)]
    assert dict(answers[2].headers)["retry-after"] == "2"
    assert limited.codes == {200: 3, 1008: 1}


def test_a_refusal_may_come_with_status_200_and_no_retry_after() -> None:
    limited = service(limit=0, refuse_with_200=True)
    answer = ask(limited, ["a"])
    assert (answer.status, answer.code) == (200, 1008)
    assert "retry-after" not in dict(answer.headers)


def test_batch_and_listing_have_a_rate_each() -> None:
    limited = service(limit=1)
    assert [ask(limited, ["a"]).code, ask(limited, ["a"]).code] == [200, 1008]
    assert [ask(limited, b"", V1_LISTING).code, ask(limited, b"", V1_LISTING).code] == [200, 1008]


def test_another_consumer_spends_the_same_budget() -> None:
    shared = service(limit=10, other=OtherConsumer(rate=1000))
    assert [ask(shared, ["a"], now=now).code for now in (0.0, 0.5)] == [200, 1008]


def test_a_request_with_wrong_credentials_spends_nothing() -> None:
    limited = service(limit=1)
    assert ask(limited, ["a"], headers=signed(app_secret="wrong")).code == 1004
    assert ask(limited, ["a"]).code == 200


@pytest.mark.parametrize(
    ("unknown", "expected"), [("omitted", ["a"]), ("bare", ["unknown", "a"]), ("null", [None, "a"])]
)
def test_unknown_groups_get_each_kind_of_response(unknown: str, expected: list[str | None]) -> None:
    assert ids(profiles(ask(service(unknown=unknown), ["unknown", "a"]))) == expected


def test_an_id_asked_twice_is_in_the_response_once() -> None:
    assert ids(profiles(ask(service(), ["a", "b", "a"]))) == ["a", "b"]


def test_profiles_come_in_the_order_of_the_request() -> None:
    assert ids(profiles(ask(service(), ["b", "c", "a"]))) == ["b", "c", "a"]


def test_each_known_spelling_of_a_profile() -> None:
    (v1,) = profiles(
        ask(service(name_key="name", portrait_key="portrait_url", flat_texts=True, numbers_as_strings=True), ["a"])
    )
    assert v1["name"] == TEAM["groupName"]
    assert (v1["introduction"], v1["announcement"]) == ("你好\n", "Hi")
    assert json.loads(v1["groupProfile"]) == {"portrait_url": "https://example.com/p"}
    assert (v1["createTime"], v1["memberCount"]) == ("1700000000000", "3")
    (objects,) = profiles(ask(service(v1_nested="objects"), ["a"]))
    assert objects["groupProfile"] == TEAM["groupProfile"]
    (strings,) = profiles(ask(service(v4_nested="strings"), ["a"], V4_BATCH))
    assert json.loads(strings["permissions"]) == {"joinPerm": 1}


def test_odd_spellings_of_a_group_without_nested_parts() -> None:
    bare = Service(flat_texts=True, portrait_key="portrait_url", universe=Universe(only_explicit=True))
    bare.universe.add("a", groupProfile="no object")
    assert profiles(ask(bare, ["a"])) == [{"groupId": "a", "groupProfile": "no object"}]


def test_a_client_that_takes_gzip_gets_it_where_the_service_compresses() -> None:
    plain = ask(service(), ["a"])
    packed = ask(service(compressed=True), ["a"], headers=signed() | {"accept-encoding": "deflate, gzip"})
    assert dict(packed.headers)["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert ask(service(compressed=True), ["a"]).body == plain.body


def test_latency_is_fixed_with_a_random_tail() -> None:
    assert ask(service(latency=0.25), ["a"]).delay == 0.25
    slow = service(latency=0.1, latency_tail=0.2, limit=None)
    delays = [ask(slow, ["a"]).delay for _ in range(2000)]
    assert min(delays) >= 0.1
    assert sum(delays) / 2000 == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("html", 200, 0), ("html-403", 403, 0), ("html-502", 502, 0), ("error-500", 500, 1000),
        ("error-504", 504, 1050), ("429", 429, 1008), ("skew", 401, 1004),
    ],
)  # fmt: skip
def test_faults_of_the_status(fault: str, status: int, code: int) -> None:
    broken = service(faults=Faults(at={2: fault}))
    assert [ask(broken, ["a"]).code for _ in range(1)] == [200]
    answer = ask(broken, ["a"])
    assert (answer.status, answer.code) == (status, code)
    assert answer.body.startswith(b"<html>" if fault.startswith("html") else b"{")
    assert ask(broken, ["a"]).code == 200


class Headers(dict[str, str]):
    """Can be referenced weakly."""


def test_a_refusal_keeps_nothing_of_its_request() -> None:
    broken = service(faults=Faults(share={"error-500": 1.0}))
    headers = Headers(signed())
    reference = weakref.ref(headers)
    assert ask(broken, ["a"], headers=headers).code == 1000
    del headers
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("fault", ["truncated", "garbage"])
def test_faults_that_leave_no_json(fault: str) -> None:
    answer = ask(service(faults=Faults(at={1: fault})), ["a"])
    assert answer.status == 200
    with pytest.raises(ValueError, match=r"."):
        json.loads(answer.body)


def test_faults_of_the_profiles() -> None:
    broken = service(faults=Faults(at={1: "duplicate", 2: "foreign", 3: "broken"}))
    assert ids(profiles(ask(broken, ["a", "b"]))) == ["a", "b", "a"]
    assert ids(profiles(ask(broken, ["a", "b"]))) == ["foreign", "a", "b"]
    first, second = profiles(ask(broken, ["a", "b"]))
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(first["groupProfile"])
    assert json.loads(second["groupProfile"]) == TEAM["groupProfile"]


def test_faults_of_the_connection_are_left_to_the_carrier_of_the_response() -> None:
    answer = ask(service(faults=Faults(at={1: "rst"})), ["a"])
    assert answer.fault == "rst"
    assert ids(profiles(answer)) == ["a"]


def test_a_storm_refuses_from_one_request_to_another() -> None:
    stormy = service(faults=Faults(storm=(2, 3)))
    assert [ask(stormy, ["a"]).code for _ in range(4)] == [200, 1008, 1008, 200]


def scan(path: str, **options: Any) -> tuple[list[str], list[dict[str, Any]]]:
    listed = Service(universe=Universe(listed=5), **options)
    found, token, pages = [], "", []
    while True:
        asked = {"pageToken": token, "order": 0, "size": 2, "pageSize": 2}
        body = json.dumps(asked) if path == V4_LISTING else "&".join(f"{key}={value}" for key, value in asked.items())
        content = json.loads(ask(listed, body.encode(), path).body)
        page = content if path == V1_LISTING else content["result"]
        pages.append(page)
        found += ids(page["groups"])
        token = page.get("pageToken")
        if not token:
            return found, pages


@pytest.mark.parametrize("path", [V1_LISTING, V4_LISTING])
def test_a_scan_sees_every_group_once(path: str) -> None:
    found, pages = scan(path)
    assert found == ["g0", "g1", "g2", "g3", "g4"]
    assert "pageToken" not in pages[-1]
    assert len(pages) == 3


def test_a_listing_has_the_known_keys_and_nothing_of_the_profiles_own() -> None:
    (group,) = scan(V1_LISTING)[1][-1]["groups"]
    assert set(group) == {"groupId", "name", "owner", "time", "groupProfile"}
    assert isinstance(group["groupProfile"], str)
    (channel,) = scan(V4_LISTING)[1][-1]["groups"]
    assert set(channel) == {"channelId", "name", "owner", "createdAt", "groupProfile"}
    assert isinstance(channel["groupProfile"], dict)
    (channel,) = scan(V4_LISTING, v4_nested="strings", numbers_as_strings=True)[1][-1]["groups"]
    assert set(channel) == {"channelId", "name", "owner", "createdAt", "profile"}
    assert isinstance(channel["createdAt"], str)


def test_a_listing_is_newest_first_and_of_50_unless_asked_otherwise() -> None:
    listed = Service(universe=Universe(listed=60))
    content = json.loads(ask(listed, b"", V1_LISTING).body)
    assert ids(content["groups"]) == [f"g{number}" for number in range(59, 9, -1)]
    assert ask(Service(universe=universe()), b"size=1000", V1_LISTING).code == 200


@pytest.mark.parametrize(
    "body", [b"size=0", b"size=1001", b"size=many", b"order=2", b"pageToken=next", b"pageToken=p-xyz", b"pageToken=p-"]
)
def test_a_listing_refuses_what_it_cannot_read(body: bytes) -> None:
    assert ask(service(), body, V1_LISTING).code == 1002


@pytest.mark.parametrize("body", [b'{"pageSize": []}', b'{"pageSize": 1e999}', b'{"pageToken": 5}'])
def test_a_v4_listing_refuses_other_types(body: bytes) -> None:
    assert ask(service(), body, V4_LISTING).code == 1002


bodies = st.binary(max_size=80) | st.builds(
    lambda name, value: name + value,
    st.sampled_from([b"groupIds=", b"size=", b"pageToken=p-", b'{"channelIds":', b'{"pageSize":', b'{"pageToken":']),
    st.binary(max_size=40) | st.from_regex(rb"[0-9a-f%\[\]\"{}\\u,.-]{0,40}", fullmatch=True),
)


@given(
    path=st.sampled_from([V1_BATCH, V1_LISTING, V4_BATCH, V4_LISTING]),
    body=bodies,
    content_type=st.sampled_from(["application/x-www-form-urlencoded", "application/json", "text/plain"]),
)
def test_any_bytes_get_a_response(path: str, body: bytes, content_type: str) -> None:
    answer = ask(service(limit=None), body, path, headers=signed(content_type=content_type))
    assert answer.code in {200, 1002, 1003}
    assert json.loads(answer.body)["code"] in {0, answer.code}

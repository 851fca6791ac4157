import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec import Raw
from support.service_api import api

from rongcloud_groups._http import Response
from rongcloud_groups._protocol.api import BatchResult, ServiceApi
from rongcloud_groups._protocol.dialects import NEXCONN, RONGCLOUD, Dialect
from rongcloud_groups._protocol.lenient import lenient_reader
from rongcloud_groups._protocol.requests import are_plain_group_ids, validated_group_id
from rongcloud_groups._protocol.secret import Secret
from rongcloud_groups._protocol.signing import Credentials
from rongcloud_groups._protocol.strict import ResponseReader, listed_group_reader, profile_reader
from rongcloud_groups.emulator import Service, Universe
from rongcloud_groups.errors import InvalidGroupId, RongCloudError
from rongcloud_groups.models import (
    GroupProfile,
    InvitePerm,
    JoinPerm,
    ListedGroup,
    MemProfilePerm,
    Permissions,
    RolePerm,
)

FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
EPOCH, MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
REQUESTED = ("g1", "g2", "g3", "12")

dialects = st.sampled_from([RONGCLOUD, NEXCONN])
text = st.text(st.characters(codec="utf-8"), max_size=20)
maybe_text = st.none() | text
permission_numbers = st.integers(0, 3) | st.integers(-(2**63), 2**64 - 1)
times = st.integers(0, (LAST - FIRST) // MILLISECOND).map(lambda ms: FIRST + ms * MILLISECOND)
usual_times = st.integers(0, 2**42).map(lambda ms: EPOCH + ms * MILLISECOND)
profiles = st.builds(
    GroupProfile,
    group_id=st.sampled_from(REQUESTED),
    group_name=maybe_text,
    owner=maybe_text,
    create_time=st.none() | times | usual_times,
    member_count=st.none() | st.integers(-(2**63), 2**63 - 1),
    introduction=maybe_text,
    announcement=maybe_text,
    portrait_url=maybe_text,
    ext_profile=st.dictionaries(text, text, max_size=3),
    permissions=st.builds(
        Permissions,
        join_perm=permission_numbers.map(JoinPerm),
        remove_perm=permission_numbers.map(RolePerm),
        mem_invite_perm=permission_numbers.map(RolePerm),
        invite_perm=permission_numbers.map(InvitePerm),
        profile_perm=permission_numbers.map(RolePerm),
        mem_profile_perm=permission_numbers.map(MemProfilePerm),
    ),
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["", "{", "[1]", "null", "200", "1.0", "\ud83d", '{"introduction":[]}', 2**64, 10**400])
)
anything: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PROFILE_KEYS = (
    "groupName",
    "name",
    "owner",
    "createTime",
    "createdAt",
    "memberCount",
    "groupProfile",
    "groupExtProfile",
    "permissions",
    "introduction",
    "announcement",
    "portraitUrl",
    "portrait_url",
)
KEYS = ("groupId", "channelId", *PROFILE_KEYS, "joinPerm", "code")


def as_sent(profile: GroupProfile, dialect: Dialect, *, nested_as_text: bool) -> dict[str, Any]:
    """The entry that the service would send for a profile."""

    def nested(members: dict[str, Any]) -> Any:
        return json.dumps(members) if nested_as_text else members

    permissions = profile.permissions
    created = profile.create_time
    return {
        dialect.profile["group_id"][0]: profile.group_id,
        dialect.profile["group_name"][0]: profile.group_name,
        "owner": profile.owner,
        dialect.profile["create_time"][0]: None if created is None else (created - EPOCH) // MILLISECOND,
        "memberCount": profile.member_count,
        "groupProfile": nested(
            {
                "introduction": profile.introduction,
                "announcement": profile.announcement,
                "portraitUrl": profile.portrait_url,
            }
        ),
        "groupExtProfile": nested(profile.ext_profile),
        "permissions": nested(
            {
                "joinPerm": int(permissions.join_perm),
                "removePerm": int(permissions.remove_perm),
                "memInvitePerm": int(permissions.mem_invite_perm),
                "invitePerm": int(permissions.invite_perm),
                "profilePerm": int(permissions.profile_perm),
                "memProfilePerm": int(permissions.mem_profile_perm),
            }
        ),
    }


def response_of(entries: list[Any], dialect: Dialect) -> dict[str, Any]:
    if dialect is RONGCLOUD:
        return {"code": 200, "profiles": entries}
    return {"code": 0, "result": {"profiles": entries}}


@given(profiles, dialects, st.data())
def test_a_profile_that_is_sent_is_read(profile: GroupProfile, dialect: Dialect, data: st.DataObject) -> None:
    sent = as_sent(profile, dialect, nested_as_text=data.draw(st.booleans()))
    keys = data.draw(st.permutations(list(sent)))
    body = json.dumps(response_of([{key: sent[key] for key in keys}], dialect)).encode()

    result = api(dialect).read_batch(Response(200, {}, body), REQUESTED, None)

    assert result.found == {profile.group_id: profile}
    assert result.missing == [group_id for group_id in REQUESTED if group_id != profile.group_id]


@given(profiles, dialects, st.sets(st.sampled_from(KEYS)), st.data())
def test_both_ways_to_read_a_profile_agree(
    profile: GroupProfile, dialect: Dialect, left_out: set[str], data: st.DataObject
) -> None:
    sent = as_sent(profile, dialect, nested_as_text=data.draw(st.booleans()))
    entry = Raw(json.dumps({key: value for key, value in sent.items() if key not in left_out}).encode())

    assert profile_reader(dialect).read_entry(entry) == lenient_reader(GroupProfile, dialect.profile)(entry)


@given(st.dictionaries(st.sampled_from(KEYS), anything), dialects)
@example({"groupId": "", "groupProfile": ""}, RONGCLOUD)
@example({"groupId": "g", "createTime": 10**30}, RONGCLOUD)
def test_both_ways_agree_on_any_entry(members: dict[str, Any], dialect: Dialect) -> None:
    members.setdefault(dialect.profile["group_id"][0], "g1")
    entry = Raw(json.dumps(members, allow_nan=True).encode())

    assert profile_reader(dialect).read_entry(entry) == lenient_reader(GroupProfile, dialect.profile)(entry)


@given(profiles)
def test_the_documented_shape_takes_the_fast_way(profile: GroupProfile) -> None:
    assume(profile.create_time is None or EPOCH <= profile.create_time < datetime(2109, 1, 1, tzinfo=UTC))
    sent = as_sent(profile, RONGCLOUD, nested_as_text=True)
    entry = Raw(json.dumps(sent).encode())
    body = json.dumps(response_of([sent], RONGCLOUD)).encode()

    for requested in ([profile.group_id], (profile.group_id,)):
        assert profile_reader(RONGCLOUD).read(body, requested) == ([profile], 0, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rongcloud_groups._protocol.lenient.FieldReader", None)
        assert profile_reader(RONGCLOUD).read_entry(entry) == profile


@given(st.dictionaries(st.sampled_from((*KEYS, "creator", "time", "profile")), anything), dialects)
@example({"groupId": "g", "time": 1.5}, RONGCLOUD)
def test_both_ways_agree_on_any_entry_of_a_listing(members: dict[str, Any], dialect: Dialect) -> None:
    members.setdefault(dialect.listed_group["group_id"][0], "g1")
    entry = Raw(json.dumps(members, allow_nan=True).encode())
    lenient = lenient_reader(ListedGroup, dialect.listed_group)(entry)

    assert listed_group_reader(dialect).read_entry(entry) == lenient
    body = json.dumps(response_of([members], dialect), allow_nan=True).replace('"profiles"', '"groups"').encode()
    assert listed_group_reader(dialect).read(body) in (None, ([lenient], 0, None))


def test_a_page_as_the_service_documents_it_takes_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rongcloud_groups._protocol.lenient.FieldReader", None)
    service = Service(universe=Universe(listed=2500))
    api = ServiceApi(RONGCLOUD, Credentials(service.app_key, Secret(service.app_secret)))
    groups, token = list[ListedGroup](), None
    while not groups or token is not None:
        request = api.listing_request(token)
        response = service.respond("POST", request.path, dict(request.headers), request.body, 0.0)
        page = api.read_listing(Response(response.status, dict(response.headers), response.body))
        groups, token = groups + page.groups, page.next_page_token
    assert len({group.group_id for group in groups}) == 2500
    assert all(group.group_name and group.create_time for group in groups)


@st.composite
def damaged_objects(draw: st.DrawFn, dialect: Dialect) -> Any:
    """A realistic response with members replaced, added and taken away, entries shuffled, doubled and foreign."""
    entries: list[Any] = []
    for profile in draw(st.lists(profiles, max_size=5)):
        entry = as_sent(profile, dialect, nested_as_text=draw(st.booleans()))
        for key in draw(st.lists(st.sampled_from(KEYS), max_size=3)):
            if draw(st.booleans()):
                entry[key] = draw(anything)
            else:
                entry.pop(key, None)
        entries += [entry] * draw(st.integers(1, 2))
    entries += draw(st.lists(anything, max_size=2))
    answer = response_of(draw(st.permutations(entries)), dialect)
    for key in draw(st.lists(st.sampled_from(["code", "profiles", "result", "msg"]), max_size=1)):
        answer[key] = draw(anything | st.sampled_from([0, 200, "1008", 1009, 1002, 404, "0"]))
    return answer


@st.composite
def damaged_bodies(draw: st.DrawFn, dialect: Dialect) -> bytes:
    body = json.dumps(draw(damaged_objects(dialect)), ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
    match draw(st.sampled_from(["whole", "whole", "cut", "changed", "noise"])):
        case "cut":
            return body[: draw(st.integers(0, len(body)))]
        case "changed":
            at = draw(st.integers(0, len(body)))
            return body[:at] + draw(st.binary(max_size=4)) + body[at + draw(st.integers(0, 4)) :]
        case "noise":
            return draw(st.binary(max_size=50))
        case _:
            return body


@given(dialects, st.data())
def test_a_response_read_at_once_equals_its_profiles_read_one_by_one(dialect: Dialect, data: st.DataObject) -> None:
    response = Response(200, {}, data.draw(damaged_bodies(dialect)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResponseReader, "read", lambda *_: None)  # never at once
        one_by_one = outcome_of(dialect, response)

    assert outcome_of(dialect, response) == one_by_one


def outcome_of(dialect: Dialect, response: Response) -> BatchResult | tuple[type[RongCloudError], str]:
    try:
        return api(dialect).read_batch(response, REQUESTED, "r1")
    except RongCloudError as error:
        return type(error), str(error)


headers = st.fixed_dictionaries(
    {},
    optional={
        "content-encoding": st.sampled_from(["", "gzip", "deflate", "identity", "br", "GZIP "]) | st.text(),
        "retry-after": st.sampled_from(["1", "Tue, 14 Nov 2023 22:13:20 GMT", "1 Jan 99999999999 1:1:1 +9999"])
        | st.text(),
        "date": st.sampled_from(["Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 0001 22:13:20 +2359"]) | st.text(),
        "location": st.text(),
    },
)
statuses = st.just(200) | st.sampled_from([204, 302, 400, 401, 404, 413, 429, 430, 500, 502]) | st.integers(100, 999)


@given(dialects, statuses, headers, st.data())
def test_for_any_response_each_id_has_one_place_or_the_error_is_ours(
    dialect: Dialect, status: int, headers: dict[str, str], data: st.DataObject
) -> None:
    body = data.draw(damaged_bodies(dialect))
    if data.draw(st.booleans()):
        body, headers = gzip.compress(body), headers | {"content-encoding": "gzip"}
    requested = data.draw(st.permutations(REQUESTED))
    response = Response(status, headers, body)

    try:
        result = api(dialect).read_batch(response, requested, "r1")
    except RongCloudError as error:
        line = str(error)
    else:
        line = ""
        assert sorted([*result.found, *result.missing, *result.unreadable]) == sorted(requested)
        assert result.missing == [each for each in requested if each in result.missing]
        assert all(group_id == profile.group_id for group_id, profile in result.found.items())
    assert line.isprintable()


@given(dialects, statuses, headers, st.data())
def test_for_any_response_a_listing_page_is_read_or_the_error_is_ours(
    dialect: Dialect, status: int, headers: dict[str, str], data: st.DataObject
) -> None:
    body = data.draw(damaged_bodies(dialect)).replace(b'"profiles"', b'"groups"')
    try:
        page = api(dialect).read_listing(Response(status, headers, body), "r1")
    except RongCloudError:
        return
    assert all(group.group_id for group in page.groups)


@given(profiles, dialects, anything, st.sampled_from(PROFILE_KEYS))
def test_one_damaged_profile_never_costs_another(profile: GroupProfile, dialect: Dialect, value: Any, key: str) -> None:
    sound = as_sent(profile, dialect, nested_as_text=True) | {dialect.profile["group_id"][0]: "g1"}
    damaged = {dialect.profile["group_id"][0]: "g2", key: value}
    body = json.dumps(response_of([damaged, sound], dialect)).encode()

    result = api(dialect).read_batch(Response(200, {}, body), ["g1", "g2"], None)

    assert result.found["g1"].problems == ()
    assert list(result.found) == ["g1", "g2"]


@given(st.lists(text.filter(lambda each: "," not in each), min_size=1, max_size=50))
def test_any_ids_arrive_as_they_were(group_ids: list[str]) -> None:
    form, as_json = (api(dialect).batch_request(group_ids).body for dialect in (RONGCLOUD, NEXCONN))

    assert parse_qs(form.decode("ascii"), keep_blank_values=True) == {"groupIds": group_ids}
    assert json.loads(as_json) == {"channelIds": group_ids}


class Text(str):
    __slots__ = ()


@given(st.lists(st.text("ab,-_ \n\x7fé", max_size=70) | st.integers() | st.text().map(Text), min_size=1, max_size=50))
@example(["a,b"])
@example(["a", "b,c"])
@example(["a", ""])
@example(["a" * 64, "b" * 65])
def test_ids_that_are_plain_are_valid_one_by_one(values: list[object]) -> None:
    if are_plain_group_ids(values):
        assert [validated_group_id(value) for value in values] == values
        assert {type(value) for value in values} == {str}


@given(st.lists(st.from_regex(r"\A[!-+\--~]{1,64}\Z"), min_size=1, max_size=50))
def test_ids_of_visible_ascii_are_plain(values: list[object]) -> None:
    assert are_plain_group_ids(values)


@given(st.text(max_size=70) | st.text("ab,-_ \n", max_size=70))
def test_an_accepted_id_is_short_and_visible_and_can_be_sent(candidate: str) -> None:
    try:
        group_id = validated_group_id(candidate)
    except InvalidGroupId:
        # What any system would take is not refused.
        assert (
            not (candidate.isascii() and candidate.replace("-", "").replace("_", "").isalnum()) or len(candidate) > 64
        )
    else:
        assert group_id == candidate
        assert 1 <= len(group_id.encode("utf-8").decode("utf-8")) <= 64
        assert "," not in group_id
        assert not any(each.isspace() for each in group_id)

"""The service without its network: a request in, a response out."""

import gzip
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from math import ceil
from typing import Any, Final, Literal

from rongcloud_groups.emulator.faults import CONNECTION_FAULTS, Faults
from rongcloud_groups.emulator.groups import Group, Universe
from rongcloud_groups.emulator.rate_limit import OtherConsumer, RateCheck, Window
from rongcloud_groups.emulator.requests import (
    MAX_BODY_SIZE,
    ServiceRefusal,
    Version,
    check_signature,
    parse_group_ids,
    parse_page,
)
from rongcloud_groups.emulator.responses import Response, ResponseFormat

_BATCH_LIMIT = 50
_JSON: Final = ("content-type", "application/json;charset=utf-8")
_STATUS: Final = {  # of each code of the service
    404: 404, 1000: 500, 1001: 401, 1002: 400, 1003: 400, 1004: 401, 1005: 400, 1006: 401, 1008: 429,
    1009: 430, 1050: 504,
}  # fmt: skip
_HTML = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>proxy</body></html>"
_PAGES: Final = {"html": (200, "Welcome"), "html-403": (403, "Forbidden"), "html-502": (502, "Bad Gateway")}
_FAILURES: Final = {
    "error-500": (1000, "server internal error"),
    "error-504": (1050, "server internal timeout"),
    "429": (1008, "request over frequency limit"),
    "skew": (1004, "Timestamp is too far off"),
}

ROUTES: Final[dict[str, tuple[Version, Literal["batch", "listing"]]]] = {
    "/entrust/group/profile/query.json": (1, "batch"),
    "/entrust/group/query.json": (1, "listing"),
    "/v4/group-channel/profile/list": (4, "batch"),
    "/v4/group-channel/list": (4, "listing"),
}


@dataclass(kw_only=True)
class Service(ResponseFormat):
    """RongCloud v1 and Nexconn v4: batch query and listing, for one App Key.

    Where the service's documents leave open how it behaves, an option plays each way. The plain
    attributes may be changed while it runs (`locked`, `enabled`, `latency`, …).
    """

    app_key: str = "emulator-app-key"  #: the one App Key there is
    app_secret: str = field(default="emulator-app-secret", repr=False)  #: its secret
    universe: Universe = field(default_factory=Universe)  #: the groups
    faults: Faults = field(default_factory=Faults)  #: the faults to play
    limit: int | None = 100  #: batch queries per second, and listings per second on their own; None lifts both
    window: Window = "sliding"  #: how the limit is counted
    count_refused: bool = False  #: whether a refused request counts as well
    other: OtherConsumer | None = None  #: another consumer of the batch query's budget
    refuse_with_200: bool = False  #: whether a refusal over the rate comes with HTTP status 200
    retry_after: float | None = None  #: seconds in the ``Retry-After`` of a refusal; None: no such header
    clock_tolerance: float | None = None  #: seconds by which a ``Timestamp`` may be off; None: any number
    versions: frozenset[int] = frozenset({1, 4})  #: the versions that this App Key may call; the others are 404
    answers_in: Version | None = None  #: the version in whose shape every request is answered; None: in its own
    unknown: Literal["omitted", "bare", "null", "refused"] = "omitted"
    """How a group that does not exist is answered: left out, as a profile with nothing but its ID, as null, or by
    refusing the batch (1002)."""
    compressed: bool = False  #: whether a client that accepts gzip gets it
    latency: float = 0.0  #: seconds before every response
    latency_tail: float = 0.0  #: mean of an exponentially distributed addition to it, in seconds
    seed: int = 0  #: of the latency
    locked: bool = False  #: whether the app is locked (1006)
    enabled: bool = True  #: whether group profile hosting is enabled (else 1009)
    wall_clock: Callable[[], float] = time.time
    """The service's clock, in seconds since the epoch; responses have it as their ``Date``."""
    codes: Counter[int] = field(default_factory=Counter, init=False)  #: how many responses each code had

    def __post_init__(self) -> None:
        self.batch_rate = RateCheck(self.limit, self.window, count_refused=self.count_refused, other=self.other)
        self.listing_rate = RateCheck(self.limit, self.window, count_refused=self.count_refused)
        self._random = random.Random(self.seed)
        self._number = 0

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Response:
        """Respond to one request, which arrived `now` (seconds on a monotonic clock).

        The path has no query, header names are in lower case; the end of a body over `MAX_BODY_SIZE` may be missing.
        """
        try:
            response = self._respond(method, path, headers, body, now)
        except ServiceRefusal as refused:
            response = self._refusal(*refused.args)
        self.codes[response.code] += 1
        response.headers.append(("date", formatdate(int(self.wall_clock()), usegmt=True)))
        if self.compressed and "gzip" in headers.get("accept-encoding", ""):
            response.headers.append(("content-encoding", "gzip"))
            response = response._replace(body=gzip.compress(response.body, 1))
        tail = self._random.expovariate(1 / self.latency_tail) if self.latency_tail else 0.0
        return response._replace(delay=self.latency + tail)

    def _respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Response:
        route = ROUTES.get(path)
        if route is None or method != "POST" or route[0] not in self.versions:
            raise ServiceRefusal(404, "api not found")
        version, kind = route
        self._number += 1
        sent_at = check_signature(headers, self.app_key, self.app_secret)
        if self.clock_tolerance is not None and abs(sent_at - self.wall_clock()) > self.clock_tolerance:
            raise ServiceRefusal(*_FAILURES["skew"])
        rate = self.batch_rate if kind == "batch" else self.listing_rate
        if self.faults.storms(self._number) or not rate.admit(now):
            raise ServiceRefusal(*_FAILURES["429"])
        if self.locked:
            raise ServiceRefusal(1006, "app is locked or deleted")
        if not self.enabled:
            raise ServiceRefusal(1009, "group profile hosting is not enabled")
        fault = self.faults.choose(self._number)
        if fault in _FAILURES:
            raise ServiceRefusal(*_FAILURES[fault])
        if len(body) > MAX_BODY_SIZE:
            raise ServiceRefusal(1005, f"the body is over {MAX_BODY_SIZE >> 10} KiB")
        shape = self.answers_in or version
        if kind == "batch":
            group_ids = parse_group_ids(version, headers, body)
            if len(group_ids) > _BATCH_LIMIT:
                raise ServiceRefusal(1002, f"more than {_BATCH_LIMIT} group IDs")
            result: dict[str, Any] = {"profiles": self._profiles(shape, group_ids, fault)}
        else:
            group_ids, result = [], self._page(shape, *parse_page(version, headers, body))
        content = {"code": 200, **result} if shape == 1 else {"code": 0, "result": result}
        return _spoiled(Response(200, [_JSON], self.encode(content), 200, group_ids), fault)

    def _profiles(self, shape: Version, group_ids: list[str], fault: str | None) -> list[Group | None]:
        if any(map(self.faults.poisons, group_ids)):
            raise ServiceRefusal(1002, "groupIds is invalid")
        profiles: list[Group | None] = []
        for group_id in dict.fromkeys(group_ids):
            group = self.universe.shared(group_id)
            if group is None and self.unknown == "refused":
                raise ServiceRefusal(1002, "group does not exist")
            if group is not None and fault == "broken":
                group["groupProfile"], fault = '{"introduction": "cut off', None
            if group is None and self.unknown == "bare":
                group = {"groupId": group_id}
            if group is not None:
                profiles.append(self.profile(shape, group))
            elif self.unknown == "null":
                profiles.append(None)
        if fault == "duplicate":
            profiles.extend(profiles[:1])
        if fault == "foreign":
            foreign = {"groupId": "foreign", "groupName": "A group that was not asked for"}
            profiles.insert(0, self.profile(shape, foreign))
        return profiles

    def _page(self, shape: Version, start: int, size: int, newest_first: bool) -> dict[str, Any]:  # noqa: FBT001  a page's part
        groups = self.universe.listing(start, size, newest_first=newest_first)
        page: dict[str, Any] = {"groups": [self.listed(shape, group) for group in groups]}
        end = start + len(groups)
        if end < len(self.universe):
            page["pageToken"] = f"p-{end:x}"
        return page

    def _refusal(self, code: int, message: str) -> Response:
        throttled = code == 1008  # noqa: PLR2004  the service's code
        headers = [_JSON]
        if throttled and self.retry_after is not None:
            headers.append(("retry-after", str(ceil(self.retry_after))))
        body = self.encode({"code": code, "errorMessage": message})
        return Response(200 if throttled and self.refuse_with_200 else _STATUS[code], headers, body, code, [])


def _spoiled(response: Response, fault: str | None) -> Response:
    if fault in CONNECTION_FAULTS:
        return response._replace(fault=fault)
    if fault == "truncated":
        return response._replace(body=response.body[: len(response.body) // 2])
    if fault == "garbage":
        return response._replace(body=b"\x00\xff{]garbage")
    if fault in _PAGES:
        status, title = _PAGES[fault]
        page = _HTML.format(title).encode()
        return response._replace(status=status, headers=[("content-type", "text/html")], body=page, code=0)
    return response

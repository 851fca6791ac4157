"""Faults to play, and when: drawn from a seeded generator, or scripted."""

import random
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import InitVar, dataclass, field
from typing import Final, NamedTuple, Self

CONNECTION_FAULTS: Final = {
    "rst": "the stream is reset with INTERNAL_ERROR (HTTP/1.1: the connection drops)",
    "refuse": "the stream is reset with REFUSED_STREAM (HTTP/1.1: the connection drops)",
    "drop": "the connection drops in the middle of the response",
    "cut": "the response ends short of its content-length",
    "hang": "this request is never answered",
    "slow-body": "the response comes in ten pieces",
    "goaway": "GOAWAY; requests in flight finish (HTTP/1.1: Connection: close)",
    "goaway-lower": "GOAWAY that leaves out the newest in flight (HTTP/1.1: the connection drops)",
    "goaway-close": "GOAWAY, and the connection closes with the requests in flight",
}
"""Faults of the connection, played by the server connection."""

RESPONSE_FAULTS: Final = {
    "truncated": "half of the JSON, as a whole response",
    "garbage": "something that is no JSON",
    "html": "a proxy's HTML page with status 200",
    "html-403": "a proxy's HTML page with status 403",
    "html-502": "a proxy's HTML page with status 502",
    "error-500": "HTTP 500, code 1000",
    "error-504": "HTTP 504, code 1050",
    "429": "HTTP 429, code 1008, whatever the rate",
    "skew": "HTTP 401, code 1004, as for a clock that is far off",
    "duplicate": "a profile comes twice",
    "foreign": "a profile that was not asked for",
    "broken": "a profile whose nested text is no JSON",
}

ON_REQUEST: Final = CONNECTION_FAULTS | RESPONSE_FAULTS

STANDING: Final = {
    "goaway=N, goaway-lower=N, goaway-close=N": "the same at each connection's Nth request",
    "streams=N|none": "MAX_CONCURRENT_STREAMS at the start; none: the setting is not sent",
    "streams-drop=M@N": "MAX_CONCURRENT_STREAMS becomes M at a connection's Nth request",
    "storm=I-J": "requests number I to J are refused with 429",
    "poison=PREFIX": "a batch with an ID that begins with PREFIX is refused with code 1002",
    "handshake=SECONDS": "TLS begins that late",
    "idle=SECONDS": "a connection without a request for that long is closed",
    "black-hole": "connections are accepted and read, and nothing is ever answered",
}


class StreamsDrop(NamedTuple):
    """MAX_CONCURRENT_STREAMS becomes `to` when a connection's request number `at` arrives."""

    to: int
    at: int


class GoAway(NamedTuple):
    """The GOAWAY that each connection gets: its kind (a name in `CONNECTION_FAULTS`) and the request it comes at."""

    kind: str
    at: int


@dataclass(kw_only=True, eq=False)
class Faults:
    """The faults to play; the attributes may be changed while the emulator runs.

    A request has one fault at most: the next scripted one, else the one `at` its number, else one
    drawn by `share`. A request refused for its rate or its credentials has none.

    Raises:
        ValueError: there is no fault of that name.
    """

    share: dict[str, float] = field(default_factory=dict)  #: share of the requests, 0 to 1, by the fault's name
    at: dict[int, str] = field(default_factory=dict)  #: the fault's name by the request's number, from 1
    seed: InitVar[int] = 0  #: another one draws other requests
    goaway: GoAway | None = None  #: the GOAWAY that every connection gets
    streams: int | None = 100  #: MAX_CONCURRENT_STREAMS at the start; None: the setting is not sent
    streams_drop: StreamsDrop | None = None  #: when it is lowered
    storm: tuple[int, int] | None = None  #: numbers of the first and the last request refused with 429
    poison: Collection[str] = ()  #: IDs that make the service refuse their batch with code 1002
    poison_prefix: str = ""  #: the same for every ID that begins so; empty for none
    handshake: float = 0.0  #: seconds before TLS begins
    idle: float | None = None  #: seconds without an open request after which a connection is closed; None: never
    piece_pause: float = 0.05  #: seconds between the pieces of a slow body
    black_hole: bool = False  #: whether connections are accepted and read, and nothing is answered
    played: Counter[str] = field(default_factory=Counter, init=False)  #: how often each fault was played

    def __post_init__(self, seed: int) -> None:
        for name in (*self.share, *self.at.values()):
            _check_known(name)
        self.share, self.at = {**self.share}, {**self.at}  # the caller's own stay as they are
        self._random = random.Random(seed)
        self._script: deque[str] = deque()

    def next(self, name: str, times: int = 1) -> None:
        """Script a fault for the next request, after those already scripted.

        Args:
            name: a name in `ON_REQUEST`.
            times: for how many requests.
        """
        _check_known(name)
        self._script.extend([name] * times)

    def choose(self, number: int) -> str | None:
        """The fault of request `number`, from 1, or None; it counts as played."""
        without = max(0.0, 1 - sum(self.share.values()))
        [drawn] = self._random.choices([*self.share, None], [*self.share.values(), without])
        name = self._script.popleft() if self._script else self.at.get(number, drawn)
        if name is not None:
            self.played[name] += 1
        return name

    def storms(self, number: int) -> bool:
        """Tell whether request `number` falls into the storm of refusals; it counts as played."""
        stormy = self.storm is not None and self.storm[0] <= number <= self.storm[1]
        if stormy:
            self.played["storm"] += 1
        return stormy

    def poisons(self, group_id: str) -> bool:
        """Tell whether the service refuses every batch that holds this ID."""
        return group_id in self.poison or (bool(self.poison_prefix) and group_id.startswith(self.poison_prefix))

    @classmethod
    def parse(cls, descriptions: Iterable[str], *, seed: int = 0) -> Self:
        """Read faults as they are written on a command line.

        Args:
            descriptions: each ``NAME=SHARE`` (``rst=1%``, ``hang=0.002``) for a name in `ON_REQUEST`,
                or one of `STANDING`.
            seed: as for the class.

        Raises:
            ValueError: a description cannot be read; the message names it and lists the known ones.
        """
        faults = cls(seed=seed)
        for description in descriptions:
            name, _, value = description.partition("=")
            try:
                faults._set(name.strip(), value.strip())
            except ValueError as error:
                raise ValueError(f"{description!r} is not a fault. {_syntax()}") from error
        return faults

    def _set(self, name: str, value: str) -> None:
        match name:
            case "goaway" | "goaway-lower" | "goaway-close" if value.isdecimal():
                self.goaway = GoAway(name, int(value))
            case _ if name in ON_REQUEST:
                self.share[name] = _number(value[:-1], 100) / 100 if value.endswith("%") else _number(value, 1)
            case "streams":
                self.streams = None if value == "none" else int(value)
            case "streams-drop":
                to, at = map(int, value.split("@"))
                self.streams_drop = StreamsDrop(to, at)
            case "storm":
                first, last = map(int, value.split("-"))
                self.storm = first, last
            case "poison" if value:
                self.poison_prefix = value
            case "handshake" | "idle":
                setattr(self, name, _number(value, sys.float_info.max))
            case "black-hole" if not value:
                self.black_hole = True
            case _:
                raise ValueError(name)


def _check_known(name: str) -> None:
    if name not in ON_REQUEST:
        raise ValueError(f"{name!r} is not a fault of a request. There are: {', '.join(ON_REQUEST)}")


def _number(value: str, most: float) -> float:
    number = float(value)
    if not 0 <= number <= most:
        raise ValueError(value)
    return number


def _syntax() -> str:
    lines = ["Known are, with a share such as 1% or 0.01 of the requests:"]
    lines += [f"  {name}=SHARE: {text}" for name, text in ON_REQUEST.items()]
    lines += ["and:"]
    lines += [f"  {name}: {text}" for name, text in STANDING.items()]
    return "\n".join(lines)

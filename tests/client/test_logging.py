"""The log: its switch in the environment, and no secret in it or in any other text."""

import logging
import pickle
import re
import subprocess
import sys
import traceback
from asyncio import create_task
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any, Self

import pytest
from support.bulk_jobs import client_of
from support.clients import trusting
from support.signals import Signals

from rongcloud_groups import ConfigError, GroupClient, RongCloudError, Secret
from rongcloud_groups._protocol import signing
from rongcloud_groups._protocol.signing import Credentials, Signature, sign
from rongcloud_groups.emulator import Emulator, Faults
from rongcloud_groups.pytest_plugin import InProcessEmulator

SECRET = "ZzTopSecret42zZ"
CALLS = 2
"""How many calls of each function are looked at."""

PROGRAM = """
import asyncio, sys
from rongcloud_groups.pytest_plugin import InProcessEmulator

async def main():
    emulator = InProcessEmulator()
    async with emulator.client(app_secret=emulator.service.app_secret) as client:
        await client.get("g1")

asyncio.run(main())
"""


def logged(level: str) -> str:
    ended = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", PROGRAM],
        env={"RONGCLOUD_LOG": level},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return ended.stderr


def test_the_environment_switches_the_log_on() -> None:
    lines = logged("debug").splitlines()
    for expected in ("connected to", "BatchSent(request_id='", "BatchAnswered(request_id='", "CallEnded(call='get'"):
        assert [line for line in lines if re.match(r"[-\d]+ [:,\d]+ DEBUG rongcloud_groups", line) and expected in line]
    assert logged("warning") == logged("") == ""


def test_a_level_that_does_not_exist_is_refused(
    monkeypatch: pytest.MonkeyPatch, rongcloud_emulator: InProcessEmulator
) -> None:
    monkeypatch.setenv("RONGCLOUD_LOG", "loud")
    with pytest.raises(ConfigError, match="RONGCLOUD_LOG is 'loud'; set it to debug, info, warning or error"):
        rongcloud_emulator.client()


@pytest.fixture
def signatures(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Those of all requests of the test."""
    made: set[str] = set()

    def recording(app_secret: Secret, nonce: str, timestamp_ms: int) -> Signature:
        signature = sign(app_secret, nonce, timestamp_ms)
        made.add("".join(signature))
        return signature

    monkeypatch.setattr(signing, "sign", recording)
    return made


def is_of_the_client(module: object) -> bool:
    return isinstance(module, str) and module.startswith("rongcloud_groups") and "emulator" not in module


class FrameTexts:
    """The locals of each function of the client as it ends: all that a traceback could show of it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._calls: Counter[CodeType] = Counter()

    def __enter__(self) -> Self:
        sys.setprofile(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _record(self, frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__")
        if event != "return" or not is_of_the_client(module) or module == Secret.__module__:
            return
        self._calls[frame.f_code] += 1
        if self._calls[frame.f_code] <= CALLS:
            for name, value in frame.f_locals.items():
                with suppress(AttributeError):  # it is half made
                    self.texts.append(f"{module} {frame.f_code.co_qualname}: {name} = {value!r}")


def texts_of_all_parts(client: GroupClient) -> Iterator[str]:
    """The `repr` of every object of the library that a client holds, through attributes and containers."""
    seen: set[int] = set()
    waiting: list[object] = [client]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset | deque):
            waiting += each
        elif is_of_the_client(type(each).__module__):
            yield f"{each!r} {each}"
            names = [*vars(each)] if hasattr(each, "__dict__") else []
            names += [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
            waiting += [getattr(each, name, None) for name in names]


def texts_of(error: BaseException) -> Iterator[str]:
    yield f"{error!r} {error} {vars(error)} {pickle.dumps(error)!r}"
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in shown.stack if "/rongcloud_groups/" in frame.filename]
    yield from (str(frame.locals) for frame in frames if "/emulator/" not in frame.filename)


async def texts_of_a_run(caplog: pytest.LogCaptureFixture, signals: Signals, *, http2: bool) -> list[str]:
    """Every text that a client with failing requests, and one with a wrong secret, shows."""
    events: list[Any] = []
    texts: list[str] = []
    hooks = [events.append, signals.hook]
    options: dict[str, Any] = {"http2": http2, "hooks": hooks, "rate": 5000.0, "max_attempts": 2}
    faults = Faults(share={"error-500": 0.2, "drop": 0.2, "garbage": 0.1, "429": 0.1})
    with caplog.at_level(logging.DEBUG), FrameTexts() as frames:
        async with Emulator(app_secret=SECRET, limit=None, faults=faults) as emulator:
            async with client_of(emulator, **options) as client:
                lookup = create_task(client.get_many([f"g{number}" for number in range(100)], deadline=5))
                await emulator.wait_for(2)
                texts += texts_of_all_parts(client)
                for error in {type(error): error for error in (await lookup).failed.values()}.values():
                    texts += texts_of(error)
            url, trusted = emulator.url, trusting(emulator)
            wrong = GroupClient(emulator.app_key, SECRET + "!", base_urls=url, verify=trusted, **options)
            async with wrong:
                with pytest.raises(RongCloudError) as caught:
                    await wrong.get("g1")
                texts += texts_of(caught.value)
    assert len(frames.texts) > 500
    assert events
    errors = [event.error for event in events if getattr(event, "error", None)]
    texts += [text for error in errors for text in texts_of(error)]
    records = [record for record in caplog.records if record.name.startswith("rongcloud_groups")]
    assert records
    texts += [f"{vars(record)} {logging.Formatter().format(record)}" for record in records]
    return [*texts, *frames.texts, *(f"{event!r} {event}" for event in events), signals.text()]


def leaks(texts: list[str], signatures: set[str]) -> list[str]:
    """The texts with a secret; where a request is encoded, its bytes have the signature."""
    return [
        text
        for text in texts
        if SECRET in text
        or (not text.startswith("rongcloud_groups._transport") and any(map(text.__contains__, signatures)))
    ]


@pytest.mark.parametrize("http2", [True, False])
async def test_no_text_shows_the_secret_or_a_signature(
    caplog: pytest.LogCaptureFixture,
    signatures: set[str],
    signals: Signals,
    http2: bool,  # noqa: FBT001  a parameter
) -> None:
    texts = await texts_of_a_run(caplog, signals, http2=http2)

    assert len(signatures) >= 2
    assert leaks(texts, signatures) == []


@pytest.mark.parametrize(
    ("leaking", "leak"),
    [
        (Signature, str.__repr__),
        (Secret, Secret.reveal),
        (Credentials, lambda credentials: credentials.app_secret.reveal()),
    ],
)
async def test_a_text_that_shows_one_would_be_found(
    caplog: pytest.LogCaptureFixture,
    signatures: set[str],
    signals: Signals,
    monkeypatch: pytest.MonkeyPatch,
    leaking: type[object],
    leak: Callable[[Any], str],
) -> None:
    monkeypatch.setattr(leaking, "__repr__", leak)

    texts = await texts_of_a_run(caplog, signals, http2=False)

    assert leaks(texts, signatures)

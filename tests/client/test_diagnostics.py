import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.command_line import APP_SECRET, Ended, environment, run

from rongcloud_groups import ConfigError, LocalLimiter
from rongcloud_groups._protocol.dialects import DIALECTS
from rongcloud_groups.config import REGIONS, DialectName
from rongcloud_groups.diagnostics import Diagnosis, check
from rongcloud_groups.emulator import Emulator, Faults

VERSION = {"rongcloud": 1, "nexconn": 4}
Check = Callable[..., Any]


@pytest.fixture
def other(dialect: str) -> str:
    return DIALECTS[dialect].other.name


@pytest.fixture
def checked(dialect: str) -> Check:
    async def checked(*emulators: Emulator, **options: Any) -> Diagnosis:
        first = emulators[0]
        defaults: dict[str, Any] = {
            "base_urls": [emulator.url for emulator in emulators],
            "dialect": dialect,
            "verify": first.ssl_context,
        }
        app_secret = options.pop("app_secret", first.app_secret)
        return await check(first.app_key, app_secret, **(defaults | options))

    return checked


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"https://127.0.0.1:{listener.getsockname()[1]}"


def advice_of(diagnosis: Diagnosis) -> str:
    (problem,) = diagnosis.problems
    assert not diagnosis.ok
    return problem.advice


@pytest.mark.parametrize(("http2", "version"), [(True, "HTTP/2"), (False, "HTTP/1.1")])
async def test_a_service_that_responds_costs_one_request_and_shows_all(
    checked: Check, dialect: str, version: str, *, http2: bool
) -> None:
    async with Emulator(http2=http2, latency=0.05) as emulator:
        diagnosis = await checked(emulator)
        assert emulator.report().requests == {DIALECTS[dialect].batch_path: 1}
    assert diagnosis.ok
    assert diagnosis.problems == []
    assert (diagnosis.dialect, diagnosis.answering_dialect) == (dialect, dialect)
    assert (diagnosis.host, diagnosis.region) == (emulator.url.removeprefix("https://"), None)
    assert diagnosis.http_version == version
    assert 0.05 <= diagnosis.round_trip < 5
    assert abs(diagnosis.clock_offset) < 5


async def test_a_group_that_may_not_be_asked_for_shows_that_the_credentials_are_right(checked: Check) -> None:
    async with Emulator(unknown="refused", faults=Faults(poison_prefix="rongcloud-groups")) as emulator:
        diagnosis = await checked(emulator)
    assert diagnosis.ok
    assert diagnosis.problems == []


async def test_plain_http_serves_for_a_test_server(checked: Check) -> None:
    async with Emulator(tls=False) as emulator:
        assert (await checked(emulator)).ok


async def test_the_host_of_a_region_is_named_by_it(checked: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Emulator() as emulator:
        monkeypatch.setitem(REGIONS, "atlantis", (emulator.url, closed_port()))
        diagnosis = await checked(emulator, base_urls=None, region="atlantis")
    assert (diagnosis.ok, diagnosis.region) == (True, "atlantis")


@pytest.mark.parametrize(
    ("of_the_service", "problem", "advice"),
    [
        ({"app_secret": "another"}, "signature is invalid (code 1004, HTTP 401", "check RONGCLOUD_APP_SECRET"),
        ({"app_key": "another"}, "invalid App-Key (code 1001", "check RONGCLOUD_APP_KEY and RONGCLOUD_APP_SECRET"),
        ({"locked": True}, "code 1006", "console shows its state"),
        ({"enabled": False}, "code 1009, HTTP 430", "enable group profile hosting"),
        ({"versions": frozenset()}, "api not found (code 404", "in neither dialect: check RONGCLOUD_REGION"),
        ({"faults": Faults(share={"429": 1.0})}, "code 1008", "another program uses the App Key"),
        ({"faults": Faults(share={"error-500": 1.0})}, "code 1000", "the service fails; try again later"),
        ({"faults": Faults(share={"html-403": 1.0})}, "HTTP 403", "give the service's support"),
        ({"faults": Faults(share={"html": 1.0})}, "not a response of the service", "something other than the service"),
        ({"faults": Faults(share={"rst": 1.0})}, "reset", "the network in between"),
    ],
)
async def test_a_fault_is_reported_with_its_cure_after_at_most_two_requests(
    of_the_service: dict[str, Any], problem: str, advice: str, dialect: DialectName
) -> None:
    async with Emulator(**{"app_key": "key", "app_secret": "secret"} | of_the_service) as emulator:
        diagnosis = await check("key", "secret", base_urls=emulator.url, dialect=dialect, verify=emulator.ssl_context)
        assert sum(emulator.report().requests.values()) <= 2
    assert advice in advice_of(diagnosis)
    assert problem in diagnosis.problems[0].problem
    assert advice not in diagnosis.problems[0].problem


@pytest.mark.parametrize("shape", [False, True], ids=["404", "answers in the other shape"])
async def test_the_other_dialect_is_named_where_it_works(
    checked: Check, dialect: str, other: str, *, shape: bool
) -> None:
    of_the_service = {"answers_in": VERSION[other]} if shape else {"versions": frozenset({VERSION[other]})}
    async with Emulator(**of_the_service) as emulator:
        diagnosis = await checked(emulator)
        assert len(emulator.report().requests) == 2
    assert (diagnosis.dialect, diagnosis.answering_dialect) == (dialect, other)
    assert f"set dialect='{other}' (RONGCLOUD_DIALECT={other})" in advice_of(diagnosis)


async def test_the_other_dialect_may_be_right_and_the_secret_wrong(checked: Check, other: str) -> None:
    async with Emulator(versions=frozenset({VERSION[other]}), app_secret="right") as emulator:
        diagnosis = await checked(emulator, app_secret="another")
    assert diagnosis.answering_dialect == other
    assert [other in diagnosis.problems[0].advice, "RONGCLOUD_APP_SECRET" in diagnosis.problems[1].advice] == [
        True,
        True,
    ]


@pytest.mark.parametrize(("server", "words"), [(-3600, "s ahead of the server's"), (3600, "s behind the server's")])
async def test_a_clock_that_is_off_is_reported_and_named_if_the_signature_is_refused(
    checked: Check, server: int, words: str
) -> None:
    async with Emulator(wall_clock=lambda: time.time() + server) as tolerant:
        diagnosis = await checked(tolerant)
    assert diagnosis.ok
    assert abs(diagnosis.clock_offset + server) < 5
    assert words in diagnosis.problems[0].problem
    async with Emulator(wall_clock=lambda: time.time() + server, clock_tolerance=60) as strict:
        assert words in advice_of(await checked(strict))


@asynccontextmanager
async def responding(response: bytes) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(response)
        if response:
            writer.close()
        else:
            writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_without_a_date_nothing_is_said_of_the_clock() -> None:
    body = b'{"code":200,"profiles":[]}'
    async with responding(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)) as host:
        diagnosis = await check("key", "secret", base_urls=f"http://{host}")
    assert diagnosis.ok
    assert diagnosis.clock_offset is None


async def test_a_backup_that_responds_makes_up_for_a_primary_that_refuses(checked: Check) -> None:
    primary = closed_port()
    async with Emulator() as backup:
        diagnosis = await checked(backup, base_urls=[primary, backup.url])
    assert diagnosis.ok
    assert diagnosis.host == backup.url.removeprefix("https://")
    assert [problem.problem for problem in diagnosis.problems] == [
        f"{primary.removeprefix('https://')}: connecting failed: connection refused"
    ]


async def test_a_backup_is_asked_where_the_primary_fails(checked: Check) -> None:
    async with Emulator(faults=Faults(share={"error-500": 1.0})) as primary, Emulator() as backup:
        context = primary.ssl_context
        context.load_verify_locations(cadata=backup.ca_pem.decode())
        diagnosis = await checked(primary, backup, verify=context)
        assert (primary.report().batch_requests, backup.report().batch_requests) == (1, 1)
    assert diagnosis.ok
    assert diagnosis.host == backup.url.removeprefix("https://")
    assert "code 1000" in diagnosis.problems[0].problem


@pytest.mark.parametrize(
    ("url", "problem", "advice"),
    [
        ("https://no-such-host.invalid", "name resolution failed", "name resolution on this machine"),
        (closed_port(), "connection refused", "firewall"),
    ],
    ids=["no such host", "no listener"],
)
async def test_an_unreachable_host_is_reported(url: str, problem: str, advice: str) -> None:
    diagnosis = await check("key", "secret", base_urls=url)
    assert problem in diagnosis.problems[0].problem
    assert advice in advice_of(diagnosis)
    assert (diagnosis.host, diagnosis.round_trip, diagnosis.answering_dialect) == (None, None, None)


async def test_an_untrusted_certificate_is_reported() -> None:
    async with Emulator() as emulator, Emulator() as another:
        diagnosis = await check("key", "secret", base_urls=emulator.url, verify=another.ssl_context)
    assert "SSL_CERT_FILE" in advice_of(diagnosis)


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_port_without_tls_is_reported(response: bytes) -> None:
    async with responding(response) as host:
        diagnosis = await check("key", "secret", base_urls=f"https://{host}")
    assert "port and its scheme" in advice_of(diagnosis)


async def test_it_draws_on_the_shared_budget(tmp_path: Path) -> None:
    async with Emulator(tls=False) as emulator:
        limiter = f"file:{tmp_path / 'budget'}"
        assert (await check(emulator.app_key, emulator.app_secret, base_urls=emulator.url, limiter=limiter)).ok
    assert (tmp_path / "budget").stat().st_size > 0


class CountingLimiter(LocalLimiter):
    granted = left = 0

    async def acquire(self) -> None:
        await super().acquire()
        self.granted += 1

    def sent(self) -> None:
        super().sent()
        self.left += 1


async def test_the_limiter_is_notified_of_each_request_that_left(checked: Check) -> None:
    limiter = CountingLimiter()
    async with Emulator(versions=frozenset()) as emulator:
        await checked(emulator, limiter=limiter)
    assert (limiter.granted, limiter.left) == (2, 2)


@pytest.mark.parametrize(
    "options", [{"dialect": "v4"}, {"rate": 0}, {"limiter": "paper"}, {"attempt_timeout": 0}, {"region": "atlantis"}]
)
async def test_settings_that_cannot_be_used_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        await check("key", "secret", **options)


# The command


async def command(emulator: Emulator, path: Path, *arguments: str, **changes: str | None) -> Ended:
    ca_file = path / "ca.pem"
    ca_file.write_bytes(emulator.ca_pem)
    env = environment(emulator.url, ca_file, **changes)
    return await asyncio.to_thread(run, "check", *arguments, env=env)


async def test_the_command_says_what_responds_and_ends_with_0(tmp_path: Path, dialect: str) -> None:
    async with Emulator() as emulator:
        ended = await command(emulator, tmp_path, RONGCLOUD_DIALECT=dialect)
    assert (ended.code, ended.stderr) == (0, "")
    lines = dict(line.split(":", 1) for line in ended.stdout.splitlines())
    assert lines["host"].strip() == emulator.url.removeprefix("https://")
    assert lines["HTTP"].strip() == "HTTP/2"
    assert lines["dialect"].strip() == dialect
    assert lines["round trip"].endswith(" ms")
    assert "problem" not in lines


async def test_the_command_says_what_to_change_and_ends_with_4(tmp_path: Path, dialect: str, other: str) -> None:
    async with Emulator(versions=frozenset({VERSION[other]})) as emulator:
        ended = await command(emulator, tmp_path, RONGCLOUD_DIALECT=dialect)
    assert (ended.code, ended.stderr) == (4, "")
    assert f"{other} answers, {dialect} is set" in ended.stdout
    assert f"RONGCLOUD_DIALECT={other}" in ended.stdout


async def test_where_something_else_responds_it_says_only_which_dialect_is_set(tmp_path: Path) -> None:
    async with Emulator(faults=Faults(share={"html": 1.0})) as emulator:
        ended = await command(emulator, tmp_path)
    assert ended.code == 4
    assert "dialect:    rongcloud is set\n" in ended.stdout


async def test_json_is_one_object_without_the_secret(tmp_path: Path) -> None:
    async with Emulator(enabled=False) as emulator:
        ended = await command(emulator, tmp_path, "--json")
    assert (ended.code, ended.stderr) == (4, "")
    diagnosis = json.loads(ended.stdout)
    assert (diagnosis["ok"], diagnosis["answering_dialect"]) == (False, "rongcloud")
    assert "enable group profile hosting" in diagnosis["problems"][0]["advice"]
    assert APP_SECRET not in ended.stdout


async def test_the_command_takes_the_transport_of_the_environment(tmp_path: Path) -> None:
    async with Emulator() as emulator:
        ended = await command(emulator, tmp_path, RONGCLOUD_TRANSPORT="httpx")
    assert (ended.code, ended.stderr) == (0, "")
    assert "httpx transport" in ended.stdout


def test_without_a_response_it_shows_nothing_of_one() -> None:
    ended = run("check", env=environment(closed_port()))
    assert (ended.code, ended.stderr) == (4, "")
    assert "connection refused" in ended.stdout
    assert "dialect:" not in ended.stdout
    assert ended.stdout.endswith("Lookups cannot succeed like this.\n")


def test_a_missing_variable_ends_with_2() -> None:
    ended = run("check", env=environment(RONGCLOUD_APP_KEY=None))
    assert (ended.code, ended.stdout) == (2, "")
    assert "RONGCLOUD_APP_KEY" in ended.stderr

import copy
import io
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

import rongcloud_groups
from rongcloud_groups import REGIONS, Cache, ConfigError, GroupClient, LocalLimiter, RongCloudError, Secret
from rongcloud_groups._http import Proxy
from rongcloud_groups._protocol.signing import Credentials
from rongcloud_groups.config import options_from_environment, resolved_base_urls
from rongcloud_groups.emulator import Emulator, Faults

SECRET = "ZzTopSecret42zZ"
PACKAGE = str(Path(rongcloud_groups.__file__).parent)


def shown_by(error: BaseException) -> str:
    """All that a report with local variables shows of an error inside the library, and of the errors behind it."""
    text = io.StringIO()
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or each in seen:
            continue
        seen.append(each)
        text.write(f"{each!r} {each} {each.args} {vars(each)} {getattr(each, '__notes__', '')}\n")
        for frame, _ in traceback.walk_tb(each.__traceback__):
            for name, value in frame.f_locals.items() if PACKAGE in frame.f_code.co_filename else ():
                with suppress(AttributeError):  # an object that its constructor refused has no repr
                    text.write(f"{name} = {value!r}\n")
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
    return text.getvalue()


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


# Options


def client_with(**options: Any) -> GroupClient:
    return GroupClient(**({"app_key": "key", "app_secret": SECRET} | options))


async def asynchronous_hook(event: object) -> None:
    del event


class AsynchronousHook:
    async def __call__(self, event: object) -> None:
        del event


@pytest.mark.parametrize("region", REGIONS)
def test_each_region_has_a_primary_and_a_backup(region: str) -> None:
    primary, backup = resolved_base_urls(region, None)
    assert (str(primary), str(backup)) == REGIONS[region]
    assert primary.scheme == backup.scheme == "https"
    assert backup.host == primary.host.replace("api.", "api-b.", 1)


def test_beijing_is_the_region_where_none_is_named() -> None:
    assert client_with().stats().host == "api.rong-api.com"
    assert client_with(region="singapore").stats().host == "api.sg-light-api.com"


@pytest.mark.parametrize(
    ("base_urls", "urls"),
    [
        ("https://one.test", ["https://one.test"]),
        (["https://one.test:8443", "http://two.test"], ["https://one.test:8443", "http://two.test"]),
        (("https://one.test/",), ["https://one.test"]),
        ("HTTPS://One.TEST:443", ["https://one.test"]),
        (["http://one.test:80", "http://one.test:443"], ["http://one.test", "http://one.test:443"]),
        (["https://[::1]:8443", "https://[FE80::1]"], ["https://[::1]:8443", "https://[fe80::1]"]),
        ("https://bücher.test", ["https://xn--bcher-kva.test"]),
    ],
)
def test_base_urls_take_the_place_of_the_region(base_urls: Any, urls: list[str]) -> None:
    assert [str(origin) for origin in resolved_base_urls("nowhere", base_urls)] == urls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"app_key": ""}, "app_key is empty"),
        ({"app_key": None}, "app_key is of type NoneType; give a str"),
        ({"app_key": "a b"}, "app_key 'a b' has a character that an App Key cannot have"),
        ({"app_key": "a\r\nb"}, r"app_key 'a\\r\\nb' has a character"),
        ({"app_key": "é"}, "app_key 'é' has a character"),
        ({"app_secret": ""}, "app_secret is empty"),
        ({"app_secret": Secret("")}, "app_secret is empty"),
        ({"app_secret": None}, "app_secret is of type NoneType; give a str"),
        ({"app_secret": b"bytes"}, "app_secret is of type bytes; give a str"),
        ({"region": "mars"}, "region 'mars' is not known; the regions are beijing, singapore, .*saudi-arabia"),
        ({"base_urls": []}, "base_urls is empty"),
        ({"base_urls": "one.test"}, r"base URL 'one\.test' must start with https://"),
        ({"base_urls": "ftp://one.test"}, r"base URL 'ftp://one\.test' must start with https://"),
        ({"base_urls": "https://"}, "base URL 'https://' must start with https://.* and name a host"),
        ({"base_urls": ["https://one.test/path"]}, r"must be only https://host\[:port\]; the client adds the path"),
        ({"base_urls": ["https://one.test?a=1"]}, "must be only https://host"),
        ({"base_urls": ["https://one.test#part"]}, "must be only https://host"),
        ({"base_urls": ["https://user@one.test"]}, r"base URL 'https://…@one\.test' must be only https://host"),
        ({"base_urls": ["https://one.test", "http://two.test"]}, "'http://two.test' would send .* unencrypted"),
        ({"base_urls": "http://127.0.0.1.test"}, "use https://, or set allow_insecure=True"),
        ({"allow_insecure": 1}, "allow_insecure is 1; give True or False"),
        ({"base_urls": ["https://one.test:port"]}, r"base URL 'https://one\.test:port' cannot be read"),
        ({"base_urls": ["https://one.test:99999"]}, r"base URL 'https://one\.test:99999' cannot be read"),
        ({"base_urls": ["https://[::1"]}, r"base URL 'https://\[::1' cannot be read"),
        ({"base_urls": ["https://one two.test"]}, r"base URL 'https://one two\.test' cannot be read"),
        ({"base_urls": ["https://one.test\n"]}, r"base URL 'https://one\.test\\n' cannot be read"),
        ({"base_urls": ["https://one..test"]}, r"base URL 'https://one\.\.test' cannot be read"),
        ({"base_urls": [7]}, "base URL 7 cannot be read"),
        ({"base_urls": [b"https://one.test"]}, "base URL b'https://one.test' cannot be read"),
        ({"transport": 7}, "transport is 7; give a transport of httpx or httpx2, or a function"),
        ({"dialect": "klingon"}, "dialect 'klingon' is not known; the dialects are rongcloud, nexconn"),
        ({"dialect": []}, r"dialect \[\] is not known"),
        ({"rate": 0}, "rate is 0; give a positive number"),
        ({"rate": -1.5}, "rate is -1.5; give a positive number"),
        ({"rate": "100"}, "rate is '100'; give a positive number"),
        ({"rate": float("nan")}, "rate is nan; give a positive number"),
        ({"rate": float("inf")}, "rate is inf; give a positive number"),
        ({"rate": True}, "rate is True; give a positive number"),
        ({"max_in_flight": 0}, "max_in_flight is 0; give a whole number, 1 or more"),
        ({"max_in_flight": 1.5}, "max_in_flight is 1.5; give a whole number"),
        ({"attempt_timeout": 0}, "attempt_timeout is 0; give a positive number"),
        ({"attempt_timeout": None}, "attempt_timeout is None; give a positive number"),
        ({"deadline": 0}, "deadline is 0; give a positive number"),
        ({"deadline": -1}, "deadline is -1; give a positive number"),
        ({"max_attempts": 0}, "max_attempts is 0; give a whole number, 1 or more"),
        ({"max_attempts": True}, "max_attempts is True; give a whole number"),
        ({"requests_per_connection": 1}, "requests_per_connection is 1; give a whole number, 2 or more"),
        ({"region": 5}, "region 5 is not known"),
        ({"region": ["beijing"]}, r"region \['beijing'\] is not known"),
        ({"base_urls": 5}, "base_urls is 5; give a URL, or a list of them"),
        ({"limiter": 50}, "limiter is 50; give a Limiter, file:PATH or redis://"),
        ({"limiter": LocalLimiter}, "limiter is <class .*LocalLimiter'>; give a Limiter"),
        ({"guard": "yes"}, "guard is 'yes'; give True or False"),
        ({"http2": 1}, "http2 is 1; give True or False"),
        (
            {"verify": False},
            r"verify is False; give an ssl\.SSLContext, such as ssl\.create_default_context\(cafile=PATH\)",
        ),
        ({"verify": "/etc/ssl/cert.pem"}, r"verify is '/etc/ssl/cert.pem'; give an ssl\.SSLContext"),
        ({"cache": 60}, "cache is 60; give a Cache, or None"),
        ({"cache": Cache}, "cache is <class .*Cache'>; give a Cache"),
        ({"hooks": print}, r"hooks is <built-in function print>; give a list of functions, such as hooks=\[print\]"),
        ({"hooks": "print"}, "hooks is 'print'; give a list of functions"),
        ({"hooks": [5]}, "hooks has 5 in it; give functions"),
        ({"hooks": [asynchronous_hook]}, "hooks has <function asynchronous_hook .* async function, which would never"),
        ({"hooks": [partial(asynchronous_hook)]}, "an async function, which would never run"),
        ({"hooks": [AsynchronousHook()]}, "an async function, which would never run"),
        ({"deadline": "2"}, "deadline is '2'; give a positive number"),
        ({"deadline": []}, r"deadline is \[\]; give a positive number"),
        ({"outage_timeout": 0}, "outage_timeout is 0; give a positive number"),
        ({"outage_timeout": None}, "outage_timeout is None; give a positive number"),
        ({"attempt_timeout": "5"}, "attempt_timeout is '5'; give a positive number"),
        ({"max_in_flight": "64"}, "max_in_flight is '64'; give a whole number"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        client_with(**options)
    assert SECRET not in shown_by(caught.value)


def test_a_secret_of_another_type_is_not_shown_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        client_with(app_secret=SECRET.encode())
    assert SECRET not in shown_by(caught.value)


# Environment

ENVIRONMENT = {"RONGCLOUD_APP_KEY": "key", "RONGCLOUD_APP_SECRET": SECRET}


def in_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    with patch.dict(os.environ, variables, clear=True):
        return options_from_environment()


def from_environment(**variables: str) -> dict[str, Any]:
    return in_environment(ENVIRONMENT | variables)


def test_the_environment_sets_only_what_it_names() -> None:
    options = from_environment()
    assert options.keys() == {"app_key", "app_secret"}
    assert options["app_key"] == "key"
    assert options["app_secret"].reveal() == SECRET


def test_each_variable_sets_its_option() -> None:
    options = from_environment(
        RONGCLOUD_REGION="singapore",
        RONGCLOUD_BASE_URL="https://one.test, https://two.test:8443 ,",
        RONGCLOUD_DIALECT="nexconn",
        RONGCLOUD_RATE=" 50.5 ",
        RONGCLOUD_LIMITER="file:/run/budget",
    )
    del options["app_key"], options["app_secret"]
    assert options == {
        "region": "singapore",
        "base_urls": ["https://one.test", "https://two.test:8443"],
        "dialect": "nexconn",
        "rate": 50.5,
        "limiter": "file:/run/budget",
    }


def test_empty_variables_count_as_not_set() -> None:
    names = ("REGION", "BASE_URL", "DIALECT", "RATE", "LIMITER")
    assert from_environment(**{f"RONGCLOUD_{name}": "  " for name in names}).keys() == {"app_key", "app_secret"}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_missing_variable_is_named(name: str) -> None:
    for environment in ({**ENVIRONMENT, name: " "}, {key: ENVIRONMENT[key] for key in ENVIRONMENT if key != name}):
        with pytest.raises(ConfigError, match=name):
            in_environment(environment)


def test_a_missing_secret_names_both_its_variables() -> None:
    with pytest.raises(ConfigError, match="RONGCLOUD_APP_SECRET, or RONGCLOUD_APP_SECRET_FILE"):
        in_environment({"RONGCLOUD_APP_KEY": "key"})


def test_a_rate_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match="RONGCLOUD_RATE is 'fast', not a number of requests a second"):
        from_environment(RONGCLOUD_RATE="fast")


def test_a_secret_comes_from_a_file_without_its_last_line_break(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    options = in_environment({"RONGCLOUD_APP_KEY": "key", "RONGCLOUD_APP_SECRET_FILE": str(file)})
    assert options["app_secret"].reveal() == SECRET


def test_the_secret_itself_wins_over_its_file() -> None:
    options = from_environment(RONGCLOUD_APP_SECRET_FILE="/does/not/exist")
    assert options["app_secret"].reveal() == SECRET


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read .*No such file"), (b" \n", "is empty"), (b"\xffabc", "cannot read")]
)
def test_a_secret_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"RONGCLOUD_APP_SECRET_FILE: .*{message}") as caught:
        in_environment({"RONGCLOUD_APP_KEY": "key", "RONGCLOUD_APP_SECRET_FILE": str(file)})
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("wrong", [{"RONGCLOUD_RATE": "fast"}, {"RONGCLOUD_APP_KEY": ""}])
def test_an_error_in_another_variable_does_not_show_the_secret(
    wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (ENVIRONMENT | wrong).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        GroupClient.from_env()
    assert SECRET not in shown_by(caught.value)


def test_from_env_reads_the_process_environment_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (ENVIRONMENT | {"RONGCLOUD_REGION": "singapore", "RONGCLOUD_RATE": "50"}).items():
        monkeypatch.setenv(name, value)
    assert GroupClient.from_env().stats().host == "api.sg-light-api.com"
    client = GroupClient.from_env(region="saudi-arabia")
    assert client.stats().host == "api.sau-light-api.com"
    assert client.stats().rate == 50.0


# The secret


@pytest.mark.parametrize("holder", [Secret(SECRET), Credentials("key", Secret(SECRET)), client_with()])
def test_whatever_holds_the_secret_does_not_show_it(holder: object) -> None:
    shown = [repr(holder), str(holder), f"{holder}", format(holder), ascii(holder), repr([holder]), f"{holder!r}"]
    shown.append(str(getattr(holder, "__dict__", "")))
    assert all(SECRET not in text for text in shown)
    with pytest.raises(TypeError):
        pickle.dumps(holder)
    with pytest.raises(TypeError):
        copy.deepcopy(holder)


def test_a_secret_says_of_itself_only_that_it_is_one() -> None:
    assert repr(Secret(SECRET)) == str(Secret(SECRET)) == "Secret(…)"
    assert not hasattr(Secret(SECRET), "__dict__")
    with pytest.raises(TypeError, match="a secret is not pickled"):
        pickle.dumps(Secret(SECRET))


def test_a_secret_with_undecodable_bytes_signs() -> None:
    secret = Secret(os.fsdecode(b"\xff" + SECRET.encode()))
    assert len(dict(Credentials("key", secret).headers())["signature"]) == 40


async def test_no_log_line_of_a_lookup_shows_the_secret(everything_logged: pytest.LogCaptureFixture) -> None:
    async with (
        Emulator(app_secret=SECRET) as emulator,
        GroupClient(emulator.app_key, SECRET, base_urls=emulator.url, verify=emulator.ssl_context) as client,
    ):
        assert len(await client.get_many([f"g{number}" for number in range(120)])) == 120
    assert everything_logged.records
    assert SECRET not in everything_logged.text
    assert all(SECRET not in str(vars(record)) for record in everything_logged.records)


@pytest.mark.parametrize("fault", ["error-500", "garbage", "drop", "rst", "hang"])
async def test_no_failing_lookup_shows_the_secret(fault: str, everything_logged: pytest.LogCaptureFixture) -> None:
    async with (
        Emulator(app_secret=SECRET, faults=Faults(share={fault: 1.0})) as emulator,
        GroupClient(
            emulator.app_key,
            SECRET,
            base_urls=emulator.url,
            verify=emulator.ssl_context,
            max_attempts=2,
            attempt_timeout=0.2,
        ) as client,
    ):
        with pytest.raises(RongCloudError) as caught:
            await client.get("g1")
        lookup = await client.get_many(["g1", "g2"])
        assert lookup.failed
        shown = [shown_by(error) for error in (caught.value, *lookup.failed.values())]
    assert all(SECRET not in text for text in shown)
    assert SECRET not in everything_logged.text


async def test_a_refused_signature_does_not_show_the_secret(everything_logged: pytest.LogCaptureFixture) -> None:
    async with (
        Emulator() as emulator,
        GroupClient(emulator.app_key, SECRET, base_urls=emulator.url, verify=emulator.ssl_context) as client,
    ):
        with pytest.raises(rongcloud_groups.AuthenticationError) as caught:
            await client.get("g1")
    assert SECRET not in shown_by(caught.value)
    assert SECRET not in everything_logged.text
    assert "not retryable" in everything_logged.text


async def test_a_transport_that_fails_does_not_show_the_secret(everything_logged: pytest.LogCaptureFixture) -> None:
    def failing(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("torn", request=request)

    transport = httpx.MockTransport(failing)
    async with GroupClient("key", SECRET, transport=transport, max_attempts=1) as client:
        with pytest.raises(rongcloud_groups.TransportError) as caught:
            await client.get("g1")
    assert SECRET not in shown_by(caught.value)
    assert SECRET not in everything_logged.text


FAILING_TEST = """
    import os

    import httpx

    from rongcloud_groups import GroupClient


    def refused(request):
        return httpx.Response(401, json={"code": 1004, "errorMessage": "signature"})


    async def test_a_lookup():
        async with GroupClient.from_env(transport=httpx.MockTransport(refused)) as client:
            assert await client.get("g1")


    def test_a_wrong_option():
        GroupClient("key", os.environ["RONGCLOUD_APP_SECRET"], rate=-1)


    def test_a_wrong_variable(monkeypatch):
        monkeypatch.setenv("RONGCLOUD_RATE", "fast")
        GroupClient.from_env()


    async def test_a_client_that_is_not_open():
        await GroupClient.from_env().get("g1")
"""


def test_a_failing_test_with_show_locals_does_not_show_the_secret(tmp_path: Path) -> None:
    (tmp_path / "test_failing.py").write_text(textwrap.dedent(FAILING_TEST), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-vv", "--showlocals", "--full-trace", "-o", "log_level=DEBUG"]
    finished = subprocess.run(  # noqa: S603  our own interpreter
        [*command, "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "test_failing.py"],
        cwd=tmp_path,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert "4 failed" in finished.stdout
    assert "app_secret" in finished.stdout
    assert SECRET not in finished.stdout + finished.stderr


@pytest.mark.parametrize(
    "base_urls",
    [
        "https://user:s3cret@one.test",
        "https://user:s3cr@et@one.test",
        "https://user:s3cret/@one.test:port",
        "user:s3cret@one.test",
        b"https://user:s3cret@one.test",
        ["https://one.test", "ftp://user:s3cret@one.test"],
        {"https://user:s3cret@one.test"},
    ],
)
def test_a_password_in_a_base_url_is_refused_and_not_shown(base_urls: Any) -> None:
    with pytest.raises(ConfigError, match=r"one\.test") as refused:
        client_with(base_urls=base_urls)
    assert "s3cr" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://localhost", "http://LocalHost.:8080", "http://a.localhost", "http://127.9.9.9", "http://[::1]:80"]
)
def test_requests_that_stay_on_this_machine_may_be_unencrypted(url: str) -> None:
    assert client_with(base_urls=url).stats().host


def test_unencrypted_requests_may_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = ["https://one.test", "http://two.test"]
    assert client_with(base_urls=urls, allow_insecure=True).stats().host == "one.test"
    monkeypatch.setenv("RONGCLOUD_APP_KEY", "key")
    monkeypatch.setenv("RONGCLOUD_APP_SECRET", "secret")
    monkeypatch.setenv("RONGCLOUD_BASE_URL", ",".join(urls))
    with pytest.raises(ConfigError, match="RONGCLOUD_ALLOW_INSECURE=1"):
        GroupClient.from_env()
    monkeypatch.setenv("RONGCLOUD_ALLOW_INSECURE", "1")
    assert GroupClient.from_env().stats().host == "one.test"


@pytest.mark.parametrize(("value", "http2"), [("0", False), ("off", False), ("1", True), ("True", True), ("", None)])
def test_http2_is_switched_by_the_environment(value: str, http2: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RONGCLOUD_APP_KEY", "key")
    monkeypatch.setenv("RONGCLOUD_APP_SECRET", "secret")
    monkeypatch.setenv("RONGCLOUD_HTTP2", value)
    assert options_from_environment().get("http2") is http2


def test_switches_and_proxy_of_the_environment_are_named_where_they_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RONGCLOUD_APP_KEY", "key")
    monkeypatch.setenv("RONGCLOUD_APP_SECRET", "secret")
    monkeypatch.setenv("RONGCLOUD_HTTP2", "never")
    with pytest.raises(ConfigError, match="RONGCLOUD_HTTP2 is 'never'; set it to 1 or 0"):
        GroupClient.from_env()
    monkeypatch.setenv("RONGCLOUD_HTTP2", "")
    monkeypatch.setenv("RONGCLOUD_PROXY", "http://user:s3cret@proxy.test:3128")
    assert repr(Proxy.of(options_from_environment()["proxy"])) == "<Proxy http://proxy.test:3128>"
    assert "s3cret" not in repr(vars(GroupClient.from_env()))

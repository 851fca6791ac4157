"""Neither the App Secret nor a signature is shown, whatever prints the locals of a traceback."""

import hashlib
import io
import pickle
import traceback
from collections.abc import Callable
from types import TracebackType

import pytest
from rich.console import Console
from rich.traceback import Traceback

from rongcloud_groups import ConfigError, GroupClient, Secret
from rongcloud_groups._http import Request
from rongcloud_groups._protocol.api import ServiceApi
from rongcloud_groups._protocol.dialects import DIALECTS, Dialect
from rongcloud_groups._protocol.signing import Credentials, Signature, sign
from rongcloud_groups.diagnostics import check

APP_SECRET = "ZzTopSecret42zZ"


class Failure(Exception):  # noqa: N818  it stands for any exception
    pass


class FailingDialect:
    """Stands for a dialect; it fails when its content type is read, when the signature is made already."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def __getattr__(self, name: str) -> object:
        if name == "content_type":
            raise Failure
        return getattr(self._dialect, name)


def credentials() -> Credentials:
    return Credentials("key1", Secret(APP_SECRET))


def shown(error: BaseException) -> str:
    """All that the standard library and rich show of an error, with the locals of every frame of the library."""
    standard = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    printed = io.StringIO()
    trace: TracebackType | None = error.__traceback__
    assert trace is not None
    rich_traceback = Traceback.from_exception(type(error), error, trace, show_locals=True, locals_max_string=1000)
    Console(file=printed, width=400, force_terminal=False).print(rich_traceback)
    return standard + printed.getvalue()


def signature_of(request: Request) -> str:
    return str(dict(request.headers)["signature"])


@pytest.mark.parametrize("dialect", list(DIALECTS.values()), ids=list(DIALECTS))
def test_a_failure_after_signing_shows_no_signature(dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", {8: "nonce1", 16: "r1"}.get)
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000)
    failing: Dialect = FailingDialect(dialect)  # type: ignore[assignment]
    api = ServiceApi(failing, credentials())
    builds: list[Callable[[], Request]] = [lambda: api.batch_request(["g1"]), lambda: api.listing_request(None)]
    for build in builds:
        with pytest.raises(Failure) as caught:
            build()
        text = shown(caught.value)
        assert "request_id = 'r1'" in text  # the locals are there
        assert APP_SECRET not in text
        assert sign(Secret(APP_SECRET), "nonce1", 1)[:] not in text


def test_a_request_among_the_locals_shows_no_signature() -> None:
    request = ServiceApi(DIALECTS["rongcloud"], credentials()).batch_request(["g1"])
    signature = signature_of(request)[:]

    def fail(request: Request, headers: dict[str, str]) -> None:
        raise Failure(len(request.headers), len(headers))

    with pytest.raises(Failure) as caught:
        fail(request, dict(request.headers))
    stack = traceback.StackSummary.extract(traceback.walk_tb(caught.value.__traceback__), capture_locals=True)
    assert stack[-1].name == "fail"
    assert "'nonce'" in str(stack[-1].locals)
    assert signature not in str(stack[-1].locals)
    assert "Signature(…)" in repr(request)


def test_a_signature_is_sent_and_compares_as_the_text_that_it_is() -> None:
    signature = sign(Secret("secret1"), "nonce1", 1_700_000_000_000)

    assert signature == hashlib.sha1(b"secret1nonce11700000000000").hexdigest()
    assert signature.encode() == str(signature).encode() == f"{signature}".encode()
    assert repr(signature) == repr(pickle.loads(pickle.dumps(signature))) == "Signature(…)"  # noqa: S301  our own


def test_signing_with_what_cannot_be_encoded_shows_no_secret() -> None:
    class Surprise:
        def __str__(self) -> str:
            raise Failure

    with pytest.raises(Failure) as caught:
        sign(Secret(APP_SECRET), Surprise(), 1)  # type: ignore[arg-type]

    assert APP_SECRET not in shown(caught.value)


async def test_options_that_are_refused_show_no_secret() -> None:
    def secret() -> str:
        return APP_SECRET

    with pytest.raises(ConfigError) as of_client:
        GroupClient("key1", secret(), region="atlantis")  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as of_check:
        await check("key1", secret(), limiter="paper")
    for caught in (of_client, of_check):
        library = [
            frame for frame in traceback.walk_tb(caught.value.__traceback__) if "src" in frame[0].f_code.co_filename
        ]
        assert library
        assert not any(APP_SECRET in repr(frame.f_locals) for frame, _ in library)


@pytest.mark.parametrize("kind", [Secret, Signature])
def test_a_half_made_object_has_a_repr(kind: type[object]) -> None:
    assert repr(kind.__new__(kind))


def test_credentials_that_are_refused_can_be_shown_with_their_traceback() -> None:
    with pytest.raises(ConfigError) as caught:
        Credentials("", Secret(APP_SECRET))

    text = shown(caught.value)
    assert "Credentials(app_key='', app_secret=Secret(…))" in text
    assert "repr() failed" not in text
    assert APP_SECRET not in text


def test_a_request_has_a_nonce_and_an_id_of_its_own() -> None:
    api = ServiceApi(DIALECTS["rongcloud"], credentials())
    requests = [dict(api.batch_request(["g1"]).headers) for _ in range(100)]

    for name, longest in (("nonce", 18), ("x-request-id", 36)):
        values = {request[name] for request in requests}
        assert len(values) == 100
        assert max(map(len, values)) <= longest

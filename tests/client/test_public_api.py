import ast
import copy
import inspect
import pickle
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.emulators import emulator_process

import rongcloud_groups
from rongcloud_groups import GroupClient, RongCloudError, errors

NO_DEFAULT = inspect.Parameter.empty
DEADLINE = "deadline: float | None = None"

ERRORS: list[tuple[RongCloudError, dict[str, object]]] = [
    (rongcloud_groups.RongCloudError("text"), {}),
    (rongcloud_groups.ConfigError("text"), {}),
    (rongcloud_groups.InvalidGroupId(("a", 1), "it is a tuple"), {"group_id": ("a", 1), "reason": "it is a tuple"}),
    *(
        (
            kind(1001, 401, "refused", "request-1", "look here"),
            {"code": 1001, "status": 401, "message": "refused", "request_id": "request-1", "hint": "look here"},
        )
        for kind in (
            rongcloud_groups.ServiceError,
            rongcloud_groups.AuthenticationError,
            rongcloud_groups.ServiceNotEnabled,
            rongcloud_groups.ParameterError,
            rongcloud_groups.ServerError,
        )
    ),
    (
        rongcloud_groups.RateLimited(1008, 429, "slow down", retry_after=2.5),
        {"code": 1008, "status": 429, "message": "slow down", "request_id": None, "hint": "", "retry_after": 2.5},
    ),
    (rongcloud_groups.TransportError("torn", never_processed=True), {"never_processed": True}),
    (rongcloud_groups.TransportError("torn"), {"never_processed": False}),
    (rongcloud_groups.DecodeError("text"), {}),
    (rongcloud_groups.DeadlineExceeded("connecting", 1.5), {"phase": "connecting", "deadline": 1.5}),
    (rongcloud_groups.ClientClosed("text"), {}),
]


def test_all_names_what_is_public_and_is_sorted() -> None:
    public = {
        name
        for name, value in vars(rongcloud_groups).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(rongcloud_groups.__all__) == public
    assert rongcloud_groups.__all__ == sorted(rongcloud_groups.__all__, key=lambda name: (not name.isupper(), name))


@pytest.mark.parametrize("name", rongcloud_groups.__all__)
def test_a_public_name_is_documented(name: str) -> None:
    value = getattr(rongcloud_groups, name)
    if inspect.isclass(value):
        assert value.__doc__
        methods = inspect.getmembers(value, inspect.isfunction)
        assert [method for method, code in methods if not method.startswith("_") and not code.__doc__] == []


def test_the_program_for_type_checkers_uses_every_public_name() -> None:
    program = Path(__file__).with_name("typing_checks.py").read_text(encoding="utf-8")
    used = {node.id for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Name)}
    assert set(rongcloud_groups.__all__) - used == set()


def test_the_package_says_that_it_is_typed() -> None:
    assert (files("rongcloud_groups") / "py.typed").is_file()


def test_the_client_takes_what_is_documented() -> None:
    documented: dict[str, Any] = {
        "app_key": NO_DEFAULT,
        "app_secret": NO_DEFAULT,
        "region": "beijing",
        "base_urls": None,
        "dialect": "rongcloud",
        "rate": 100.0,
        "limiter": None,
        "guard": False,
        "max_in_flight": 64,
        "attempt_timeout": 5.0,
        "deadline": None,
        "max_attempts": 5,
        "outage_timeout": 30.0,
        "requests_per_connection": 80,
        "http2": True,
        "verify": None,
        "proxy": None,
        "allow_insecure": False,
        "transport": None,
        "cache": None,
        "hooks": (),
    }
    parameters = inspect.signature(GroupClient).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == documented
    positional = [name for name, parameter in parameters.items() if parameter.kind is not parameter.KEYWORD_ONLY]
    assert positional == ["app_key", "app_secret"]
    argument_docs = (GroupClient.__doc__ or "").partition("Args:")[2]
    assert [name for name in parameters if f"    {name}: " not in argument_docs] == []


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (GroupClient.get, f"(self, group_id: str, *, {DEADLINE}, fresh: bool = False)"),
        (
            GroupClient.get_many,
            f"(self, group_ids: Iterable[str], *, {DEADLINE}, bulk: bool = False, fresh: bool = False)",
        ),
        (GroupClient.stream, "(self, group_ids: Iterable[str] | AsyncIterable[str | list[str]], *, bulk: bool = True)"),
        (GroupClient.list_profiles, "(self, *, after: str | None = None, since: datetime.datetime | None = None)"),
        (GroupClient.stats, "(self)"),
        (GroupClient.aclose, "(self)"),
    ],
)
def test_its_methods_take_what_is_documented(method: Any, parameters: str) -> None:
    signature = inspect.signature(method).replace(return_annotation=inspect.Signature.empty)
    assert str(signature).replace("collections.abc.", "") == parameters


def tree_below(error: type[Exception], depth: int = 0) -> list[str]:
    return ["  " * depth + error.__name__] + [
        line
        for child in error.__subclasses__()
        if child.__module__ == errors.__name__  # the bulk job has some of its own
        for line in tree_below(child, depth + 1)
    ]


def test_the_errors_are_the_tree_that_is_drawn() -> None:
    drawing = [line for line in (errors.__doc__ or "").splitlines() if "Error" in line or "──" in line]
    drawn = []
    for line in drawing:
        before, _, name = line.rpartition("── ")
        depth = 0 if not before else (len(before) - len("    ├")) // 4 + 1
        drawn.append("  " * depth + name.split()[0])
    assert drawn == tree_below(RongCloudError)


def test_every_error_is_public() -> None:
    assert {line.strip() for line in tree_below(RongCloudError)} <= set(rongcloud_groups.__all__)
    assert {line.strip() for line in tree_below(RongCloudError)} == {type(error).__name__ for error, _ in ERRORS}


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (rongcloud_groups.ConfigError, ValueError),
        (rongcloud_groups.InvalidGroupId, ValueError),
        (rongcloud_groups.DeadlineExceeded, TimeoutError),
    ],
)
def test_some_errors_are_caught_as_the_builtin_that_they_are(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)


@pytest.mark.parametrize(("error", "attributes"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_error_survives_pickle_and_copy_with_all_it_says(
    error: RongCloudError, attributes: dict[str, object]
) -> None:
    for twin in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301  our own
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.args == error.args
        assert {name: getattr(twin, name) for name in attributes} == attributes


def test_a_copied_error_has_notes_of_its_own() -> None:
    error = rongcloud_groups.TransportError("torn", never_processed=True)
    twin = copy.copy(error)
    twin.add_note("group ID 'g1'")
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            rongcloud_groups.InvalidGroupId("a b", "it has whitespace in it"),
            "'a b' is not a group ID: it has whitespace",
        ),
        (rongcloud_groups.InvalidGroupId("x" * 500, "it is too long"), "… (502 characters) is not a group ID"),
        (rongcloud_groups.ServiceError(1000, 500, "oops"), "oops (code 1000, HTTP 500)"),
        (rongcloud_groups.ServiceError(1, 400, "oops", "r1", "try"), "oops (code 1, HTTP 400, request r1): try"),
        (rongcloud_groups.DeadlineExceeded("connecting", 1.5), "no outcome within 1.5 s: connecting"),
    ],
)
def test_an_error_says_what_went_wrong(error: RongCloudError, text: str) -> None:
    assert text in str(error)


LOADED_BY_THE_IMPORT = {
    "_http", "_protocol", "_protocol.secret", "_validation", "cache", "client",
    "config", "errors", "events", "limiters", "limiters.interface", "limiters.local", "limiters.schedule",
    "lookup", "models",
}  # fmt: skip


def loaded_by(program: str, *arguments: str) -> list[set[str]]:
    """The modules that a program prints as a line, without those of the standard library."""
    finished = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=100
    )
    lines = map(str.split, finished.stdout.splitlines())
    return [{name for name in line if name.partition(".")[0] not in sys.stdlib_module_names} for line in lines]


def test_the_import_loads_msgspec_and_what_a_client_is_made_with_and_no_more() -> None:
    program = """
import asyncio, sys
before = set(sys.modules)
import rongcloud_groups
print(*set(sys.modules) - before)
"""
    (loaded,) = loaded_by(program)
    packages = {name.partition(".")[0] for name in loaded} - {"org"}
    assert {"rongcloud_groups", "msgspec"} <= packages <= {"rongcloud_groups", "msgspec", "typing_extensions"}
    ours = {name.removeprefix("rongcloud_groups.") for name in loaded if name.startswith("rongcloud_groups.")}
    assert ours == LOADED_BY_THE_IMPORT


def test_lookups_in_an_open_client_import_nothing() -> None:
    program = """
import asyncio, ssl, sys
from rongcloud_groups import GroupClient

async def main():
    app_key, secret, url, ca_file = sys.argv[1:]
    verify = ssl.create_default_context(cafile=ca_file)
    async with GroupClient(app_key, secret, base_urls=url, verify=verify) as client:
        before = set(sys.modules)
        await client.get("g1")
        await client.get_many(["g2"])
        async with client.stream(["g3"]) as parts:
            assert [part async for part in parts]
        async with client.list_profiles() as pages:
            assert [page async for page in pages]
        print(*set(sys.modules) - before)

asyncio.run(main())
"""
    with emulator_process("--listed", "2") as address:
        (loaded,) = loaded_by(program, address.app_key, address.app_secret, address.url, str(address.ca_file))
    assert loaded == set()


DOCUMENTED_PATHS = {
    "rongcloud_groups": rongcloud_groups.__all__,
    "rongcloud_groups.blocking": ["BlockingGroupClient", "shared"],
    "rongcloud_groups.bulk": ["Job", "Report", "ResumeError", "SourceError", "file_source", "open_sink"],
    "rongcloud_groups.emulator": ["Emulator", "Faults", "Service", "Universe", "serve"],
    "rongcloud_groups.errors": [type(error).__name__ for error, _ in ERRORS],
    "rongcloud_groups.events": ["BatchSent", "CallEnded", "Event", "Hook", "Stats", "Throttled", "TokenWaited"],
    "rongcloud_groups.limiters": ["HostLimiter", "Limiter", "LocalLimiter", "RedisLimiter"],
    "rongcloud_groups.models": ["GroupProfile", "ListedGroup", "Permissions", "Problem"],
    "rongcloud_groups.otel": ["OpenTelemetry"],
    "rongcloud_groups.pytest_plugin": ["InProcessEmulator"],
}


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in DOCUMENTED_PATHS.items() for name in names])
def test_a_documented_import_path_leads_to_its_name(path: str, name: str) -> None:
    assert hasattr(import_module(path), name)


def test_a_limiter_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'NoLimiter'"):
        import_module("rongcloud_groups.limiters").NoLimiter  # noqa: B018  the access is the test


EXTRAS = [
    ("import rongcloud_groups.otel", "opentelemetry", "rongcloud_groups.otel", "otel"),
    ("import rongcloud_groups.dlt", "dlt", "rongcloud_groups.dlt", "dlt"),
    ("import rongcloud_groups.dlt", "pyarrow", "rongcloud_groups.dlt", "dlt"),
    ("from rongcloud_groups.limiters import RedisLimiter", "redis", "RedisLimiter", "redis"),
    ("from rongcloud_groups import GroupClient; GroupClient('key', 'secret', limiter='redis://localhost')", "redis",
     "a limiter in Redis", "redis"),
    ("from rongcloud_groups.emulator import Emulator", "trustme", "the emulator", "emulator"),
    ("from rongcloud_groups import Cache; Cache()", "cachetools", "a cache", "cache"),
    ("from rongcloud_groups.bulk import open_sink; open_sink('groups.parquet')", "pyarrow", "Parquet", "parquet"),
    ("import runpy; runpy.run_module('rongcloud_groups.mcp', run_name='__main__')", "mcp", "rongcloud_groups.mcp",
     "mcp"),
    ("import runpy; runpy.run_module('rongcloud_groups.emulator', run_name='__main__')", "trustme", "the emulator",
     "emulator"),
    ("import runpy; runpy.run_module('rongcloud_groups', run_name='__main__')", "cyclopts", "the command", "cli"),
    ("import runpy; runpy.run_module('rongcloud_groups', run_name='__main__')", "rich", "the command", "cli"),
]  # fmt: skip


@pytest.mark.parametrize(("program", "missing", "feature", "extra"), EXTRAS)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    program: str, missing: str, feature: str, extra: str, tmp_path: Path
) -> None:
    blocked = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['program']\n{program}"
    ended = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", blocked], capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path
    )
    assert ended.returncode != 0
    sentence = f"{feature} needs the extra {extra}: pip install 'rongcloud-groups[{extra}]'"
    assert sentence in ended.stderr.splitlines()[-1]


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    path = Path(__file__).parents[2] / project["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{rongcloud_groups.__version__}"' in path.read_text(encoding="utf-8")

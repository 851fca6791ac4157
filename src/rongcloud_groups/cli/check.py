"""``rongcloud-groups check``: whether the service answers with the credentials at hand, and what to change."""

import asyncio
import sys
from collections.abc import Iterator

import msgspec

from rongcloud_groups.cli.console import one_line
from rongcloud_groups.cli.exit import ExitCode, Flag, run
from rongcloud_groups.config import options_from_environment
from rongcloud_groups.diagnostics import Diagnosis
from rongcloud_groups.diagnostics import check as check_service


def check(*, json: Flag = False, debug: Flag = False) -> int:
    """Ask the service one thing, with the credentials of the environment, and say what to change if it is refused.

    The exit code is 0 if lookups can succeed, and 4 if not. It costs one request, or two where the first one speaks
    against the dialect or the host.

    Args:
        json: One JSON object; times are in seconds.
        debug: Log what happens, and show the traceback of an error.
    """
    return run(lambda: _check(json=json), debug=debug)


def _check(*, json: bool) -> int:
    checkup = asyncio.run(check_service(**options_from_environment()))
    if json:
        sys.stdout.buffer.write(msgspec.json.encode(checkup) + b"\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in _lines(checkup))
    return ExitCode.DONE if checkup.ok else ExitCode.NOT_ACCEPTED


def _lines(checkup: Diagnosis) -> Iterator[str]:
    if checkup.host is not None:
        region = f", region {checkup.region}" if checkup.region else ""
        yield f"host:       {one_line(checkup.host)}{region}"
        yield f"HTTP:       {checkup.http_version}"
        yield f"dialect:    {_dialect(checkup)}"
    if checkup.round_trip is not None:
        yield f"round trip: {1000 * checkup.round_trip:.0f} ms"
    if checkup.clock_offset is not None:
        yield f"clock:      {checkup.clock_offset:+.0f} s against the server's"
    for problem in checkup.problems:
        yield f"problem:    {one_line(problem.problem)}"
        yield f"            {one_line(problem.advice)}"
    yield "The service answers: lookups can succeed." if checkup.ok else "Lookups cannot succeed like this."


def _dialect(checkup: Diagnosis) -> str:
    if checkup.answering_dialect is None:
        return f"{checkup.dialect} is set"
    if checkup.answering_dialect == checkup.dialect:
        return checkup.dialect
    return f"{checkup.answering_dialect} answers, {checkup.dialect} is set"

"""``rongcloud-groups check``: whether lookups can succeed with the credentials at hand, and what to change."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from rongcloud_groups._tables.output import write_rows
from rongcloud_groups.cli.console import fitted, one_line
from rongcloud_groups.cli.exit import Context, ExitCode, error_message, exit_code_for, run_command
from rongcloud_groups.cli.options import ConnectionOptions, Flag

if TYPE_CHECKING:  # help needs none of it
    from rongcloud_groups.diagnostics import Diagnosis

_LABEL_WIDTH: Final = 12
_LIMITER: Final = "lookups can succeed, but slower: check RONGCLOUD_LIMITER"


def check(
    *,
    json: Flag = False,
    connection: ConnectionOptions = ConnectionOptions(),  # noqa: B008  frozen
    debug: Flag = False,
) -> int:
    """Ask the service one thing, with the credentials of the environment, and say what to change if it is refused.

    The exit code is 0 if lookups can succeed, and 4 if not. It costs one request, or two where the first one speaks
    against the dialect or the host.

    Args:
        json: One JSON object; times are in seconds.
        connection: see `ConnectionOptions`.
        debug: Log what happens, and show the traceback of an error.
    """
    return run_command(lambda context: _check(connection, context, json=json), debug=debug)


def _check(connection: ConnectionOptions, context: Context, *, json: bool) -> int:
    from rongcloud_groups.diagnostics import Diagnosis, Finding, check

    context.warnings.say = None  # they become problems
    try:
        diagnosis = context.run(check(**connection.for_client()))
        code = ExitCode.DONE if diagnosis.ok else ExitCode.NOT_ACCEPTED
    except Exception as error:
        if not json:
            raise
        code = exit_code_for(error)
        dialect = os.environ.get("RONGCLOUD_DIALECT") or "rongcloud"
        diagnosis = Diagnosis(ok=False, dialect=dialect, problems=[Finding(error_message(error), "")])
    context.warnings.show_held_back()
    diagnosis.problems.extend(Finding(warning, _LIMITER) for warning in context.warnings.kept)
    if json:
        write_rows(msgspec.json.encode(diagnosis) + b"\n")
    else:
        _print(diagnosis)
    return code


def _print(diagnosis: "Diagnosis") -> None:
    for label, text in _lines(diagnosis):
        line = f"{label:<{_LABEL_WIDTH}}{one_line(text)}"
        sys.stdout.write(f"{fitted(line, sys.stdout, indent=_LABEL_WIDTH)}\n")
    verdict = "The service answers: lookups can succeed." if diagnosis.ok else "Lookups cannot succeed like this."
    sys.stdout.write(f"{fitted(verdict, sys.stdout)}\n")


def _lines(diagnosis: "Diagnosis") -> Iterator[tuple[str, str]]:
    dialect, answering, offset = diagnosis.dialect, diagnosis.answering_dialect, diagnosis.clock_offset
    if diagnosis.host is not None:
        region = f", region {diagnosis.region}" if diagnosis.region else ""
        yield "host:", f"{diagnosis.host}{region}"
        yield "HTTP:", str(diagnosis.http_version)
        answers = f"{answering} answers, " if answering else ""
        yield "dialect:", dialect if answering == dialect else f"{answers}{dialect} is set"
    if diagnosis.round_trip is not None:
        yield "round trip:", f"{1000 * diagnosis.round_trip:.0f} ms"
    if offset is not None and abs(offset) < 1:
        yield "clock:", "within a second of the server's"
    elif offset is not None:
        yield "clock:", f"{abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the server's"
    for problem in diagnosis.problems:
        yield "problem:", problem.problem
        if problem.advice:
            yield "", problem.advice

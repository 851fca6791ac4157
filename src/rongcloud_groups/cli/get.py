"""``rongcloud-groups get``: the profiles of some groups, as a table or as JSON lines."""

import sys
from collections.abc import Iterable
from typing import Annotated, Any, Final

from cyclopts import Parameter

from rongcloud_groups._tables.output import printable, write_rows
from rongcloud_groups._tables.rows import json_row
from rongcloud_groups.cli.console import one_line, prompt_for_ids, tell
from rongcloud_groups.cli.exit import Context, ExitCode, ShowHelp, print_error, run_command
from rongcloud_groups.cli.options import ConnectionOptions, Flag
from rongcloud_groups.client import GroupClient
from rongcloud_groups.errors import ConfigError, InvalidGroupId, RongCloudError, TransportError
from rongcloud_groups.lookup import Lookup
from rongcloud_groups.models import GroupProfile

_COLUMNS: Final[dict[str, dict[str, Any]]] = {
    "group_id": {"min_width": 8},
    "name": {"min_width": 10, "max_width": 24},
    "members": {"min_width": 7, "no_wrap": True, "justify": "right"},
    "owner": {"min_width": 8, "max_width": 24},
    "created": {"min_width": 10, "no_wrap": True},
    "introduction": {"min_width": 12},
}
"""In a narrow terminal, rich takes from the widest column that may wrap; of the cells, only IDs do."""
_MIN_TABLE: Final = 65
"""Columns of a terminal below which a table would leave out some of its own."""


def get(
    *group_ids: str,
    stdin: Annotated[bool, Parameter(name="-", negative=(), show_default=False)] = False,
    json: Flag = False,
    connection: ConnectionOptions = ConnectionOptions(),  # noqa: B008  frozen
    debug: Flag = False,
) -> int:
    """Look up groups: a table on a terminal, JSON lines elsewhere.

    The credentials come from the environment: RONGCLOUD_APP_KEY, and RONGCLOUD_APP_SECRET or
    RONGCLOUD_APP_SECRET_FILE; RONGCLOUD_REGION if it is not beijing. IDs without a group and IDs that failed are
    listed on stderr, one a line.

    Args:
        group_ids: Group IDs; write -- before one that begins with a dash.
        stdin: Read IDs from stdin as well, one a line.
        json: JSON lines, on a terminal too.
        connection: see `ConnectionOptions`.
        debug: Log what happens, and show the traceback of an error.
    """
    if not group_ids and not stdin:
        raise ShowHelp("get")

    def work(context: Context) -> int:
        # An error in the environment comes before anything is read.
        client = GroupClient(**connection.for_client(), outage_timeout=5.0)  # seconds: a person waits
        asked = list(group_ids)
        if stdin:
            prompt_for_ids()
            lines = (line.decode("utf-8", "surrogateescape").removeprefix("\ufeff") for line in sys.stdin.buffer)
            asked += filter(None, map(str.strip, lines))
        if not asked:
            raise ConfigError("stdin has no IDs")
        lookup = context.run(_look_up(client, asked))
        if json or not sys.stdout.isatty():
            write_rows(b"".join(map(json_row, lookup.found.values())))
        elif lookup.found:
            _print_profiles(lookup.found.values())
        _print_rest(lookup)
        return ExitCode.SOME_FAILED if lookup.failed else ExitCode.DONE

    return run_command(work, debug=debug)


async def _look_up(client: GroupClient, group_ids: list[str]) -> Lookup:
    async with client:
        return await client.get_many(group_ids)


def _print_profiles(profiles: Iterable[GroupProfile]) -> None:
    """Print a table, or a line a field where the terminal is too narrow for one."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if console.width < _MIN_TABLE:
        for number, profile in enumerate(profiles):
            record = Table.grid(padding=(0, 2))
            record.add_column(style="bold", no_wrap=True)
            record.add_column(overflow="fold")
            for name, cell in zip(_COLUMNS, _cells(profile), strict=True):
                if cell:
                    record.add_row(name, Text(cell, overflow="fold"))
            console.print(*([""] if number else []), record, sep="\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, options in _COLUMNS.items():
        table.add_column(name, **options)
    for profile in profiles:
        group_id, *others = _cells(profile)
        table.add_row(
            Text(group_id, no_wrap=False, overflow="fold"),  # it is copied from here
            *(Text(cell, no_wrap=True, overflow="ellipsis") for cell in others),
        )
    console.print(table)


def _cells(profile: GroupProfile) -> list[str]:
    created = None if profile.create_time is None else f"{profile.create_time:%Y-%m-%d}"
    cells = (profile.group_id, profile.group_name, profile.member_count, profile.owner, created, profile.introduction)
    return ["" if cell is None else one_line(str(cell)) for cell in cells]


def _print_rest(lookup: Lookup) -> None:
    sys.stdout.flush()
    for group_id in lookup.missing:
        tell(f"no such group: {printable(group_id)}")
    for group_id, error in lookup.failed.items():
        words = str(error) if isinstance(error, InvalidGroupId) else f"{group_id}: {error}"
        tell(f"failed: {one_line(words)}")
    if lookup.failed:
        print_error(f"{len(lookup.failed)} of {len(lookup)} IDs failed{_advice(lookup.failed.values())}")


def _advice(errors: Iterable[RongCloudError]) -> str:
    if any(isinstance(error, TransportError) for error in errors):
        return "; check the network, RONGCLOUD_REGION and RONGCLOUD_BASE_URL, and run it again for these"
    if all(isinstance(error, InvalidGroupId) for error in errors):
        return "; the service takes 1 to 64 characters, without commas and spaces"
    return "; run it again for these"

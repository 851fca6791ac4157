"""``sync`` in a process of its own, with frequent checkpoints. It imports only what the command needs."""

import os
import sys
from pathlib import Path

from rongcloud_groups.bulk.sinks.parquet import ParquetSink
from rongcloud_groups.bulk.sinks.sqlite import SqliteSink
from rongcloud_groups.bulk.sinks.text import TextSink
from rongcloud_groups.cli import sync_job  # noqa: F401  the command would import it
from rongcloud_groups.cli.app import exit_code


def run_command(arguments: list[str], variables: dict[str, str], log: str) -> None:
    os.environ.update(variables)
    sys.stderr = Path(log).open("a", encoding="utf-8")  # noqa: SIM115  open as long as the process
    for sink in (TextSink, SqliteSink, ParquetSink):
        sink.seconds_between_commits = 0.01
    sys.exit(exit_code(["sync", *arguments]))

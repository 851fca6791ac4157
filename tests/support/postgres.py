"""A PostgreSQL server of the system's package, on loopback, in a directory of its own."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PLACES = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
SERVER = shutil.which("postgres", path=os.pathsep.join([*_PLACES, os.environ.get("PATH", "")]))


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server; yield its database's URL. It refuses to run as root, so there it runs as the package's user."""
    assert SERVER is not None, "the test skips itself where there is no server"
    tools = Path(SERVER).parent
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="postgres-") as place:
        directory = Path(place)
        if as_user:
            shutil.chown(directory, "postgres")
        with _running(directory, tools, port, as_user):
            yield f"postgresql://postgres:unused@127.0.0.1:{port}/postgres"


@contextmanager
def _running(directory: Path, tools: Path, port: int, as_user: list[str]) -> Iterator[None]:
    data = directory / "data"

    def run(tool: str, *arguments: str) -> None:
        command = [*as_user, str(tools / tool), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory, timeout=100)  # noqa: S603  the package's

    run("initdb", "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {directory}"
    run("pg_ctl", "-D", str(data), "-o", options, "-l", str(directory / "log"), "-w", "start")
    try:
        yield
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")

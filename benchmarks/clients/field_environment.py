"""The environment of those that the client is measured beside: ``.venv-field`` in the project's directory.

It is made when it is first needed. To replace it, delete it or run
``python -m benchmarks.clients.field_environment``.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parents[1] / ".venv-field"
PYTHON = ENVIRONMENT / "bin" / "python"
WITHOUT_DEPENDENCIES = "rongcloud-server-mcp-python==0.1.0"
"""Its metadata asks for Python 3.12, but it runs on 3.11, and with the `mcp` of the requirements."""


def interpreter() -> str:
    """The environment's interpreter; the environment is made where it is not there yet."""
    if not PYTHON.exists():
        make()
    return str(PYTHON)


def make() -> None:
    print(f"making {ENVIRONMENT} …", file=sys.stderr, flush=True)
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    try:
        _install(
            "--no-binary",
            "urllib3-future",
            "-r",
            str(HERE / "field_requirements.txt"),
            "-e",
            f"{HERE.parents[1]}[emulator]",
        )
        _install("--no-deps", "--ignore-requires-python", WITHOUT_DEPENDENCIES)
    except BaseException:
        PYTHON.unlink()  # so that the next run does not take a half of it for the whole
        raise


def versions() -> dict[str, str]:
    """The packages of the environment and their versions."""
    program = (
        "from importlib.metadata import distributions as d; print(*{f'{i.name} {i.version}' for i in d()}, sep='\\n')"
    )
    done = subprocess.run([interpreter(), "-c", program], check=True, capture_output=True, text=True)  # noqa: S603  ours
    return dict(sorted(line.split() for line in done.stdout.splitlines()))


def _install(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    # A wheel of urllib3-future takes the place of urllib3, which other clients use. Built with this it does not.
    environment = {**os.environ, "URLLIB3_NO_OVERRIDE": "1"}
    subprocess.run(command, check=True, env=environment)  # noqa: S603  our own arguments


if __name__ == "__main__":
    make()

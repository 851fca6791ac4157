"""The service on loopback: for tests, benchmarks and a first look without an account.

It shares no code with the client, so that it can judge it. Needs the extra ``emulator``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rongcloud_groups.emulator.faults import Faults, GoAway, StreamsDrop
    from rongcloud_groups.emulator.groups import Universe
    from rongcloud_groups.emulator.program import serve
    from rongcloud_groups.emulator.rate_limit import OtherConsumer, RateCheck, worst_second
    from rongcloud_groups.emulator.server import Emulator, Report
    from rongcloud_groups.emulator.service import Service

__all__ = [
    "Emulator",
    "Faults",
    "GoAway",
    "OtherConsumer",
    "RateCheck",
    "Report",
    "Service",
    "StreamsDrop",
    "Universe",
    "serve",
    "worst_second",
]

_MODULES: Final = ("faults", "groups", "rate_limit", "service", "server", "program")


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use: the command shows the options of the emulator without its extra."""
    for module in _MODULES if name in __all__ else ():
        found = vars(import_module(f"{__name__}.{module}"))
        if name in found:
            return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

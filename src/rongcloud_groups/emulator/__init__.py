"""The service on loopback: for tests, benchmarks and a first look without an account.

It shares no code with the client, so that it can judge it. Needs the extra ``emulator``.
"""

from rongcloud_groups.emulator.app import asgi_app
from rongcloud_groups.emulator.faults import Faults, GoAway, StreamsDrop
from rongcloud_groups.emulator.groups import Universe
from rongcloud_groups.emulator.rate_limit import OtherConsumer, RateCheck, worst_second
from rongcloud_groups.emulator.recorder import Report
from rongcloud_groups.emulator.serve import serve
from rongcloud_groups.emulator.server import Emulator
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
    "asgi_app",
    "serve",
    "worst_second",
]

"""Clients of an emulator."""

from collections.abc import Callable
from typing import Any

from rongcloud_groups import GroupClient
from rongcloud_groups.emulator import Emulator

ClientFor = Callable[..., GroupClient]


def trusting(*emulators: Emulator) -> Any:
    context = emulators[0].ssl_context
    for emulator in emulators[1:]:
        if emulator.ca_pem:
            context.load_verify_locations(cadata=emulator.ca_pem.decode())
    return context

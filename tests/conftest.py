from collections.abc import Callable
from typing import Any

import pytest

from rongcloud_groups import GroupClient
from rongcloud_groups.emulator import Emulator

ClientFor = Callable[..., GroupClient]


@pytest.fixture
def client_for() -> ClientFor:
    """A client of an emulator, with any option of its own."""

    def make(*emulators: Emulator, **options: Any) -> GroupClient:
        first = emulators[0]
        defaults: dict[str, Any] = {
            "base_urls": [emulator.url for emulator in emulators],
            "verify": trusting(*emulators),
        }
        return GroupClient(first.app_key, first.app_secret, **(defaults | options))

    return make


def trusting(*emulators: Emulator) -> Any:
    context = emulators[0].ssl_context
    for emulator in emulators[1:]:
        if emulator.ca_pem:
            context.load_verify_locations(cadata=emulator.ca_pem.decode())
    return context

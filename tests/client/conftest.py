from collections.abc import Iterator

import pytest
from support.signals import Signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    signals = Signals()
    yield signals
    signals.tracing.shutdown()
    signals.metering.shutdown()

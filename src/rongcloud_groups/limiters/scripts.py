"""The scripts of `RedisLimiter`, one atomic step each on Redis's clock, with the constants of `schedule`."""

from importlib.resources import files

from rongcloud_groups.limiters import schedule

CLOCK_STEP = 0.5  # seconds; clocks that move apart by more at once were set
HORIZON = 1.0  # seconds ahead of now within which a process takes more than one slot
_VALUES = {**vars(schedule), "CLOCK_STEP": CLOCK_STEP, "HORIZON": HORIZON}
_CONSTANTS = "".join(f"local {name} = {value}\n" for name, value in _VALUES.items() if name.isupper())


def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


RESERVE = _CONSTANTS + _source("budget.lua") + _source("reserve.lua")
REFUSED = _CONSTANTS + _source("budget.lua") + _source("refused.lua")

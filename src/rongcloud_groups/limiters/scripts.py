"""The scripts of `RedisLimiter`, one atomic step each on Redis's clock, with the constants of `schedule`.

They run on Redis 6.2 or later and on Valkey. Times are seconds of Redis's clock.
"""

from importlib.resources import files

from rongcloud_groups.limiters import schedule

CLOCK_STEP = 0.5  # seconds; clocks that move apart by more at once were set
HORIZON = 1.0  # seconds ahead of now within which a process takes more than one slot
_VALUES = {**vars(schedule), "CLOCK_STEP": CLOCK_STEP, "HORIZON": HORIZON}
_CONSTANTS = "".join(f"local {name} = {value}\n" for name, value in _VALUES.items() if name.isupper())


def _script(name: str) -> str:
    directory = files(__package__)
    return _CONSTANTS + "".join((directory / part).read_text(encoding="utf-8") for part in ("budget.lua", name))


RESERVE = _script("reserve.lua")
REFUSED = _script("refused.lua")

"""The scripts of `RedisLimiter`, one atomic step each on Redis's clock, with constants of `schedule` and `throttle`.

They run on Redis 6.2 or later and on Valkey. Times are seconds of Redis's clock.
"""

from importlib.resources import files

from rongcloud_groups.limiters import schedule, throttle

CLOCK_STEP = 0.5
"""Seconds; clocks that move apart by more at once were set."""
HORIZON = 1.0
"""Seconds ahead of now within which a process takes more than one slot."""

_SCHEDULE = (
    "CATCH_UP",
    "LATENESS_DECAY",
    "MAX_BEHIND",
    "MAX_HISTORY",
    "MAX_LATE",
    "MICROSECOND",
    "QUIET_PERIOD",
    "WAKE_UP_SLACK",
)
_THROTTLE = ("DECREASE_FACTOR", "MAX_PAUSE", "MIN_SHARE", "PAUSE", "RECOVERY_TIME")
CONSTANTS = {
    "CLOCK_STEP": CLOCK_STEP,
    "HORIZON": HORIZON,
    "JITTER": schedule.SHARED_JITTER,
    **{name: getattr(schedule, name) for name in _SCHEDULE},
    **{name: getattr(throttle, name) for name in _THROTTLE},
}


def _script(name: str) -> str:
    constants = "".join(f"local {constant} = {value}\n" for constant, value in CONSTANTS.items())
    return constants + "".join(
        files(__package__).joinpath(part).read_text(encoding="utf-8") for part in ("budget.lua", name)
    )


RESERVE = _script("reserve.lua")
REFUSED = _script("refused.lua")

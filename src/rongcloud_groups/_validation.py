"""Checks of constructor arguments."""

from math import inf

from rongcloud_groups.errors import ConfigError


def positive(name: str, value: float) -> float:
    """The value, if it is a positive, finite number.

    Raises:
        ConfigError: it is not; the message names the option.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ConfigError(f"{name} is {value!r}; give a positive number")
    return float(value)


def at_least(least: int, name: str, value: int) -> int:
    """The value, if it is a whole number and not below ``least``.

    Raises:
        ConfigError: it is not; the message names the option.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; give a whole number, {least} or more")
    return value

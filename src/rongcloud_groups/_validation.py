"""Checks of arguments, each of which returns the value or raises a `ConfigError` that names the option.

Also the message for a missing extra.
"""

from math import inf, isnan
from typing import TypeVar

from rongcloud_groups.errors import ConfigError

T = TypeVar("T")


def positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ConfigError(f"{name} is {value!r}; give a positive number")
    return float(value)


def number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value):
        raise ConfigError(f"{name} is {value!r}; give a number")
    return float(value)


def at_least(least: int, name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; give a whole number, {least} or more")
    return value


def boolean(name: str, value: object) -> bool:
    return instance_of(bool, name, value, "True or False")


def instance_of(kind: type[T] | tuple[type[T], ...], name: str, value: object, wanted: str) -> T:
    """The value, if it is of that type; ``wanted`` names the type in the message."""
    if not isinstance(value, kind):
        raise ConfigError(f"{name} is {value!r}; give {wanted}")
    return value


def extra_needed(feature: str, extra: str) -> str:
    return f"{feature} needs the extra {extra}: pip install 'rongcloud-groups[{extra}]'"

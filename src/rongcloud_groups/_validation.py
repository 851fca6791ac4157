"""Checks of constructor arguments, and the message for a missing extra."""

from math import inf, isnan
from typing import TypeVar

from rongcloud_groups.errors import ConfigError

T = TypeVar("T")


def positive(name: str, value: float) -> float:
    """The value, if it is a positive, finite number.

    Raises:
        ConfigError: it is not; the message names the option.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ConfigError(f"{name} is {value!r}; give a positive number")
    return float(value)


def number(name: str, value: float) -> float:
    """The value, if it is a number of any sign.

    Raises:
        ConfigError: it is not; the message names the option.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value):
        raise ConfigError(f"{name} is {value!r}; give a number")
    return float(value)


def at_least(least: int, name: str, value: int) -> int:
    """The value, if it is a whole number and not below ``least``.

    Raises:
        ConfigError: it is not; the message names the option.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; give a whole number, {least} or more")
    return value


def boolean(name: str, value: object) -> bool:
    """The value, if it is True or False.

    Raises:
        ConfigError: it is not; the message names the option.
    """
    return instance_of(bool, name, value, "True or False")


def instance_of(kind: type[T] | tuple[type[T], ...], name: str, value: object, wanted: str) -> T:
    """The value, if it is of that type.

    Args:
        kind: the type, or several.
        name: of the option.
        value: the value given.
        wanted: the values that it may have, for the message.

    Raises:
        ConfigError: it is of another type; the message names the option.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name} is {value!r}; give {wanted}")
    return value


def extra_needed(feature: str, extra: str) -> str:
    """The message where an optional dependency is missing."""
    return f"{feature} needs the extra {extra}: pip install 'rongcloud-groups[{extra}]'"

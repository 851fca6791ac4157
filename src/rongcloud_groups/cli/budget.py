"""The budget of a command: one that all commands of this user and App Key share, where the environment names none."""

from typing import Any

from rongcloud_groups.config import options_from_environment, with_machine_budget


def command_options() -> dict[str, Any]:
    """The options of the environment; ``RONGCLOUD_LIMITER=local`` leaves each command alone with the whole budget.

    Raises:
        ConfigError: a variable is missing or cannot be read; the message names it.
    """
    return with_machine_budget(options_from_environment())

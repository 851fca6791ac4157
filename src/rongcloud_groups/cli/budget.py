"""The budget of a command: one that all commands of this user and App Key share, where the environment names none."""

from contextlib import suppress
from typing import Any

from rongcloud_groups.config import options_from_environment, resolved_base_urls
from rongcloud_groups.errors import ConfigError
from rongcloud_groups.limiters.budget_file import default_budget_file
from rongcloud_groups.limiters.host import HostLimiter


def command_options() -> dict[str, Any]:
    """The options of the environment, with a file in the user's runtime directory as the limiter by default.

    ``RONGCLOUD_LIMITER=local`` leaves each command alone with the whole budget, as does a system without such a
    directory.

    Raises:
        ConfigError: a variable is missing or cannot be read; the message names it.
    """
    options = options_from_environment()
    if "limiter" not in options:
        with suppress(OSError, ConfigError):
            primary = resolved_base_urls(options.get("region", "beijing"), options.get("base_urls"))[0]
            path = default_budget_file(f"{options['app_key']} {primary}")
            HostLimiter(path, options.get("rate", 100.0))
            options["limiter"] = f"file:{path}"
    return options

"""The options of all commands that connect to the service."""

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from rongcloud_groups._http import Proxy
from rongcloud_groups.config import options_from_environment, with_machine_budget
from rongcloud_groups.errors import ConfigError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """How to connect; the docstring of a field is its help text."""

    proxy: str | None = None
    """Connect through an HTTP proxy, http://[user:password@]host[:port]; env takes it from HTTPS_PROXY, but
    for the hosts in NO_PROXY. Without it, RONGCLOUD_PROXY, which shows no password in the list of processes."""

    http2: Annotated[bool, Parameter(show_default=False)] = True
    """Offer HTTP/2, or HTTP/1.1 alone."""

    def for_client(self) -> dict[str, Any]:
        """The client's options: the environment's, and these; all commands of this user and App Key share a budget."""
        options = with_machine_budget(options_from_environment())
        if not self.http2:
            options["http2"] = False
        if self.proxy == "env":
            options["proxy"] = Proxy.from_environment()
            if not options["proxy"]:
                raise ConfigError("--proxy env: HTTPS_PROXY is not set")
        elif self.proxy is not None:
            options["proxy"] = self.proxy
        return options

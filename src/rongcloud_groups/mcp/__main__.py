"""An MCP server with one tool; credentials and budget come from the environment, as for `GroupClient.from_env`."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from rongcloud_groups import ConfigError, GroupClient
from rongcloud_groups._validation import extra_needed

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver import Context
except ImportError:
    sys.exit(extra_needed("rongcloud_groups.mcp", "mcp"))

MAX_IDS: Final = 1000
"""IDs of one call: more would not fit into the context of an agent."""
DEADLINE: Final = 30.0  # seconds


@asynccontextmanager
async def open_client(_: Any) -> AsyncIterator[GroupClient]:
    """One client, and so one budget, as long as the server runs."""
    async with GroupClient.from_env(deadline=DEADLINE) as client:
        yield client


server = MCPServer("rongcloud-groups", lifespan=open_client)


@server.tool()
async def get_groups(group_ids: list[str], context: Context[GroupClient]) -> dict[str, Any]:
    """Look up RongCloud group profiles by group ID, at most 1,000 at a time: found, missing, and why others failed."""
    if len(group_ids) > MAX_IDS:
        raise ValueError(f"{len(group_ids)} IDs; give at most {MAX_IDS}")
    lookup = await context.request_context.lifespan_context.get_many(group_ids)
    failed = {group_id: str(error) for group_id, error in lookup.failed.items()}
    return {"found": msgspec.to_builtins(list(lookup.found.values())), "missing": lookup.missing, "failed": failed}


if __name__ == "__main__":
    try:
        GroupClient.from_env()  # a missing credential is said before an agent waits for it
    except ConfigError as error:
        sys.exit(f"rongcloud_groups.mcp: {error}")
    server.run()

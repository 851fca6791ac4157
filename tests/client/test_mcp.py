"""The MCP server as an agent starts it: a process on stdio."""

import os
import subprocess
import sys
from typing import Any

from support.emulators import emulator_process

COMMAND = [sys.executable, "-m", "rongcloud_groups.mcp"]


async def test_an_agent_looks_up_groups_by_id() -> None:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    with emulator_process("--no-tls", "--unknown", "0.5", "--seed", "1") as address:
        environment = os.environ | {
            "RONGCLOUD_BASE_URL": address.url,
            "RONGCLOUD_APP_KEY": address.app_key,
            "RONGCLOUD_APP_SECRET": address.app_secret,
        }
        server = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=environment)
        group_ids = [f"g{number}" for number in range(60)]
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            (tool,) = (await session.list_tools()).tools
            answered = await session.call_tool("get_groups", {"group_ids": [*group_ids, "a,b"]})
            refused = await session.call_tool("get_groups", {"group_ids": ["g"] * 1001})
    result: Any = answered.structured_content
    assert tool.name == "get_groups"
    assert {profile["group_id"] for profile in result["found"]} | set(result["missing"]) == set(group_ids)
    assert "comma" in result["failed"]["a,b"]
    assert refused.is_error


def test_missing_credentials_are_one_sentence() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RONGCLOUD_")}
    ended = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False, timeout=100)  # noqa: S603  our own
    assert ended.returncode == 1
    assert ended.stderr == "rongcloud_groups.mcp: the environment variable RONGCLOUD_APP_KEY is not set\n"

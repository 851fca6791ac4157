"""Group lookups for agents: ``python -m rongcloud_groups.mcp`` speaks the Model Context Protocol on stdio."""

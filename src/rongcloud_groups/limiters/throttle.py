"""Constants of a refusal."""

from rongcloud_groups.limiters.schedule import MAX_PAUSE, PAUSE_JITTER

__all__ = ["MAX_PAUSE", "PAUSE_JITTER"]

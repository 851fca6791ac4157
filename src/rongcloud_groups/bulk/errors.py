"""The errors of a bulk job."""

from rongcloud_groups.errors import ConfigError, RongCloudError


class ResumeError(ConfigError):
    """There is an unfinished run for this output, and it cannot be resumed; the message says why."""


class SourceError(ConfigError):
    """The input cannot be read; the message names it, and the line where there is one."""


class OutputError(RongCloudError):
    """The output cannot take more rows; committed rows are safe."""


class OutputLost(OutputError):  # noqa: N818  an error by its base
    """The output was removed or replaced while it was written; its rows are lost."""


class ServiceUnavailable(RongCloudError):  # noqa: N818  an error by its base; the name says what happened
    """Many IDs in a row got no response. They do not count as failed: a later run asks for them again."""

"""The line between an error of one request and one that ends the client."""

from asyncio import CancelledError, current_task
from collections.abc import Callable

from rongcloud_groups.errors import RongCloudError


class contained:  # noqa: N801  used as a statement, like the context managers of contextlib
    """Turn any exception of a limiter, transport, dialect or decoder into an error of the request at hand.

    The cancellation of the running task passes, and so does an exception that ends the process.

    Args:
        kind: makes the error that is raised instead; errors of this library pass as they are.
        failed: the part that failed, for the message.
    """

    __slots__ = ("_failed", "_kind")

    def __init__(self, kind: Callable[[str], RongCloudError], failed: str) -> None:
        self._kind = kind
        self._failed = failed

    def __enter__(self) -> None:  # no generator: every request passes five of these
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        passing = error is None or isinstance(error, RongCloudError | KeyboardInterrupt | SystemExit)
        if not passing and not is_cancellation(error):
            reason = "it cancelled itself" if isinstance(error, CancelledError) else f"{type(error).__name__}: {error}"
            raise self._kind(f"{self._failed} failed: {reason}") from error


def is_cancellation(error: BaseException | None) -> bool:
    """Whether this is the cancellation of the running task, and not a `CancelledError` that was raised by itself."""
    if not isinstance(error, CancelledError):
        return False
    try:
        task = current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0

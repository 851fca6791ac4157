"""The line between an error of one request and one that ends the client."""

from asyncio import CancelledError, current_task
from collections.abc import Iterator
from contextlib import contextmanager

from rongcloud_groups.errors import RongCloudError


@contextmanager
def contained(kind: type[RongCloudError], failed: str) -> Iterator[None]:
    """Turn any exception of a limiter, transport, dialect or decoder into an error of the request at hand.

    The cancellation of the running task passes, and so does an exception that ends the process.

    Args:
        kind: of the error that is raised instead; errors of this library pass as they are.
        failed: the part that failed, for the message.
    """
    try:
        yield
    except (RongCloudError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if is_cancellation(error):
            raise
        raise kind(f"{failed} failed: {type(error).__name__}: {error}") from error


def is_cancellation(error: BaseException) -> bool:
    """Whether this is the cancellation of the running task, and not a `CancelledError` that was raised by itself."""
    if not isinstance(error, CancelledError):
        return False
    try:
        task = current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0

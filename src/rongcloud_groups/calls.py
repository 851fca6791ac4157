"""Tell the hooks of calls."""

from asyncio import get_running_loop
from collections.abc import Awaitable
from typing import TypeVar

from rongcloud_groups.events import CallEnded, Emitter
from rongcloud_groups.lookup import Lookup
from rongcloud_groups.models import GroupProfile

T = TypeVar("T", bound=Lookup | GroupProfile | None)


async def told(emit: Emitter, name: str, call: Awaitable[T]) -> T:
    """What a call returns; the hooks are told of its end, however it ends."""
    clock = get_running_loop().time
    began = clock()
    try:
        result = await call
    except BaseException as error:
        emit(CallEnded(name, 0, 0, 0, clock() - began, error))
        raise
    emit(CallEnded(name, *_counts(result), clock() - began, None))
    return result


def _counts(result: Lookup | GroupProfile | None) -> tuple[int, int, int]:
    if isinstance(result, Lookup):
        return len(result.found), len(result.missing), len(result.failed)
    return (0, 1, 0) if result is None else (1, 0, 0)

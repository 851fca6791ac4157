"""A web app that answers with a group's profile, in as many processes as you like, within one App Key's budget.

    RONGCLOUD_LIMITER=file:/run/groups/budget uvicorn fastapi_app:app --app-dir examples --workers 4

The credentials come from the environment as well; see the README.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, HTTPException, Request, Response

from rongcloud_groups import DeadlineExceeded, GroupClient, InvalidGroupId, RongCloudError

PATIENCE = 2.0
"""Seconds that a page waits for its group."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, GroupClient]]:
    """Open one client for all requests of this process."""
    async with GroupClient.from_env(deadline=PATIENCE) as client:
        yield {"groups": client}


def client_of(request: Request) -> GroupClient:
    """The client that the lifespan opened; tests put another one in its place."""
    client: GroupClient = request.state.groups
    return client


app = FastAPI(lifespan=lifespan)


@app.get("/groups/{group_id}")
async def group(group_id: str, groups: Annotated[GroupClient, Depends(client_of)]) -> Response:
    """The profile of one group, as JSON."""
    try:
        profile = await groups.get(group_id)
    except InvalidGroupId as error:
        raise HTTPException(400, str(error)) from None
    except DeadlineExceeded as error:
        raise _too_late(error) from None
    except RongCloudError as error:
        raise HTTPException(502, "the group service does not answer as it should") from error
    if profile is None:
        raise HTTPException(404, "no such group")
    return Response(msgspec.json.encode(profile), media_type="application/json")


def _too_late(error: DeadlineExceeded) -> HTTPException:
    if error.phase == "waiting for budget":  # more is asked for than the App Key may ask
        return HTTPException(503, "too many groups are asked for at a time", headers={"Retry-After": "1"})
    return HTTPException(504, str(error))

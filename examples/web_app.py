"""A web app that answers with a group's profile: ``fastapi run examples/web_app.py``, or any ASGI server.

The credentials come from the environment; see the README.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from fastapi import FastAPI, HTTPException, Request, Response

from rongcloud_groups import DeadlineExceeded, GroupClient, InvalidGroupId


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, GroupClient]]:
    """Open one client for all requests."""
    async with GroupClient.from_env() as client:
        yield {"groups": client}


app = FastAPI(lifespan=lifespan)


@app.get("/groups/{group_id}")
async def group(group_id: str, request: Request) -> Response:
    """The profile of one group, as JSON."""
    client: GroupClient = request.state.groups
    try:
        profile = await client.get(group_id, deadline=2.0)
    except InvalidGroupId as error:
        raise HTTPException(400, str(error)) from None
    except DeadlineExceeded as error:
        raise HTTPException(503, str(error)) from None
    if profile is None:
        raise HTTPException(404, "no such group")
    return Response(msgspec.json.encode(profile), media_type="application/json")

"""Requests to the emulator, made without the client that it is there to judge."""

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from rongcloud_groups.emulator import Service
from rongcloud_groups.emulator.responses import Response

V1_BATCH = "/entrust/group/profile/query.json"
V1_LISTING = "/entrust/group/query.json"
V4_BATCH = "/v4/group-channel/profile/list"
V4_LISTING = "/v4/group-channel/list"

FORM = "application/x-www-form-urlencoded"
KEY, SECRET = "emulator-app-key", "emulator-app-secret"


def signed(
    *,
    app_key: str = KEY,
    app_secret: str = SECRET,
    nonce: str = "nonce-1",
    at: float | None = None,
    prefix: str = "",
    content_type: str = FORM,
) -> dict[str, str]:
    timestamp = str(int((time.time() if at is None else at) * 1000))
    signature = hashlib.sha1(f"{app_secret}{nonce}{timestamp}".encode()).hexdigest()
    return {
        f"{prefix}app-key": app_key,
        f"{prefix}nonce": nonce,
        f"{prefix}timestamp": timestamp,
        f"{prefix}signature": signature,
        "content-type": content_type,
    }


def form(group_ids: Sequence[str]) -> bytes:
    return "&".join(f"groupIds={group_id}" for group_id in group_ids).encode()


def ask(
    service: Service,
    body: bytes | Sequence[str],
    path: str = V1_BATCH,
    now: float = 0.0,
    headers: dict[str, str] | None = None,
) -> Response:
    """Send a signed request: a body as it is, or group IDs in the way of the path's version."""
    if isinstance(body, bytes):
        content = body
    else:
        content = form(body) if path == V1_BATCH else json.dumps({"channelIds": list(body)}).encode()
    content_type = "application/json" if path.startswith("/v4/") else FORM
    return service.respond("POST", path, headers or signed(content_type=content_type), content, now)


def profiles(response: Response) -> list[Any]:
    content = json.loads(response.body)
    found = content["profiles"] if "profiles" in content else content["result"]["profiles"]
    assert isinstance(found, list)
    return found

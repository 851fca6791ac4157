"""Profiles as types of FastAPI and Pydantic."""

from datetime import UTC, datetime

import msgspec
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from starlette.testclient import TestClient

from rongcloud_groups import GroupProfile, JoinPerm, Permissions

PROFILE = GroupProfile(
    group_id="g1",
    group_name="Chess & Tea",
    create_time=datetime(2024, 2, 29, 12, 0, 0, 1000, tzinfo=UTC),
    permissions=Permissions(join_perm=JoinPerm(7)),
    ext_profile={"ext_city": "杭州"},
)


class Page(BaseModel):
    """A model of an application."""

    title: str
    group: GroupProfile


def test_a_route_returns_a_profile_and_has_it_in_its_schema() -> None:
    app = FastAPI()

    @app.get("/group")
    async def group() -> GroupProfile:
        return PROFILE

    with TestClient(app) as browser:
        response = browser.get("/group")
        documented = browser.get("/openapi.json").json()["paths"]["/group"]["get"]["responses"]["200"]["content"]
    assert msgspec.json.decode(response.content, type=GroupProfile) == PROFILE
    schema = documented["application/json"]["schema"]
    assert set(schema["properties"]) == set(GroupProfile.__struct_fields__)
    assert "$ref" not in str(schema)


def test_a_model_with_a_profile_goes_through_json_without_loss() -> None:
    page = Page(title="Tea", group=PROFILE)
    assert Page.model_validate_json(page.model_dump_json()) == page
    assert page.model_dump(mode="json")["group"]["group_name"] == "Chess & Tea"


def test_a_model_refuses_what_is_no_profile() -> None:
    with pytest.raises(ValidationError, match="group_id"):
        Page.model_validate({"title": "Tea", "group": {"group_name": "no ID"}})

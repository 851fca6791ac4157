"""The service as the client sees it: requests to send, and results out of responses."""

import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from rongcloud_groups._http import Request, Response
from rongcloud_groups._protocol.dialects import Dialect
from rongcloud_groups._protocol.requests import PAGE_SIZE, encode
from rongcloud_groups._protocol.responses import read_entries
from rongcloud_groups._protocol.signing import Credentials
from rongcloud_groups._protocol.strict import listed_group_reader, profile_reader
from rongcloud_groups.models import GroupProfile, ListedGroup


class BatchResult(NamedTuple):
    """A request's group IDs by outcome; each is in exactly one of the three."""

    found: dict[str, GroupProfile]
    """In the order of the request."""
    missing: list[str]
    """The service left them out."""
    unreadable: list[str]
    """Left out too, but the response has entries whose group ID cannot be read: they may be these."""


class ListingPage(NamedTuple):
    """One page of the listing of an app's groups."""

    groups: list[ListedGroup]
    next_page_token: str | None
    """None on the last page."""
    unreadable: int
    """How many entries have a group ID that cannot be read."""


class ServiceApi(Struct, frozen=True):
    """Builds signed requests in a dialect, and reads the responses to them. It sends nothing and keeps nothing."""

    dialect: Dialect
    credentials: Credentials

    def batch_request(self, group_ids: Sequence[str]) -> Request:
        """The request for the profiles of 1 to `BATCH_LIMIT` validated group IDs."""
        return self._request(self.dialect.batch_path, {self.dialect.group_ids_key: group_ids})

    def listing_request(self, page_token: str | None) -> Request:
        """The request for the page of the listing with this token, oldest groups first; None for the first page."""
        parameters: dict[str, str | int] = {self.dialect.page_size_key: PAGE_SIZE, "order": 0}
        if page_token is not None:
            parameters["pageToken"] = page_token
        return self._request(self.dialect.listing_path, parameters)

    def _request(self, path: str, parameters: Mapping[str, str | int | Sequence[str]]) -> Request:
        request_id = secrets.token_hex(16)  # the service takes at most 36 characters
        headers = [
            *self.credentials.headers(),
            ("x-request-id", request_id),
            ("content-type", self.dialect.content_type),
            ("accept-encoding", "gzip"),
            ("user-agent", "rongcloud-groups"),
        ]
        return Request(path, headers, encode(self.dialect, parameters), request_id)

    def read_batch(self, response: Response, requested: Sequence[str], request_id: str | None = None) -> BatchResult:
        """The outcome of each requested group ID, given once each; the IDs of the profiles are the same objects.

        Profiles are matched by their group ID; those of other groups are ignored, and of two for one group
        the first counts. Error messages name the request by its ID.

        Raises:
            ServiceError: the service, or a server before it, responded with an error.
            ConfigError: the response is in the other dialect.
            DecodeError: the response is not as the service documents it.
        """
        profiles, unreadable, _ = read_entries(profile_reader(self.dialect), response, requested, request_id)
        found = {profile.group_id: profile for profile in profiles}
        left = [] if len(found) == len(requested) else [each for each in requested if each not in found]
        return BatchResult(found, [], left) if unreadable else BatchResult(found, left, [])

    def read_listing(self, response: Response, request_id: str | None = None) -> ListingPage:
        """One page of the listing; arguments and errors are as for `read_batch`."""
        reader = listed_group_reader(self.dialect)
        groups, unreadable, token = read_entries(reader, response, None, request_id)
        return ListingPage(groups, None if token is None else str(token) or None, unreadable)

"""The service as the client sees it: requests to send, and results out of responses."""

from collections.abc import Sequence

from rongcloud_groups._http import Request, Response
from rongcloud_groups._protocol.dialects import Dialect
from rongcloud_groups._protocol.requests import batch_request, listing_request
from rongcloud_groups._protocol.responses import BatchResult, ListingPage, read_batch, read_listing
from rongcloud_groups._protocol.signing import Credentials, new_nonce

PAGE_SIZE = 1000
"""The most groups on a page of the listing, as the service documents it."""


class ServiceApi:
    """Builds signed requests, and reads the responses to them. It sends nothing and keeps nothing.

    Each request has its own nonce, so it is built again for each attempt; its ``request_id`` is for events and
    error messages.

    Args:
        dialect: the interface that is spoken.
        credentials: sign the requests.
    """

    __slots__ = ("credentials", "dialect")

    def __init__(self, dialect: Dialect, credentials: Credentials) -> None:
        self.dialect = dialect
        self.credentials = credentials

    def batch_request(self, group_ids: Sequence[str]) -> Request:
        """The request for the profiles of 1 to 50 validated group IDs."""
        return batch_request(self.dialect, self.credentials, group_ids, new_nonce())

    def read_batch(self, response: Response, requested: Sequence[str], request_id: str | None = None) -> BatchResult:
        """The found, missing and unreadable ones of the requested group IDs; raises as `responses.read_batch` does."""
        return read_batch(self.dialect, response, requested, request_id)

    def listing_request(self, page_token: str | None) -> Request:
        """The request for the page of the listing with this token, oldest groups first; None for the first page."""
        return listing_request(self.dialect, self.credentials, new_nonce(), page_token=page_token, size=PAGE_SIZE)

    def read_listing(self, response: Response, request_id: str | None = None) -> ListingPage:
        """One page of the listing; raises as `responses.read_listing` does."""
        return read_listing(self.dialect, response, PAGE_SIZE, request_id)

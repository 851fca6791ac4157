"""All groups of the app."""

from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import Final

from rongcloud_groups._dispatch.listing import Listing
from rongcloud_groups.bulk.checkpoint import ListingPlace
from rongcloud_groups.bulk.lists import MissingIds, MissingIdsFile
from rongcloud_groups.bulk.sources.interface import Source

_CHUNK: Final = 64 * 1024


class ListingSource(Source):
    """All groups of the app, oldest first, as the listing gives them.

    The IDs are noted in ``OUT.listed`` on the way, so that a resumed job sees the same ones in the same order.

    Args:
        listing: `GroupClient.list_groups`.
        since: leave out groups that were created before; those whose time the listing does not tell stay.
        output: the job's output, beside which the IDs are noted; None where nothing can be resumed.
    """

    name = "the listing"
    asks_service = True

    def __init__(self, listing: Listing, *, since: datetime | None = None, output: Path | None = None) -> None:
        self.kind = "listing" if since is None else f"listing since {since.isoformat()}"
        self._listing = listing
        self._since = since
        self.noted = MissingIds() if output is None else MissingIdsFile(f"{output}.listed", output)
        self.may_be_empty = since is not None

    async def records(self) -> AsyncGenerator[list[str]]:
        """The IDs noted by an earlier run, then those of the pages to come."""
        place = self.place or ListingPlace()
        if isinstance(self.noted, MissingIdsFile) and place.size:
            with self.noted.partial.open("rb") as noted:
                while lines := noted.readlines(_CHUNK):
                    yield [line.decode().removesuffix("\n") for line in lines]
        if place.ended:
            return
        unreadable = place.unreadable
        async for page in self._listing.pages(after=place.token):
            wanted = [group.group_id for group in page.groups if self._is_wanted(group.create_time)]
            ids = [group_id for group_id in wanted if "\n" not in group_id]  # the list has a line for each
            unreadable += page.unreadable + len(wanted) - len(ids)
            self.noted.write(ids)
            token = page.next_page_token
            self.place = ListingPlace(self.noted.size, token, ended=token is None, unreadable=unreadable)
            yield ids

    def _is_wanted(self, created: datetime | None) -> bool:
        return self._since is None or created is None or created >= self._since

"""The export job: start it or find it again, wait for it, fresh links to its parts.

The API is SendGrid's v3 (https://www.twilio.com/docs/sendgrid/api-reference/contacts). Seen by
many and not documented: a link lives for five minutes, each status has fresh ones, and the files
live for twelve hours.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from singer_sdk.exceptions import FatalAPIError

from tap_sendgrid_contacts.decode.values import parse_date
from tap_sendgrid_contacts.transport import (
    NotFoundError,
    UnansweredError,
    is_safe_url,
    quotable,
    retrying,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tap_sendgrid_contacts.client import SendGrid

logger = logging.getLogger(__name__)

_LONGEST_POLL = 30.0
_POLL_GROWTH = 1.5

# An export whose request got no answer is looked up by when it was created, whole seconds by a
# clock read from whole seconds.
_CLOCK_SLACK = timedelta(seconds=2)


class ExportLostError(FatalAPIError):
    """The export failed, expired, or is gone: only a new one can help."""


@dataclass(frozen=True)
class ExportRequest:
    """What an export is asked for.

    Attributes:
        list_ids: Ids of lists.
        segment_ids: Ids of segments; with neither, all contacts.
        file_type: `json` or `csv`.
        max_file_size: Largest part, in MB.
        notify_email: Whether SendGrid mails a link too.
    """

    list_ids: tuple[str, ...] = ()
    segment_ids: tuple[str, ...] = ()
    file_type: str = "json"
    max_file_size: int | None = None
    notify_email: bool = False

    def body(self) -> dict[str, Any]:
        """The body of `POST /v3/marketing/contacts/exports`.

        What is not asked for is left out: what an empty array means there is not documented.
        """
        body: dict[str, Any] = {"file_type": self.file_type}
        if self.list_ids:
            body["list_ids"] = list(self.list_ids)
        if self.segment_ids:
            body["segment_ids"] = list(self.segment_ids)
        if self.max_file_size:
            body["max_file_size"] = self.max_file_size
        if self.notify_email:
            body["notifications"] = {"email": True}
        return body


def start(api: SendGrid, request: ExportRequest) -> str:
    """Ask for an export, and for one only.

    Returns:
        Its id.

    Raises:
        RetriableAPIError: When SendGrid could not be reached or did not answer.
        FatalAPIError: When SendGrid refuses.
    """
    since = api.now
    asked = False

    @retrying(UnansweredError)
    def find_or_ask() -> str:
        nonlocal asked
        if asked:
            if found := find(api, request, since):
                return found
            logger.warning("SendGrid does not list the export; asking again")
        asked = True
        return api.start_export(request.body())

    return find_or_ask()


def find(api: SendGrid, request: ExportRequest, since: datetime) -> str | None:
    """Look for an export that was asked for without an answer.

    Args:
        api: The API.
        request: What was asked for.
        since: When it was asked for, by SendGrid's clock.

    Returns:
        The id of the first export of the same lists and segments created since, if any.
    """
    # `GET /exports` tells neither file type nor size; that somebody else asks for the same lists
    # while our request hangs is less likely than a lost answer.
    wanted = [{each.lower() for each in ids} for ids in (request.list_ids, request.segment_ids)]
    found = [
        (created, export.id)
        for export in api.exports()
        if (created := _moment(export.created_at))
        and created >= since - _CLOCK_SLACK
        and export.status in {"pending", "ready"}
        and [{ref.id.lower() for ref in refs or ()} for refs in (export.lists, export.segments)]
        == wanted
    ]
    if not found:
        return None
    _, first = min(found)
    logger.info("SendGrid had taken the request: going on with export %s", first)
    return first


def _moment(text: str | None) -> datetime | None:
    try:
        return parse_date(text) if text else None
    except (ValueError, OverflowError):
        return None


@dataclass
class ExportJob:
    """An export that SendGrid works on or has done.

    Attributes:
        api: The API.
        id: The export's id.
        poll_interval: Seconds to the second look at its status; they grow from look to look.
        poll_timeout: Seconds to wait for it in all.
        pause: Waits for some seconds, and may tell why.
        is_new: Whether it was asked for just now: at the first look SendGrid may not know it.
        parts: Number of files it is in, once ready.
        contact_count: Number of contacts SendGrid promises, if it says.
        created_at: When SendGrid made it, if it says.
    """

    api: SendGrid
    id: str
    poll_interval: int = 2
    poll_timeout: int = 3600
    pause: Callable[[float, str], None] = lambda seconds, _why: time.sleep(seconds)
    is_new: bool = False
    parts: int = field(default=0, init=False)
    contact_count: int | None = field(default=None, init=False)
    created_at: datetime | None = field(default=None, init=False)

    def wait(self) -> None:
        """Wait until the export is ready.

        Raises:
            ExportLostError: When it failed, expired, or is gone.
            FatalAPIError: When it takes longer than `poll_timeout`, or is not as documented.
        """
        deadline = time.monotonic() + self.poll_timeout
        delay = float(self.poll_interval)
        while (urls := self._ready_urls()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise FatalAPIError(
                    f"Export {self.id} is not ready after {self.poll_timeout} s (`poll_timeout`). "
                    "SendGrid goes on with it, and the next run with this state waits for it"
                )
            self.pause(min(delay, left), f"Export {self.id} is pending")
            delay = min(delay * _POLL_GROWTH, max(_LONGEST_POLL, self.poll_interval))
        self.parts = len(urls)
        count = "an unknown number of" if self.contact_count is None else self.contact_count
        if not urls and self.contact_count != 0:
            raise FatalAPIError(f"Export {self.id} is ready with {count} contacts but no files")
        logger.info("Export %s is ready: %s contacts in %d part(s)", self.id, count, len(urls))

    def url(self, part: int) -> str:
        """Get a link to a part, signed just now: SendGrid's links live for five minutes.

        Args:
            part: The part, counted from 0.

        Raises:
            ExportLostError: When the export is gone or expired meanwhile.
            FatalAPIError: When parts are missing, or the link is not safe to use.
        """
        urls = self._ready_urls() or []
        if len(urls) != self.parts:
            raise FatalAPIError(
                f"Export {self.id} was in {self.parts} part(s), and now is in {len(urls)}; "
                "run again"
            )
        if not is_safe_url(urls[part]):
            raise FatalAPIError(
                f"Part {part + 1} of export {self.id} has no https URL; it is not fetched"
            )
        return urls[part]

    def _ready_urls(self) -> list[str] | None:
        """Read the status: the links in an order that stays, or None while pending."""
        try:
            export = self.api.export(self.id)
        except NotFoundError as error:
            if self.is_new:
                self.is_new = False
                return None
            raise ExportLostError(f"Export {self.id} is gone: {error}") from error
        if export.status == "failure":
            said = quotable(export.message or "no reason given")
            raise ExportLostError(f"SendGrid failed to make export {self.id}: {said}")
        if export.status == "pending":
            return None
        if export.status != "ready":
            raise FatalAPIError(
                f"Export {self.id} has a status that is not known: {export.status[:50]!r}"
            )
        expires = _moment(export.expires_at)
        if expires and expires < self.api.now:
            raise ExportLostError(f"Export {self.id} expired at {export.expires_at}")
        if export.contact_count is not None:
            self.contact_count = export.contact_count
        self.created_at = _moment(export.created_at)
        # Their order is not promised; by name it is the same each time, and where all have one
        # name the order given stays.
        return sorted(export.urls or (), key=_path)


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""

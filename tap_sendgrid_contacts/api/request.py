"""Create an export, and one only: a request whose response was lost is looked up."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tap_sendgrid_contacts.api.http import RequestNotProcessedError, TransientError
from tap_sendgrid_contacts.dates import parse_timestamp
from tap_sendgrid_contacts.redaction import sanitize

if TYPE_CHECKING:
    from datetime import datetime

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.http import RetryPolicy

logger = logging.getLogger(__name__)

# Both the time of the request and `created_at` are known to the second only.
_CLOCK_SKEW = timedelta(seconds=2)


@dataclass(frozen=True)
class ExportRequest:
    """Parameters of an export, as in the settings; with neither lists nor segments, of all."""

    list_ids: tuple[str, ...]
    segment_ids: tuple[str, ...]
    file_type: str
    max_file_size: int | None
    notify_email: bool

    def body(self) -> dict[str, Any]:
        """Return the body of `POST /v3/marketing/contacts/exports`.

        Empty arrays are omitted: their effect is not documented.
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


@dataclass(frozen=True)
class CreateRequest:
    """A request to create an export, confirmed by its response or by the list of exports.

    Attributes:
        client: The API client.
        request: Parameters of the export.
        requested_at: When it was sent first, by this machine's clock.
        discarded: The id of an export that is not looked for: it can have been created in the
            same second.
    """

    client: SendGridClient
    request: ExportRequest
    requested_at: datetime
    discarded: str | None

    def send(self, retry: RetryPolicy) -> tuple[str, bool]:
        """Create an export, and one only: a request whose response was lost is looked up.

        Returns:
            The id of the export, and whether it was adopted: found, but not confirmed.

        Raises:
            TransientError: If SendGrid did not respond, retries included.
            FatalAPIError: If SendGrid rejects the request.
        """
        maybe_created = False

        def find_or_create() -> tuple[str, bool]:
            nonlocal maybe_created
            if maybe_created:
                # Each time: one that was not found may become visible yet.
                if export_id := self.find():
                    return export_id, True
                logger.warning("Export not found; retrying the create request")
            try:
                return self.client.create_export(self.request.body()), False
            except RequestNotProcessedError:
                raise
            except TransientError:
                maybe_created = True
                raise

        return retry.call(find_or_create)

    def find(self) -> str | None:
        """Return the id of the first export of the same lists and segments created since."""
        # `GET /exports` has neither file type nor size. Assumption: a concurrent export of the
        # same lists is less likely than a lost response.
        request = self.request
        wanted = [{id_.lower() for id_ in ids} for ids in (request.list_ids, request.segment_ids)]
        exports = self.client.list_exports()
        # Only now, after a response, is the offset of SendGrid's clock known.
        created_since = self.requested_at + self.client.clock_offset - _CLOCK_SKEW
        matches = [
            (created_at, export.id)
            for export in exports
            if (created_at := parse_timestamp(export.created_at))
            and created_at >= created_since
            and export.status in {"pending", "ready"}
            and export.id != self.discarded
            and [
                {audience.id.lower() for audience in audiences}
                for audiences in (export.lists, export.segments)
            ]
            == wanted
        ]
        if not matches:
            return None
        _, export_id = min(matches)
        logger.info("Create request was accepted; adopting export %s", sanitize(export_id))
        return export_id

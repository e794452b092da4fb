"""What `--test` checks: the API key, its permissions, the configured lists and segments."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.api.http import sanitize_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tap_sendgrid_contacts.api.client import Audience, SendGridClient
    from tap_sendgrid_contacts.api.export import ExportRequest

logger = logging.getLogger(__name__)


def check_account(client: SendGridClient, request: ExportRequest) -> None:
    """Check what an export needs, as far as that is possible without starting one.

    Raises:
        ConfigurationError: If SendGrid does not have a configured list or segment.
        FatalAPIError: If SendGrid rejects the API key.
    """
    client.retry(client.list_exports)()
    errors = []
    for setting, ids, list_audiences in (
        ("list_ids", request.list_ids, client.list_lists),
        ("segment_ids", request.segment_ids, client.list_segments),
    ):
        if not ids:
            continue
        audiences = client.retry(list_audiences)()
        if unknown := _unknown_ids(ids, audiences):
            errors.append(
                f"{setting}: not found: {', '.join(unknown)}. Available: "
                + (", ".join(map(_describe, audiences)) or "none")
            )
    if errors:
        raise ConfigurationError("; ".join(errors))
    is_all = not (request.list_ids or request.segment_ids)
    logger.info(
        "API key valid; %s. Export permission is not verified by --test",
        "would export all contacts" if is_all else "lists and segments found",
    )


def _unknown_ids(ids: Sequence[str], audiences: Sequence[Audience]) -> list[str]:
    return sorted({each.lower() for each in ids} - {each.id.lower() for each in audiences})


def _describe(audience: Audience) -> str:
    return f"{sanitize_message(audience.id)} ({sanitize_message(audience.name)})"

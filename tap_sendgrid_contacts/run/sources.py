"""Sources of contacts: with `separate_exports`, each list and segment has an export of its own."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Literal, NamedTuple

from typing_extensions import override

from tap_sendgrid_contacts.api.http import ForbiddenError
from tap_sendgrid_contacts.redaction import sanitize
from tap_sendgrid_contacts.schema import SOURCE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tap_sendgrid_contacts.api.client import Audience, SendGridClient
    from tap_sendgrid_contacts.api.request import ExportRequest

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """What an export is of.

    Attributes:
        type: `list` or `segment`; None for all that is configured, in one export.
        id: Its id.
        name: Its name, if it is known.
    """

    type: Literal["list", "segment"] | None = None
    id: str = ""
    name: str | None = None

    @override
    def __str__(self) -> str:
        name = f" ({sanitize(self.name)})" if self.name else ""
        return f"{self.type} {sanitize(self.id)}{name}" if self.type else ""

    @property
    def stamp(self) -> dict[str, str | None]:
        """The columns that its contacts have in addition."""
        return dict(zip(SOURCE_COLUMNS, self, strict=True)) if self.type else {}

    def request(self, base: ExportRequest) -> ExportRequest:
        """Return the request of its export, with the other parameters of `base`."""
        if not self.type:
            return base
        ids: dict[str, tuple[str, ...]] = {"list": (), "segment": (), self.type: (self.id,)}
        return dataclasses.replace(base, list_ids=ids["list"], segment_ids=ids["segment"])


def find_sources(client: SendGridClient, request: ExportRequest) -> list[Source]:
    """Return the configured lists and segments, or all lists of the account if there are none.

    A name is information: it is None if the id is unknown, or the API key has no permission to
    see names.

    Raises:
        TransientError: If SendGrid could not be reached, retries included.
        FatalAPIError: If it rejects a request.
    """
    if not request.list_ids and not request.segment_ids:
        lists = client.retry.call(client.list_lists)
        return [_make_source("list", each) for each in lists]
    return [
        *_with_names(client, "list", request.list_ids, client.list_lists),
        *_with_names(client, "segment", request.segment_ids, client.list_segments),
    ]


def _with_names(
    client: SendGridClient,
    source_type: Literal["list", "segment"],
    ids: Sequence[str],
    list_audiences: Callable[[], list[Audience]],
) -> Iterator[Source]:
    if not ids:
        return
    try:
        audiences = client.retry.call(list_audiences)
    except ForbiddenError as error:
        logger.warning("source_name is null: %s", error)
        audiences = []
    known = {each.id.lower(): _make_source(source_type, each) for each in audiences}
    for id_ in dict.fromkeys(id_.lower() for id_ in ids):
        original = next(each for each in ids if each.lower() == id_)
        yield known.get(id_, Source(source_type, original))


def _make_source(source_type: Literal["list", "segment"], audience: Audience) -> Source:
    # As in contacts: databases reject NUL, and empty is null.
    name = audience.name.replace("\0", "") or None
    return Source(source_type, audience.id, name)

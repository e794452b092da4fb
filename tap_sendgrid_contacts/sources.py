"""Sources of contacts: with `separate_exports`, each list and segment has an export of its own."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from singer_sdk.exceptions import DataError, FatalAPIError, FatalSyncError
from typing_extensions import override

from tap_sendgrid_contacts.api.export import PollTimeoutError
from tap_sendgrid_contacts.api.http import (
    ForbiddenError,
    TransientError,
    UnauthorizedError,
)
from tap_sendgrid_contacts.redaction import sanitize
from tap_sendgrid_contacts.schema import SOURCE_COLUMNS, SOURCE_KEY
from tap_sendgrid_contacts.sync import NotStartedError, RepeatedPartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tap_sendgrid_contacts.api.client import Audience, SendGridClient
    from tap_sendgrid_contacts.api.export import ExportRequest
    from tap_sendgrid_contacts.sync import ExportSync

T = TypeVar("T")

logger = logging.getLogger(__name__)

EXPORTS_AHEAD = 4
"""Exports that SendGrid prepares while another one is read.

Few, since SendGrid does not document how many may run at a time, and since each is available for
some hours only.
"""

# Errors that say something about the source. Others, such as a rejected key or a full disk, would
# recur with the next one.
_SOURCE_ERRORS = (FatalAPIError, PollTimeoutError, TransientError, DataError, RepeatedPartError)


class FailedExportsError(FatalSyncError):
    """Some of several exports failed; the others were read to their end."""


class Source(NamedTuple):
    """What an export is of.

    Attributes:
        type: `list` or `segment`; None for all that is configured, in one export.
        id: Its id.
        name: Its name, if it is known.
        contact_count: Its number of contacts, if it is known; that of an export may differ.
    """

    type: Literal["list", "segment"] | None = None
    id: str = ""
    name: str | None = None
    contact_count: int | None = None

    @override
    def __str__(self) -> str:
        name = f" ({sanitize(self.name)})" if self.name else ""
        return f"{self.type} {sanitize(self.id)}{name}" if self.type else ""

    @property
    def context(self) -> dict[str, str] | None:
        """The context of its partition in the state."""
        return {"source_type": self.type, SOURCE_KEY: self.id} if self.type else None

    @property
    def stamp(self) -> dict[str, str | None]:
        """The columns that its contacts have in addition."""
        return dict(zip(SOURCE_COLUMNS, self[:3], strict=True)) if self.type else {}

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
    return Source(source_type, audience.id, name, audience.contact_count)


def sync_in_turn(
    syncs: Sequence[ExportSync],
    open_export: Callable[[ExportSync], None],
    read: Callable[[ExportSync], Iterator[T]],
) -> Iterator[T]:
    """Read exports one after the other, and have SendGrid prepare the next ones meanwhile.

    An export that fails does not keep the others from being read.

    Args:
        syncs: The exports.
        open_export: Opens an export.
        read: Reads an export that is open.

    Yields:
        What `read` yields.

    Raises:
        FailedExportsError: If some of several exports failed; why is in the log. The error of a
            single one is raised as it is.
    """
    failures: list[str] = []
    try:
        for i, sync in enumerate(syncs):
            try:
                sync.start()
                if sync.checkpoint.is_complete:
                    logger.info("%s: read to its end by the interrupted run; skipping", sync.label)
                    continue
                _start_early(syncs[i + 1 :])
                open_export(sync)
                # Now that this one is ready, SendGrid may accept another one.
                _start_early(syncs[i + 1 :])
                yield from read(sync)
                if len(syncs) > 1:
                    # If this run is interrupted, the next one does not read it again.
                    sync.store.save(sync.checkpoint)
            except (UnauthorizedError, ForbiddenError, NotStartedError):
                raise
            except _SOURCE_ERRORS as error:
                if len(syncs) == 1:
                    raise
                failures.append(f"{sync.label}: {error}")
    finally:
        for failure in failures:
            logger.error(failure)
    if failures:
        raise FailedExportsError(
            f"{len(failures)} of {len(syncs)} exports failed. The next run reads all lists and "
            "segments again"
        )


def _start_early(syncs: Sequence[ExportSync]) -> None:
    for sync in syncs[:EXPORTS_AHEAD]:
        if not sync.start_early():
            break

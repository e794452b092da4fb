"""What `--test` checks and shows: the API key, its permissions, and what is in the account."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeVar

from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.api.http import ForbiddenError
from tap_sendgrid_contacts.redaction import sanitize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tap_sendgrid_contacts.api.client import Audience, SendGridClient
    from tap_sendgrid_contacts.api.request import ExportRequest
    from tap_sendgrid_contacts.columns import Column

T = TypeVar("T")

_SUGGESTIONS = 3
_SEE_EXPORTS = "list exports"


class AccountReport:
    """The account, as far as it can be seen without creating an export.

    Raises:
        FatalAPIError: If SendGrid rejects the API key.
        TransientError: If SendGrid could not be reached.
    """

    def __init__(
        self, client: SendGridClient, request: ExportRequest, *, separate_exports: bool
    ) -> None:
        self._client = client
        self._request = request
        self._separate_exports = separate_exports
        self._permissions: dict[str, bool] = {}
        self._count = self._read("contact count", client.count_contacts)
        self._lists = self._read("lists", client.list_lists) or []
        self._segments = self._read("segments", client.list_segments) or []
        self._read(_SEE_EXPORTS, client.list_exports)

    def check(self) -> None:
        """Check that the configured lists and segments exist.

        Raises:
            ConfigurationError: If one does not, or if the key has no permission to see them.
        """
        errors = [
            *self._check_ids("list_ids", self._request.list_ids, "lists", self._lists),
            *self._check_ids("segment_ids", self._request.segment_ids, "segments", self._segments),
        ]
        if not self._permissions[_SEE_EXPORTS]:
            errors.append("api_key has no permission to see exports (scope marketing.read)")
        if errors:
            raise ConfigurationError("; ".join(errors))

    def lines(self, columns: Sequence[Column]) -> Iterator[str]:
        """Yield the report; `columns` are those of the discovered schema."""
        count = "unknown" if self._count is None else f"{self._count:,}"
        yield f"Contacts: {count}"
        for title, audiences in (("Lists", self._lists), ("Segments", self._segments)):
            yield f"{title}: {len(audiences):,}"
            yield from (f"  {_describe(audience)}" for audience in audiences)
        custom = [column for column in columns if column.is_custom]
        yield f"Custom fields: {len(custom):,}"
        yield from (
            f"  {sanitize(column.field)}: column {column.name}, {column.type}" for column in custom
        )
        yield f"A run would export: {self._describe_request()}"
        yield "API key valid. Permissions: " + ", ".join(
            f"{name} {'yes' if is_allowed else 'no'}"
            for name, is_allowed in {"field definitions": True, **self._permissions}.items()
        )
        yield "Permission to create exports: not checked here, shows on the first run"

    def _read(self, name: str, function: Callable[[], T]) -> T | None:
        try:
            value = self._client.retry.call(function)
        except ForbiddenError:
            self._permissions[name] = False
            return None
        self._permissions[name] = True
        return value

    def _check_ids(
        self, setting: str, ids: Sequence[str], kind: str, audiences: Sequence[Audience]
    ) -> Iterator[str]:
        if ids and not self._permissions[kind]:
            yield f"{setting}: api_key has no permission to see {kind} (scope marketing.read)"
            return
        known = {audience.id.lower(): audience for audience in audiences}
        by_text = known | {audience.name.lower(): audience for audience in audiences}
        for i, id_ in enumerate(ids):
            if id_.lower() in known:
                continue
            matches = difflib.get_close_matches(id_.lower(), by_text, n=len(by_text) or 1, cutoff=0)
            closest = dict.fromkeys(_describe(by_text[match]) for match in matches)
            suggestions = "; ".join([*closest][:_SUGGESTIONS]) or "none"
            yield f"{setting}[{i}] {sanitize(id_)} not found; closest: {suggestions}"

    def _describe_request(self) -> str:
        request = self._request
        names = {audience.id.lower(): audience.name for audience in (*self._lists, *self._segments)}
        selected = [
            names.get(id_.lower(), id_) for id_ in (*request.list_ids, *request.segment_ids)
        ]
        everything = "each list" if self._separate_exports else "all contacts"
        what = ", ".join(map(sanitize, selected)) or everything
        how = ", one export each" if self._separate_exports else ""
        return f"{what} ({request.file_type}{how})"


def _describe(audience: Audience) -> str:
    count = audience.contact_count
    contacts = "" if count is None else f" ({count:,} contacts)"
    return f"{sanitize(audience.id)} {sanitize(audience.name)}{contacts}"

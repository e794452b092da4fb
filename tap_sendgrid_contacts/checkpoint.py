"""How far an export has been read, and blocks of its contacts."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tap_sendgrid_contacts.columns import Row

Time = Annotated[datetime, msgspec.Meta(tz=True)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far an export has been read.

    Attributes:
        requested_at: When it was requested, or confirmed, by this machine's clock.
        export_id: The export; absent until SendGrid has confirmed the request.
        adopted: Whether the export was found in the list of exports, its request unconfirmed.
        part_count: Number of parts; 0 until the export is ready.
        part_set: Digest of the names of all parts.
        finished_parts: Name and content digest of each part that was read to its end, as
            `name:content`, separated by blanks; no digest for a part without contacts. One
            string, since it is copied with every checkpoint and there can be thousands.
        contacts_before: Contacts read from the finished parts.
        part_digest: Content of the part being read.
        part_offset: Contacts read from that part.
        max_updated_at: With INCREMENTAL, the latest `updated_at` read.
        failed_at: Contacts read when a part could not be read further; a second failure there
            ends the attempts.
    """

    requested_at: Time
    export_id: str | None = None
    adopted: bool = False
    part_count: _Count = 0
    part_set: str | None = None
    finished_parts: str = ""
    contacts_before: _Count = 0
    part_digest: str | None = None
    part_offset: _Count = 0
    max_updated_at: Time | None = None
    failed_at: _Count | None = None

    @property
    def contacts_read(self) -> int:
        """Contacts read from all parts."""
        return self.contacts_before + self.part_offset

    def finished(self) -> dict[str, str]:
        """Return the content digest of each finished part, by the digest of its name."""
        pairs = (part.partition(":") for part in self.finished_parts.split())
        return {name: content for name, _, content in pairs}

    def finish_part(self, name: str, content: str) -> Checkpoint:
        """Return the checkpoint after the last contact of a part.

        Args:
            name: Digest of the part's name.
            content: Digest of its content.
        """
        part = f"{name}:{content if self.part_offset else ''}"
        return replace(
            self,
            finished_parts=f"{self.finished_parts} {part}".lstrip(),
            contacts_before=self.contacts_read,
            part_digest=None,
            part_offset=0,
        )


class Block(NamedTuple):
    """Contacts to emit.

    Attributes:
        rows: The contacts; none at the end of a part.
        checkpoint: Valid once they are durable.
    """

    rows: Sequence[Row]
    checkpoint: Checkpoint

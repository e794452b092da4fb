"""How far an export is read: what the state holds while one is in flight."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far an export is read, as it stands in the state under `exports`.

    Attributes:
        asked_at: When it was asked for, by SendGrid's clock.
        request: What it was asked for.
        id: The export; absent while its request has no answer yet.
        version: Version of the table, if ACTIVATE_VERSION is asked for.
        parts: How many parts it is in; 0 while that is not known.
        part: The part being read, counted from 0.
        file: What tells the part's content from another.
        records: Contacts read of that part.
        contacts: Contacts read of the parts before.
        newest: With INCREMENTAL, the latest `updated_at` read.
    """

    asked_at: Annotated[datetime, msgspec.Meta(tz=True)]
    request: dict[str, Any]
    id: str | None = None
    version: int | None = None
    parts: int = 0
    part: int = 0
    file: str | None = None
    records: int = 0
    contacts: int = 0
    newest: datetime | None = None

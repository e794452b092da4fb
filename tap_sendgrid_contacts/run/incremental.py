"""INCREMENTAL replication: emit the contacts updated since the bookmark."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tap_sendgrid_contacts.columns import Row


@dataclass(frozen=True)
class Since:
    """A filter by `updated_at`.

    Attributes:
        index: Where it is in a row.
        earliest: The earliest one to emit; None for all.
    """

    index: int
    earliest: datetime | None

    def select(self, rows: Sequence[Row]) -> tuple[Sequence[Row], datetime | None]:
        """Return the rows updated since then, and the latest `updated_at` of all.

        A contact without `updated_at` may be new, so it is among them.
        """
        timestamps: list[Any] = list(map(itemgetter(self.index), rows))
        latest: datetime | None = max(filter(None, timestamps), default=None)
        if self.earliest is None:
            return rows, latest
        earliest = self.earliest
        recent = [
            row
            for row, timestamp in zip(rows, timestamps, strict=True)
            if timestamp is None or timestamp >= earliest
        ]
        return recent, latest

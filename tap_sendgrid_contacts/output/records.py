"""Records of contacts, made of the rows that decoders yield."""

from __future__ import annotations

import re
from itertools import starmap
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tap_sendgrid_contacts.columns import Row

Contact = msgspec.Struct
"""A struct whose fields are the columns of a row, in their order."""

_ATTRIBUTE = re.compile(r"[a-z][a-z0-9_]*")


class Records:
    """Makes records of rows with columns of these names."""

    def __init__(self, names: Iterable[str]) -> None:
        # A struct encodes several times as fast as a dictionary.
        self._contact_class = msgspec.defstruct(
            "Contact",
            [
                # Its attributes have the names of the columns, where Python allows that.
                (name if _ATTRIBUTE.fullmatch(name) else f"_{i}", Any, msgspec.field(name=name))
                for i, name in enumerate(names)
            ],
            gc=False,
        )

    def as_structs(self, rows: Iterable[Row]) -> list[Contact]:
        """Return records to be encoded as they are."""
        return list(starmap(self._contact_class, rows))

    def as_dicts(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """Yield records as the SDK's stream maps take them: dates are text."""
        return map(msgspec.to_builtins, starmap(self._contact_class, rows))

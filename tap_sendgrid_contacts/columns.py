"""The columns of contacts, in the order of the rows that decoders yield and outputs write."""

from __future__ import annotations

import copy
import hashlib
import re
from operator import add, itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.column_types import TEXT, ColumnType, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

Row = tuple[Value, ...]
"""The values of a contact, in the order of `ColumnLayout.types`."""

STREAM = "contacts"
"""The only stream."""

PRIMARY_KEY = "contact_id"
"""Not the email: it can be null, since SendGrid also identifies contacts by phone or other ids."""

REPLICATION_KEY = "updated_at"

FORBIDDEN_NAME_CHARS = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
"""Characters msgspec rejects in field names; SendGrid does not allow them either."""

OnInvalidValue = Literal["fail", "null"]


class Column(NamedTuple):
    """A column of the records and the field of the export that fills it.

    Attributes:
        name: Name in the record.
        field: Name in the export: the reserved name, or the custom field's own.
        is_custom: Whether it is a custom field (under `custom_fields` in JSON).
        type: Type of its values.
        is_selected: Whether records have it.
        field_id: Id of the custom field; empty if unknown.
    """

    name: str
    field: str
    is_custom: bool
    type: ColumnType
    is_selected: bool
    field_id: str = ""


class Hasher(NamedTuple):
    """Which columns are hashed, by their names, and the key of the HMAC."""

    columns: frozenset[str]
    key: bytes

    def digest(self) -> str:
        """Return a digest that changes with the columns and the key, and reveals neither."""
        return self.make_hash()(",".join(sorted(self.columns)))[:12]

    def make_hash(self) -> Callable[[str], str]:
        """Return the function from a text to its HMAC-SHA-256 in hex.

        With the key's two blocks hashed once, it takes a third of the time of `hmac.digest`.
        """
        key = self.key if len(self.key) <= 64 else hashlib.sha256(self.key).digest()  # noqa: PLR2004 - SHA-256's block
        copy_inner, copy_outer = (
            hashlib.sha256(bytes(byte ^ pad for byte in key.ljust(64, b"\0"))).copy
            for pad in (0x36, 0x5C)
        )

        def hash_text(text: str) -> str:
            inner = copy_inner()
            inner.update(text.encode())
            outer = copy_outer()
            outer.update(inner.digest())
            return outer.hexdigest()

        return hash_text


class ColumnLayout:
    """Which columns contacts have, and how they are read.

    Args:
        columns: All columns of the catalog, selected or not, reserved ones first.
        on_invalid_value: Whether an invalid value is an error or null.
        stamp: Columns that are the same in all contacts, and not in the export.
        hasher: Which columns are hashed, if any.

    Attributes:
        selected: The columns that contacts have of the export, in order.
        key_index: Index of the key in these.
        stamp: The values of the stamp.
        stamp_index: Where they are in a row: after the reserved columns.
        types: The type of each value of a row by its column's name, in order.
        names: The names of the columns of a row, in order.
        positions: Index of each selected column in a row.
        by_field: All columns by `is_custom` and lower-case field: fields are unique ignoring case.

    Raises:
        ConfigurationError: If a column that is to be hashed is unknown, deselected or no text.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        on_invalid_value: OnInvalidValue,
        stamp: Mapping[str, str | None],
        hasher: Hasher | None,
    ) -> None:
        self.on_invalid_value = on_invalid_value
        self.hasher = hasher
        self.selected = [column for column in columns if column.is_selected]
        self.key_index = [column.name for column in self.selected].index(PRIMARY_KEY)
        self.stamp = tuple(stamp.values())
        self._stamp_names = tuple(stamp)
        self.stamp_index = sum(not column.is_custom for column in self.selected)
        types = [(each.name, each.type) for each in self.selected]
        types[self.stamp_index : self.stamp_index] = [(name, TEXT) for name in stamp]
        self.types = dict(types)
        self.names = list(self.types)
        self.positions = {
            column: i + len(stamp) * column.is_custom for i, column in enumerate(self.selected)
        }
        self.by_field = {(column.is_custom, column.field.lower()): column for column in columns}
        self._hashes: list[tuple[int, Callable[[Any], Value]]] = []
        if hasher:
            _validate_hashed(sorted(hasher.columns), columns, stamp)
            hash_text = hasher.make_hash()
            self._hashes = [
                (i, column_type.make_hash(hash_text))
                for i, (name, column_type) in enumerate(types)
                if name in hasher.columns and column_type.make_hash
            ]
        order = list(range(len(types)))
        for offset, (i, _) in enumerate(self._hashes):
            order[i] = len(types) + offset
        self._replace_hashed: Callable[[Row], Row] = itemgetter(*order)

    def with_stamp(self, values: Mapping[str, str | None]) -> ColumnLayout:
        """Return this layout with the values of its stamp.

        Args:
            values: Values by column name; names that are not selected are ignored.
        """
        layout = copy.copy(self)
        layout.stamp = tuple(values[name] for name in self._stamp_names)
        return layout

    def hash_rows(self, rows: list[Row]) -> list[Row]:
        """Return rows with hashes in place of the values that are to be hashed."""
        if not self._hashes or not rows:
            return rows
        hashed = [
            [None if value is None else hash_value(value) for value in map(itemgetter(i), rows)]
            for i, hash_value in self._hashes
        ]
        # Appended, then moved to their places: half the time of making columns of all values.
        return list(map(self._replace_hashed, map(add, rows, zip(*hashed, strict=True))))


def _validate_hashed(
    names: Iterable[str], columns: Iterable[Column], stamp_names: Collection[str]
) -> None:
    by_name = {column.name: column for column in columns}
    for name in names:
        column = by_name.get(name)
        if name in stamp_names:
            continue
        if column is None:
            problem = "is not in the catalog; names are those of the records, such as email"
        elif not column.is_selected:
            problem = "is deselected"
        elif column.type.make_hash is None:
            problem = f"is of type {column.type}; only texts and lists of texts can be hashed"
        else:
            continue
        raise ConfigurationError(f"hash_columns: column {name:.80} {problem}")

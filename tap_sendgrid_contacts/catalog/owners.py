"""Which custom field owns which column: a column belongs to a field, by its id, for good.

Names can be swapped between fields, and a field can be created again under its old name with
another id or type. Without an owner, such a field would overwrite the values of another one, or
change the type of its column, which some targets reject and others convert.
"""

from __future__ import annotations

import contextlib
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any

import msgspec

from tap_sendgrid_contacts.column_types import COLUMN_TYPES
from tap_sendgrid_contacts.schema import end_in_digest, limit_length

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from tap_sendgrid_contacts.columns import Column

# A column of its own, one for its type, and these two with a digest.
_POSSIBLE_NAMES = 4


class LoadedColumn(msgspec.Struct, frozen=True, omit_defaults=True):
    """A custom column that earlier runs have loaded, as it is in the state.

    Attributes:
        type: Type it was loaded with.
        id: The field that owns it; empty if a catalog without ids or an older state names none.
        retired: Whether its field has left the account, and the log has said so.
    """

    name: str
    type: str
    id: str = ""
    retired: bool = False

    def belongs_to(self, column: Column) -> bool:
        """Return whether the field of a column may be loaded into this one."""
        is_owner = self.id == column.field_id or not (self.id and column.field_id)
        return is_owner and self.type == column.type.name


def read_loaded_columns(saved: object) -> tuple[dict[str, LoadedColumn], bool]:
    """Read the loaded columns from the state.

    Args:
        saved: A list of `LoadedColumn`; or, as states of version 0.1 have it, the types by name.

    Returns:
        The columns by name, and whether all that was saved could be read.
    """
    if isinstance(saved, dict):
        saved = [{"name": name, "type": type_} for name, type_ in saved.items()]
    entries = saved if isinstance(saved, list) else []
    loaded: dict[str, LoadedColumn] = {}
    for entry in entries:
        with contextlib.suppress(msgspec.ValidationError):
            column = msgspec.convert(entry, LoadedColumn)
            if column.type in COLUMN_TYPES:
                loaded.setdefault(column.name, column)
    return loaded, len(loaded) == len(entries) and (saved is None or saved is entries)


def assign_columns(
    columns: Sequence[Column],
    loaded: Mapping[str, LoadedColumn],
    reserved: Collection[str],
    pinned: Collection[str],
) -> dict[str, str]:
    """Assign a column to each custom field: the one it owns, or one that no other field had.

    Args:
        columns: The columns as they are named without regard to what was loaded.
        loaded: The columns that earlier runs have loaded, by name.
        reserved: Names that other fields of the account have, or would have.
        pinned: Names of columns that keep their name, whoever owns it.

    Returns:
        The name of the column to load each of them into, by the name it has in `columns`.
    """
    assigned = {column.name: column.name for column in columns if column.name in pinned}
    for column in columns:
        if column.name in pinned:
            continue
        names = _possible_names(column, loaded)
        owned = [
            name
            for name in islice(names, _POSSIBLE_NAMES)
            if name in loaded and loaded[name].belongs_to(column)
        ]
        free = (
            name
            for name in _possible_names(column, loaded)
            if name not in loaded and (name == column.name or name not in reserved)
        )
        taken = set(assigned.values())
        assigned[column.name] = next(name for name in chain(owned, free) if name not in taken)
    return assigned


def _possible_names(column: Column, loaded: Mapping[str, LoadedColumn]) -> Iterator[str]:
    """Yield the names that a column may have, the best first.

    They depend on nothing that a later run could see otherwise: what was loaded stays loaded.
    """
    yield column.name
    identity = column.field_id or column.field.lower()
    base = column.name
    if base in loaded and loaded[base].type != column.type.name:
        base = f"{base}_{column.type}"
        yield limit_length(base, f"{base} {identity}")
    yield end_in_digest(base, f"{base} {identity}")
    yield from (end_in_digest(base, f"{base} {identity} {number}") for number in count(2))


def update_loaded_columns(
    loaded: Mapping[str, LoadedColumn], columns: Iterable[Column], retired: Collection[str]
) -> list[dict[str, Any]]:
    """Return the loaded columns for the state of a run that loads more of them.

    `retired` are the names of those whose field has left the account.
    """
    updated = {
        name: msgspec.structs.replace(each, retired=name in retired)
        for name, each in loaded.items()
    }
    for column in columns:
        known = updated.get(column.name)
        # A column that keeps its name for a stream map may belong to another field.
        if known is None or known.belongs_to(column):
            id_ = column.field_id or (known.id if known else "")
            updated[column.name] = LoadedColumn(column.name, column.type.name, id_)
    result: list[dict[str, Any]] = msgspec.to_builtins(list(updated.values()))
    return result

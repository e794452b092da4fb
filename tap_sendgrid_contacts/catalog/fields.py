"""Which custom fields a run emits, and into which columns.

A catalog is a wish, not a fact: it may have been edited, or be older than the custom fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.catalog.normalize import REFRESH, quote_names
from tap_sendgrid_contacts.catalog.owners import (
    assign_columns,
    read_loaded_columns,
    update_loaded_columns,
)
from tap_sendgrid_contacts.column_types import TEXT
from tap_sendgrid_contacts.columns import Column
from tap_sendgrid_contacts.schema import (
    CUSTOM_PREFIX,
    column_name,
    columns_from_schema,
    describe_field,
    described_field,
    is_custom,
    normalize_definition,
    source_field,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from tap_sendgrid_contacts.api.client import FieldDefinition
    from tap_sendgrid_contacts.catalog.owners import LoadedColumn


class ColumnPlan(NamedTuple):
    """What a run does about its custom columns.

    Attributes:
        schema: The stream's schema, with the custom columns that are emitted.
        ignored: Columns of the account's other custom fields: deselected, or not in the catalog.
        loaded: The loaded columns for the state, once contacts are emitted.
        warnings: What the log should say.
    """

    schema: dict[str, Any]
    ignored: list[Column]
    loaded: list[dict[str, Any]]
    warnings: list[str]


def plan_columns(
    schema: dict[str, Any],
    fields: Sequence[FieldDefinition] | None,
    is_selected: Callable[[str], bool],
    saved: object,
    pinned: Collection[str],
) -> ColumnPlan:
    """Decide which custom fields are emitted, and into which columns.

    Args:
        schema: Schema of the catalog, or as discovered.
        fields: The account's custom fields; None if the API key may not read them.
        is_selected: Returns whether a column, by name, is selected.
        saved: The loaded columns in the state.
        pinned: Names that settings mention: columns with these are not renamed.

    Raises:
        ConfigurationError: If a column has a type that its field cannot have.
    """
    loaded, is_intact = read_loaded_columns(saved)
    properties = dict(_match_fields(schema["properties"], fields))
    columns = columns_from_schema({"properties": properties}, is_selected)
    custom = [each for each in columns if each.is_custom]
    emitted = [each for each in custom if each.is_selected]
    reserved = {each.name for each in custom} | {column_name(each) for each in fields or ()}
    new_names = assign_columns(emitted, loaded, reserved, pinned)
    known = {each.field.lower() for each in custom}
    unlisted = [
        Column(column_name(each), each.name, is_custom=True, type=TEXT, is_selected=False)
        for each in fields or ()
        if each.name.lower() not in known
    ]
    gone = [name for name in schema["properties"] if name not in properties and is_selected(name)]
    retired = _find_retired(loaded, fields)
    mentioned = {*gone, *new_names, *new_names.values()}
    vanished = sorted(name for name in retired - mentioned if not loaded[name].retired)
    renamed = [each._replace(name=new_names[each.name]) for each in emitted]
    return ColumnPlan(
        schema={
            **schema,
            "properties": {
                new_names.get(name, name): definition
                for name, definition in properties.items()
                if name in new_names or not is_custom(name)
            },
        },
        ignored=[*(each for each in custom if not each.is_selected), *unlisted],
        loaded=update_loaded_columns(loaded, renamed, retired),
        warnings=[
            *_explain_changes(gone, [each.field for each in unlisted], vanished),
            *_explain_new_names(emitted, new_names, loaded),
            *(() if is_intact else ["Ignoring damaged entries of columns in the state"]),
        ],
    )


def _match_fields(
    properties: Mapping[str, dict[str, Any]], fields: Sequence[FieldDefinition] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the columns whose fields exist, described by these.

    A column is that of the field whose id is in its description. Meltano's `schema` extra leaves
    nothing of a definition but the type: there, and in files written by hand, the name counts.
    """
    by_id = {each.id: each for each in fields or ()}
    by_name = {each.name.lower(): each for each in fields or ()}
    by_column = {column_name(each): each for each in fields or ()}
    for name, definition in properties.items():
        described, id_ = described_field(definition)
        if id_ and not is_custom(name):
            raise ConfigurationError(
                f"{quote_names([name])} in the catalog is the column of a custom field, whose "
                f"name begins with {CUSTOM_PREFIX}; to load it under another name, use stream_maps"
            )
        if fields is None or not is_custom(name):
            yield name, definition
            continue
        if id_:
            field = by_id.get(id_)
            is_renamed = field is not None and field.name.lower() != described.lower()
        else:
            field = by_name.get(source_field(name, definition).lower()) or by_column.get(name)
            is_renamed = False
        if field and not is_renamed:
            yield name, normalize_definition(name, definition, field) | describe_field(field)


def _find_retired(
    loaded: Mapping[str, LoadedColumn], fields: Sequence[FieldDefinition] | None
) -> set[str]:
    """Return the names of loaded columns whose field is no longer in the account."""
    if fields is None:
        return {name for name, each in loaded.items() if each.retired}
    ids = {each.id for each in fields}
    names = {column_name(each) for each in fields}
    return {
        name
        for name, each in loaded.items()
        if (
            each.id not in ids
            if each.id
            else names.isdisjoint({name, name.removesuffix(f"_{each.type}")})
        )
    }


def _explain_changes(
    gone: Sequence[str], unlisted: Sequence[str], vanished: Sequence[str]
) -> Iterator[str]:
    """Yield a warning for each kind of columns that are not emitted."""
    if gone:
        yield (
            f"Not emitting columns {quote_names(gone)} of the catalog: their custom fields no "
            "longer exist (deleted, renamed or created again), and null would overwrite what the "
            f"target has; {REFRESH}"
        )
    if unlisted:
        yield (
            f"Ignoring custom fields {quote_names(unlisted)} (not in catalog). To get their "
            f"columns, {REFRESH}"
        )
    if vanished:
        yield (
            f"The custom fields of columns {quote_names(vanished)} are no longer in the account; "
            "the columns keep their values in the target"
        )


def _explain_new_names(
    columns: Iterable[Column], new_names: Mapping[str, str], loaded: Mapping[str, LoadedColumn]
) -> Iterator[str]:
    """Yield a warning for each column that gets another name for the first time."""
    for column in columns:
        name, new_name = column.name, new_names[column.name]
        if new_name == name or new_name in loaded:
            continue
        if loaded[name].type != column.type.name:
            reason = f"The custom field of column {name} has another type than before"
        else:
            reason = f"Column {name} belongs to another custom field, renamed or deleted since"
        yield (
            f"{reason}: {quote_names([column.field])} is loaded into column {new_name} from now "
            f"on, and {name} keeps its values"
        )

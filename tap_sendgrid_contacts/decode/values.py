"""JSON values as the text that CSV has for them, so that both are parsed by the same functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tap_sendgrid_contacts.column_types import (
    COERCION_ERRORS,
    sanitize_list,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tap_sendgrid_contacts.column_types import ColumnType, Value


class JsonNumber(str):
    """The text of a number in JSON, as it is written there."""

    __slots__ = ()


_TEXTS = msgspec.json.Decoder(list[str | None])
_TEXT = msgspec.json.Decoder(str)


def coerce(column_type: ColumnType, value: object) -> Value:
    """Coerce a value that the `json` module has parsed, with numbers as `JsonNumber`.

    Raises:
        Exception: One of `COERCION_ERRORS`, if the value is invalid.
    """
    if isinstance(value, list) and column_type.is_list:
        if any(isinstance(item, JsonNumber) for item in value):
            raise TypeError
        return sanitize_list(value)
    if isinstance(value, bool):
        value = "true" if value else "false"
    text = sanitize_text(value)
    return text and column_type.parse(text)


def needs_no_coercion(column_type: ColumnType, value: object) -> bool:
    """Return whether msgspec decodes a value, of the same kind as in `coerce`, to the right one."""
    try:
        if isinstance(value, JsonNumber):
            decoded = msgspec.json.decode(value, type=column_type.strict)
        else:
            decoded = msgspec.convert(value, column_type.strict)
    except COERCION_ERRORS:
        return False
    return column_type.are_strict is None or column_type.are_strict([decoded])


def coerce_raw(column_type: ColumnType, values: Sequence[Any]) -> Sequence[Value]:
    """Coerce values that msgspec has left undecoded, or None.

    Raises:
        Exception: One of `COERCION_ERRORS`, if a value is invalid.
    """
    try:
        joined = b",".join([value or b"null" for value in values])
        cells = [text or "" for text in _TEXTS.decode(b"[" + joined + b"]")]
    except msgspec.ValidationError:
        # They are not all text.
        cells = [_cell_of(column_type, bytes(value or b"null")) for value in values]
    return column_type.parse_cells(cells)


def _cell_of(column_type: ColumnType, raw: bytes) -> str:
    start = raw[:1]
    if start == b'"':
        return _TEXT.decode(raw)
    if start == b"n":
        return ""
    if start == b"{" or (start == b"[" and not column_type.is_list):
        raise TypeError
    return raw.decode()

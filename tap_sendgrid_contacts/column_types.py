"""The types of columns, one object each: all that differs between them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from typing_extensions import override

from tap_sendgrid_contacts.dates import are_utc, parse_date

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Value = str | int | float | datetime | list[str] | None

COERCION_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, msgspec.ValidationError)
"""Exceptions that mean 'invalid value'."""

_NOT_EMPTY = msgspec.Meta(min_length=1)
_Text = Annotated[str, _NOT_EMPTY]
_Texts = Annotated[list[_Text], _NOT_EMPTY]
_AwareDatetime = Annotated[datetime, msgspec.Meta(tz=True)]

# Python parses no longer integers: the time grows with the square of the length.
_MAX_DIGITS = 4300


@dataclass(frozen=True, eq=False)
class ColumnType:
    """What a type of columns is, in the catalog, in the export and in the outputs.

    No member has a default, so that none is forgotten.

    Attributes:
        name: Name in messages, in the state and in names of columns.
        catalog_name: Name by which a message asks for it in a catalog.
        json_schema: JSON schema in the catalog and in SCHEMA.
        field_types: SendGrid's types of custom fields that have it.
        alternatives: Names of the types that a catalog may give such fields instead.
        strict: Type for msgspec of the JSON values that need no more than decoding.
        are_strict: Whether values decoded as `strict` are right; None if they always are.
        parse: Parses a text that is not empty; raises one of `COERCION_ERRORS`.
        parse_cells: Does the same for many texts at once, where empty ones are null.
        is_list: Whether values are JSON arrays.
        make_hash: Makes the hash function of values of that of texts; None if they are no texts.
        arrow: Returns the type in Parquet and Arrow files; takes the module `pyarrow`, an extra.
    """

    name: str
    catalog_name: str
    json_schema: dict[str, Any]
    field_types: tuple[str, ...]
    alternatives: tuple[str, ...]
    strict: Any
    are_strict: Callable[[Iterable[Any]], bool] | None
    parse: Callable[[str], Value]
    parse_cells: Callable[[Sequence[str]], Sequence[Value]]
    is_list: bool
    make_hash: Callable[[Callable[[str], str]], Callable[[Any], Value]] | None
    arrow: Callable[[Any], Any]

    @override
    def __str__(self) -> str:
        return self.name


def repair_surrogates(text: str) -> str:
    """Join surrogate pairs and drop lone surrogates."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


def sanitize_text(value: object) -> str | None:
    """Return a text without NUL and lone surrogates, or None if it is empty.

    Raises:
        TypeError: If it is no text.
    """
    if not isinstance(value, str):
        raise TypeError
    text = value.replace("\0", "")
    return (text if text.isascii() else repair_surrogates(text)) or None


def sanitize_list(items: Iterable[object]) -> list[str] | None:
    """Return the texts of a list that are not empty, or None; raises as `sanitize_text` does."""
    return [text for item in items if (text := sanitize_text(item))] or None


def _cells_parser(
    parse: Callable[[str], Value], parse_usual: Callable[[list[str]], Sequence[Value] | None]
) -> Callable[[Sequence[str]], Sequence[Value]]:
    """Make `ColumnType.parse_cells`.

    `parse_usual` parses texts in the usual form at once; it returns None, or raises a
    `msgspec.DecodeError`, if one of them is in another form.
    """

    def parse_cells(cells: Sequence[str]) -> Sequence[Value]:
        texts = list(filter(None, cells))
        if not texts:
            return [None] * len(cells)
        try:
            parsed = parse_usual(texts)
        except msgspec.DecodeError:
            parsed = None
        parsed = parsed or list(map(parse, texts))
        if len(parsed) == len(cells):
            return parsed
        values = iter(parsed)
        return [next(values) if cell else None for cell in cells]

    return parse_cells


# --- text -------------------------------------------------------------------------------------


def _parse_text_cells(cells: Sequence[str]) -> Sequence[Value]:
    return cells if all(cells) else [cell or None for cell in cells]


TEXT = ColumnType(
    name="text",
    catalog_name="string",
    json_schema={"type": ["string", "null"]},
    field_types=("Text",),
    alternatives=(),
    strict=_Text | None,
    are_strict=None,
    parse=str,
    parse_cells=_parse_text_cells,
    is_list=False,
    make_hash=lambda hash_text: hash_text,
    arrow=lambda pa: pa.string(),
)


# --- number -----------------------------------------------------------------------------------

_NUMBER = re.compile(r"[+-]?(?:([0-9]+)|(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_NUMBERS = msgspec.json.Decoder(list[int | float])
_INTEGERS = msgspec.json.Decoder(list[int])


def _parse_number(text: str) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError
    if match[1]:
        return int(text)
    number = float(text)
    if math.isinf(number):
        raise ValueError
    return number


def _parse_integer(text: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError
    if match[1]:
        return int(text)
    # 1.0 and 1e3 are whole, and exact beyond the range of doubles.
    number = Decimal(text)
    if number.adjusted() >= _MAX_DIGITS or number != number.to_integral_value():
        raise ValueError
    return int(number)


def _usual_numbers(decoder: msgspec.json.Decoder[Any], texts: list[str]) -> list[Any] | None:
    array = ",".join(texts)
    # JSON allows blanks around numbers, cells do not.
    if " " in array or not array.isprintable():
        return None
    numbers: list[Any] = decoder.decode(f"[{array}]")
    # A cell with a comma would be two numbers.
    return numbers if len(numbers) == len(texts) else None


NUMBER = ColumnType(
    name="number",
    catalog_name="number",
    json_schema={"type": ["number", "null"]},
    field_types=("Number",),
    alternatives=("integer", "text"),
    strict=int | float | None,
    are_strict=None,
    parse=_parse_number,
    parse_cells=_cells_parser(_parse_number, lambda texts: _usual_numbers(_NUMBERS, texts)),
    is_list=False,
    make_hash=None,
    arrow=lambda pa: pa.float64(),
)

INTEGER = ColumnType(
    name="integer",
    catalog_name="integer",
    json_schema={"type": ["integer", "null"]},
    # SendGrid knows no such type, and has decimals in its numbers.
    field_types=(),
    alternatives=(),
    strict=int | None,
    are_strict=None,
    parse=_parse_integer,
    parse_cells=_cells_parser(_parse_integer, lambda texts: _usual_numbers(_INTEGERS, texts)),
    is_list=False,
    make_hash=None,
    arrow=lambda pa: pa.int64(),
)


# --- date -------------------------------------------------------------------------------------


def _usual_dates(texts: list[str]) -> list[datetime] | None:
    dates = msgspec.convert(texts, list[_AwareDatetime])
    return dates if are_utc(dates) else None


DATE = ColumnType(
    name="date",
    catalog_name="date-time",
    json_schema={"type": ["string", "null"], "format": "date-time"},
    field_types=("Date",),
    alternatives=("text",),
    strict=_AwareDatetime | None,
    are_strict=are_utc,
    parse=parse_date,
    parse_cells=_cells_parser(parse_date, _usual_dates),
    is_list=False,
    make_hash=None,
    arrow=lambda pa: pa.timestamp("us", "UTC"),
)


# --- list of texts ----------------------------------------------------------------------------

_LISTS = msgspec.json.Decoder(_Texts)


def _parse_list(text: str) -> list[str] | None:
    # How CSV writes several addresses in one cell is not documented.
    return sanitize_list(json.loads(text) if text.startswith("[") else re.split(r"[,;\s]+", text))


def _usual_lists(texts: list[str]) -> list[list[str]] | None:
    lines = "\n".join(texts)
    # A text that does not start with a bracket is not parsed as JSON; NUL is to be dropped.
    if not all(text.startswith("[") for text in texts) or "\\u0000" in lines:
        return None
    lists = _LISTS.decode_lines(lines)
    # A cell with a line break could be two lists.
    return lists if len(lists) == len(texts) else None


LIST = ColumnType(
    name="list",
    catalog_name="array of strings",
    json_schema={"type": ["array", "null"], "items": {"type": "string"}},
    field_types=(),
    alternatives=(),
    strict=_Texts | None,
    are_strict=None,
    parse=_parse_list,
    parse_cells=_cells_parser(_parse_list, _usual_lists),
    is_list=True,
    make_hash=lambda hash_text: lambda texts: list(map(hash_text, texts)),
    arrow=lambda pa: pa.list_(pa.string()),
)

COLUMN_TYPES = {each.name: each for each in (TEXT, NUMBER, INTEGER, DATE, LIST)}
"""The types by name; with others, some targets drop the column or abort the load."""

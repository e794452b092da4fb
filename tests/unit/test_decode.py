"""Decoders: the same contacts from JSON and CSV, and an error for everything else."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hmac
import io
import json
import logging
import re
from datetime import date, datetime, timedelta, timezone
from itertools import chain
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from singer_sdk.exceptions import ConfigurationError, DataError
from typing_extensions import override

from tap_sendgrid_contacts.api.client import FieldDefinition
from tap_sendgrid_contacts.column_types import INTEGER, TEXT
from tap_sendgrid_contacts.columns import Column, Hasher
from tap_sendgrid_contacts.dates import parse_date
from tap_sendgrid_contacts.decode import csv as csv_decoder
from tap_sendgrid_contacts.decode import make_decoder
from tap_sendgrid_contacts.decode.lines import MAX_ROW_BYTES
from tap_sendgrid_contacts.schema import build_schema, columns_from_schema
from tests.harness import both_file_types
from tests.unit.conftest import make_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tap_sendgrid_contacts.column_types import ColumnType
    from tap_sendgrid_contacts.columns import OnInvalidValue

UTC = timezone.utc
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PACKAGE = "tap_sendgrid_contacts.decode"
FAST = {
    "json": f"{PACKAGE}.jsonl.JsonlDecoder._decode_block",
    "csv": f"{PACKAGE}.csv.CsvDecoder._decode_block",
}
SLOW = {
    "json": f"{PACKAGE}.jsonl.JsonlDecoder._decode_line",
    "csv": f"{PACKAGE}.csv.CsvDecoder._decode_row",
}
LABEL = "Part 2 of 3"
REQUIRED_NAMES = csv_decoder._REQUIRED_NAMES  # noqa: SLF001

COLUMNS = columns_from_schema(
    build_schema(
        [
            FieldDefinition("e1_T", "Plan", "Text"),
            FieldDefinition("e2_N", "Seats", "Number"),
            FieldDefinition("e3_D", "Since", "Date"),
        ],
        separate_exports=False,
    ),
    lambda _: True,
)
NAMES = [column.name for column in COLUMNS]
FIELDS_OF_ACCOUNT = [column.field for column in COLUMNS if column.is_custom]

Values = tuple[object, ...]


@pytest.fixture(autouse=True, scope="module")
def _field_size_limit() -> Iterator[None]:
    """Set the limit of Python's csv, which is one for the whole process, as the program does."""
    limit = csv.field_size_limit(MAX_ROW_BYTES)
    yield
    csv.field_size_limit(limit)


@pytest.fixture(autouse=True)
def _short_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let headers lack what a test is not about."""
    monkeypatch.setattr(f"{PACKAGE}.csv._REQUIRED_NAMES", {"contact_id"})


def select(*names: str) -> list[Column]:
    return [
        column._replace(is_selected=column.name in {"contact_id", *names}) for column in COLUMNS
    ]


def decode(
    file_type: str,
    data: bytes,
    columns: list[Column] = COLUMNS,
    on_invalid_value: OnInvalidValue = "fail",
) -> list[Values]:
    decoder = make_decoder(file_type, make_layout(columns, on_invalid_value))
    return [row for block in decoder.decode(io.BytesIO(data), LABEL) for row in block]


def record(contact: Values) -> dict[str, object]:
    """A contact's values that are not empty."""
    values = zip(NAMES, contact, strict=True)
    return {name: value for name, value in values if value is not None}


def json_lines(*contacts: dict[str, Any], ascii_only: bool = True) -> bytes:
    lines = (json.dumps(contact, ensure_ascii=ascii_only) + "\n" for contact in contacts)
    return "".join(lines).encode("utf-8", "surrogatepass")


def csv_rows(*rows: list[str]) -> bytes:
    """CSV as SendGrid writes it: cells quoted, empty ones bare."""
    lines = (
        ",".join('"' + cell.replace('"', '""') + '"' if cell else "" for cell in row) + "\n"
        for row in rows
    )
    return "".join(lines).encode("utf-8", "surrogatepass")


def csv_contacts(*contacts: dict[str, Any]) -> bytes:
    """Return contacts as `json_lines` takes them in CSV, where fields have no types."""
    rows = [
        {name.upper() if name.islower() else name: value for name, value in contact.items()}
        | contact.get("custom_fields", {})
        for contact in contacts
    ]
    header = [name for name in dict.fromkeys(chain(*rows)) if name != "CUSTOM_FIELDS"]
    return csv_rows(header, *([cell_of(row.get(name, "")) for name in header] for row in rows))


def cell_of(value: object) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)


FILE_OF: dict[str, Callable[..., bytes]] = {"json": json_lines, "csv": csv_contacts}
HEADER_LINES = {"json": 0, "csv": 1}


def one(file_type: str, **fields: Any) -> dict[str, object]:
    """The record of a single contact with these fields."""
    custom = {name: value for name, value in fields.items() if name in FIELDS_OF_ACCOUNT}
    reserved = {name: value for name, value in fields.items() if name not in custom}
    contact = {"contact_id": "a", **reserved, "custom_fields": custom}
    [decoded] = decode(file_type, FILE_OF[file_type](contact))
    values = record(decoded)
    assert values.pop("contact_id") == "a"
    return values


# --- JSON and CSV ---------------------------------------------------------------------------

# Each value goes with the forms JSON and CSV may have for it and with what it means.
Forms = tuple[object, str, object]

PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
TEXTS = st.text(
    st.sampled_from("aB0,;\"'\\\r\n\t\v\f\x1c\0 \x85\u2028\u2029\ufeff\u05d0\u202e\ud83d\ude00")
    | st.characters(),
    min_size=1,
    max_size=12,
) | st.sampled_from(["NA", "null", "007", "[]", "1e5", " ", "\U0001f600", "\ud83d\ude00", "\udead"])


def clean(text: str) -> str | None:
    """The reference: no NUL, surrogates only as the pairs they stand for."""
    text = text.replace("\0", "")
    text = PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return "".join(char for char in text if not "\ud800" <= char <= "\udfff") or None


@st.composite
def text_forms(draw: st.DrawFn) -> Forms:
    text = draw(TEXTS)
    assume(not re.search("[\ud800-\udbff]\0+[\udc00-\udfff]", text))
    return text, text, clean(text)


@st.composite
def number_forms(draw: st.DrawFn) -> Forms:
    number: float = draw(
        st.integers()
        | st.integers(min_value=-(10**60), max_value=10**60)
        | st.floats(allow_nan=False, allow_infinity=False)
    )
    return draw(st.sampled_from([number, str(number)])), str(number), number


DATE_FORMS = st.sampled_from(
    [
        *("Z", "z", "none", "offset", "blank", "blank Z"),
        *("day", "US day", "short US day"),
        *("Go", "Go with name", "Go with offset as name"),
        *("epoch", "epoch number"),
    ]
)
MIDNIGHTS = st.dates(date(2, 1, 1), date(5000, 1, 1)).map(
    lambda day: datetime(day.year, day.month, day.day)  # noqa: DTZ001 - as hypothesis has them
)


@st.composite
def date_forms(draw: st.DrawFn) -> Forms:
    naive = draw(
        st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1))  # noqa: DTZ001 - as hypothesis has them
        | MIDNIGHTS
    ).replace(fold=0)
    form = draw(DATE_FORMS)
    parsed = naive.replace(tzinfo=UTC)
    day = parsed.replace(hour=0, minute=0, second=0, microsecond=0)
    minutes = draw(st.integers(-23 * 60, 23 * 60))
    shifted = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    seconds = (parsed - EPOCH) // timedelta(seconds=1)
    offset = f"{shifted:%z}"
    if form.startswith("epoch"):
        # Others may be years, days or milliseconds.
        assume(9 <= len(str(abs(seconds))) <= 11 or seconds % 86_400 == 0)
        in_json = seconds if form == "epoch number" else str(seconds)
        return in_json, str(seconds), parsed.replace(microsecond=0)
    text, value = {
        "Z": (f"{naive.isoformat()}Z", parsed),
        "z": (f"{naive.isoformat()}z", parsed),
        "none": (naive.isoformat(), parsed),
        "offset": (shifted.isoformat(), shifted.astimezone(UTC)),
        "blank": (naive.isoformat(" "), parsed),
        "blank Z": (f"{naive.isoformat(' ')}Z", parsed),
        "day": (naive.date().isoformat(), day),
        "US day": (f"{naive:%m/%d/}{naive.year:04}", day),
        "short US day": (f"{naive.month}/{naive.day}/{naive.year:04}", day),
        "Go": (f"{naive.isoformat(' ')} {offset}", shifted.astimezone(UTC)),
        "Go with name": (f"{naive.isoformat(' ')} +0000 UTC", parsed),
        "Go with offset as name": (
            f"{naive.isoformat(' ')} {offset} {offset}",
            shifted.astimezone(UTC),
        ),
    }[form]
    return text, text, value


@st.composite
def list_forms(draw: st.DrawFn) -> Forms:
    addresses = draw(
        st.lists(st.from_regex(r"[a-z0-9.+]{1,5}@[a-z\u00fc]{1,5}", fullmatch=True), max_size=3)
    )
    texts = [json.dumps(addresses), *(each.join(addresses) for each in (",", ", ", ";", " ", "\n"))]
    text = draw(st.sampled_from(texts))
    return draw(st.sampled_from([addresses, [*addresses, ""], text])), text, addresses or None


FORMS = {"text": text_forms(), "number": number_forms(), "date": date_forms(), "list": list_forms()}
EMPTY: Forms = ("", "", None)


@st.composite
def contact_forms(draw: st.DrawFn) -> dict[Column, Forms]:
    key, *others = COLUMNS
    chosen = draw(st.lists(st.sampled_from(others), unique=True, max_size=6))
    forms = {column: draw(FORMS[column.type.name] | st.just(EMPTY)) for column in chosen}
    name = draw(TEXTS.filter(lambda text: clean(text) is not None))
    return {key: (name, name, clean(name)), **forms}


def as_json(contact: dict[Column, Forms], *, nulls: bool) -> dict[str, Any]:
    fields: dict[bool, dict[str, object]] = {False: {}, True: {}}
    for column in COLUMNS:
        if column in contact:
            fields[column.is_custom][column.field] = contact[column][0]
        elif nulls:
            fields[column.is_custom][column.field] = None
    return {**fields[False], "custom_fields": fields[True] or None}


def typed(contacts: list[Values]) -> list[list[tuple[type, str]]]:
    """Values with their types: 1 is not 1.0 here, nor one zone another."""
    return [[(type(value), repr(value)) for value in contact] for contact in contacts]


@settings(max_examples=100, deadline=None)
@given(
    contacts=st.lists(contact_forms(), min_size=1, max_size=4),
    order=st.permutations(COLUMNS),
    ascii_only=st.booleans(),
    nulls=st.booleans(),
    compress=st.sampled_from([bytes, gzip.compress]),
)
def test_json_and_csv_give_the_same_contact(
    contacts: list[dict[Column, Forms]],
    order: list[Column],
    ascii_only: bool,  # noqa: FBT001 - drawn
    nulls: bool,  # noqa: FBT001 - drawn
    compress: Any,  # noqa: ANN401 - drawn
) -> None:
    expected = [tuple(contact.get(column, EMPTY)[2] for column in COLUMNS) for contact in contacts]
    lines = json_lines(
        *(as_json(contact, nulls=nulls) for contact in contacts), ascii_only=ascii_only
    )
    rows = csv_rows(
        [column.field if column.is_custom else column.field.upper() for column in order],
        *([contact.get(column, EMPTY)[1] for column in order] for contact in contacts),
    )
    assert typed(decode("json", compress(lines))) == typed(expected)
    assert typed(decode("csv", compress(rows))) == typed(expected)


def test_byte_order_mark_may_be_a_gzip_member_of_its_own() -> None:
    data = gzip.compress("\ufeff".encode()) + gzip.compress(json_lines({"contact_id": "a"}))
    assert len(decode("json", data)) == 1


@both_file_types
@pytest.mark.parametrize(
    ("written", "text"),
    [
        *(
            (text, text)
            for text in (
                " blanks ",
                "line\nbreaks\r\nof\rall\x0bkinds\x85\u2028\u2029",
                'quotes " and ""',
                "commas, and; others",
                "back\\slash \\u0000 \\n",
                "007",
                "NA",
                "null",
                "=1+1",
                "\U0001f600 \u05e9\u05dc\u05d5\u05dd \u202e",
                "\ufeffinside",
                "x" * 200_000,
            )
        ),
        ("a\0b", "ab"),
        ("a\ud800b", "ab"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\0", None),
        ("\udfff", None),
        ("", None),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_text_is_kept_to_the_character(file_type: str, written: str, text: str | None) -> None:
    assert one(file_type, first_name=written, Plan=written) == (
        {} if text is None else {"first_name": text, "custom_plan": text}
    )


@both_file_types
@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("-5", -5),
        ("+5", 5),
        ("9007199254740993", 9007199254740993),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("1" * 400, int("1" * 400)),
        ("0.1", 0.1),
        ("1.0", 1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e5", 100000.0),
        ("1E-2", 0.01),
        ("", None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_number_in_text(file_type: str, written: str, number: float | None) -> None:
    value = one(file_type, Seats=written).get("custom_seats")
    assert (type(value), value) == (type(number), number)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        (b"0", 0),
        (b"-0", 0),
        (b"9007199254740993", 9007199254740993),
        (b"-123456789012345678901234567890", -123456789012345678901234567890),
        (b"1" * 400, int("1" * 400)),
        (b"1.0", 1.0),
        (b"0.1", 0.1),
        (b"1e5", 100000.0),
        (b"null", None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_json_number(written: bytes, number: float | None) -> None:
    [contact] = decode("json", b'{"contact_id":"a","custom_fields":{"Seats":%s}}' % written)
    value = record(contact).get("custom_seats")
    assert (type(value), value) == (type(number), number)


def as_types(**types: ColumnType) -> list[Column]:
    """Return the columns with other types for some custom fields, as a catalog may have them."""
    return [
        column._replace(type=types.get(column.field, column.type)) if column.is_custom else column
        for column in COLUMNS
    ]


def json_token(field: str, token: str, quote: str) -> bytes:
    """Return two contacts with a value in its JSON notation, in quotes or not."""
    line = f'{{"contact_id":"a","custom_fields":{{"{field}": {quote}{token}{quote} }}}}\n'
    return (line * 2).encode()


def csv_token(field: str, token: str, _quote: str) -> bytes:
    """Return the same in CSV, where all values are text."""
    return csv_rows(["CONTACT_ID", field], *[["a", token]] * 2)


TOKEN_OF = {"json": json_token, "csv": csv_token}


@both_file_types
@pytest.mark.parametrize("field", ["Plan", "Seats", "Since"])
@pytest.mark.parametrize(
    "token",
    [
        *("0", "-0", "12.50", "1e400", "9007199254740993", "1" * 5000, "1E-2", "true", "false"),
        *("2020-01-02", "2020-01-02T03:04:05.1+02:00"),
    ],
    ids=lambda token: token[:20],
)
def test_text_column_has_any_value_as_it_is_written(file_type: str, field: str, token: str) -> None:
    columns = as_types(**{field: TEXT})
    data = TOKEN_OF[file_type](field, token, '"' if "-01-" in token else "")
    contacts = [record(contact) for contact in decode(file_type, data, columns)]
    assert contacts == [{"contact_id": "a", f"custom_{field.lower()}": token}] * 2


@pytest.mark.parametrize("field", ["email", "contact_id"])
def test_reserved_text_column_has_numbers_and_booleans_as_their_json_text(field: str) -> None:
    lines = [{"contact_id": "a", field: value} for value in ("x", 12.5, True, 10**20)]
    contacts = decode("json", json_lines(*lines, *lines))
    values = [contact[NAMES.index(field)] for contact in contacts]
    assert values == ["x", "12.5", "true", "1" + "0" * 20] * 2


@both_file_types
@pytest.mark.parametrize(
    ("token", "number"),
    [
        *(
            ("0", 0),
            ("-0", 0),
            ("-5", -5),
            ("9007199254740993", 2**53 + 1),
            ("1.0", 1),
            ("1e3", 1000),
        ),
        *(("-25.00e1", -250), ("1e30", 10**30), ("1" * 400, int("1" * 400)), ("0.0", 0)),
        *(("1.5", None), ("1e-1", None), ("1e400000000", None), ("1e-400000000", None)),
        *(("1" * 5000, None), ("true", None), ("9007199254740992.5", None)),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("quote", ["", '"'], ids=["number", "text"])
def test_integer_column_has_whole_numbers_exactly(
    file_type: str, token: str, number: int | None, quote: str
) -> None:
    columns = as_types(Seats=INTEGER)
    data = TOKEN_OF[file_type]("Seats", token, quote)
    contacts = decode(file_type, data, columns, "null")
    values = [contact[NAMES.index("custom_seats")] for contact in contacts]
    assert [(type(value), value) for value in values] == [(type(number), number)] * 2
    if number is None:
        with pytest.raises(DataError, match="column custom_seats: invalid integer value"):
            decode(file_type, data, columns)


@both_file_types
@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2020-06-19T10:05:25Z", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        ("2020-06-19T10:05:25.123456Z", datetime(2020, 6, 19, 10, 5, 25, 123456, tzinfo=UTC)),
        ("2020-06-19T10:05:25+02:00", datetime(2020, 6, 19, 8, 5, 25, tzinfo=UTC)),
        ("2020-06-19T10:05:25-23:59", datetime(2020, 6, 20, 10, 4, 25, tzinfo=UTC)),
        ("2020-06-19T10:05:25+00:00", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        ("2020-06-19T10:05:25", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        ("2020-06-19 10:05:25Z", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        ("2020-06-19 10:05:25", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        ("2020-06-19T10:05:25+0200", datetime(2020, 6, 19, 8, 5, 25, tzinfo=UTC)),
        ("2020-06-19T10:05:25.1Z", datetime(2020, 6, 19, 10, 5, 25, 100_000, tzinfo=UTC)),
        ("2020-06-19T10:05:25.123456789Z", datetime(2020, 6, 19, 10, 5, 25, 123457, tzinfo=UTC)),
        ("2020-06-19 10:05:25 +0000 UTC", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        ("2020-06-19 10:05:25.5 -0700 PDT", datetime(2020, 6, 19, 17, 5, 25, 500_000, tzinfo=UTC)),
        ("2020-06-19 10:05:25 +0330 +0330", datetime(2020, 6, 19, 6, 35, 25, tzinfo=UTC)),
        ("0001-01-01 00:00:00 +0000 UTC", datetime(1, 1, 1, tzinfo=UTC)),
        ("1592561125", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        ("100000000", datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        ("99999999999", datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        ("-1592561125", datetime(1919, 7, 15, 13, 54, 35, tzinfo=UTC)),
        ("0", EPOCH),
        ("86400", datetime(1970, 1, 2, tzinfo=UTC)),
        ("-86400", datetime(1969, 12, 31, tzinfo=UTC)),
        ("2020-02-29", datetime(2020, 2, 29, tzinfo=UTC)),
        ("06/19/2020", datetime(2020, 6, 19, tzinfo=UTC)),
        ("6/9/2020", datetime(2020, 6, 9, tzinfo=UTC)),
        ("1592561125000", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        ("-1592561125001", datetime(1919, 7, 15, 13, 54, 34, 999_000, tzinfo=UTC)),
        ("1592561125.0", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        ("2020-06-19T10:05Z", datetime(2020, 6, 19, 10, 5, tzinfo=UTC)),
        ("2020-06-19 10:05+02:00", datetime(2020, 6, 19, 8, 5, tzinfo=UTC)),
        ("2020-06-19T10:05", datetime(2020, 6, 19, 10, 5, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2016-12-31T23:59:60.5Z", datetime(2017, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("2017-01-01T05:29:60+05:30", datetime(2017, 1, 1, tzinfo=UTC)),
        ("", None),
    ],
)
def test_date_forms(file_type: str, written: str, moment: datetime | None) -> None:
    values = one(file_type, created_at=written, Since=written)
    assert values == ({} if moment is None else {"created_at": moment, "custom_since": moment})
    assert parse_date(written or "2020-01-01").tzinfo is UTC


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"1592561125", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        (b"1592561125.0", datetime(2020, 6, 19, 10, 5, 25, tzinfo=UTC)),
        (b"86400", datetime(1970, 1, 2, tzinfo=UTC)),
        (b"0", EPOCH),
        (b"null", None),
    ],
    ids=str,
)
def test_json_number_as_date(written: bytes, expected: datetime | None) -> None:
    line = b'{"contact_id":"a","custom_fields":{"Since":%s}}\n' % written
    contacts = [record(contact) for contact in decode("json", line * 2)]
    assert [contact.get("custom_since") for contact in contacts] == [expected] * 2


@both_file_types
@pytest.mark.parametrize(
    ("written", "emails"),
    [
        ("a@x", ["a@x"]),
        ("a@x,b@x", ["a@x", "b@x"]),
        ("a@x, b@x", ["a@x", "b@x"]),
        ("a@x;b@x", ["a@x", "b@x"]),
        (" a@x b@x\n", ["a@x", "b@x"]),
        ('["a@x","b@x"]', ["a@x", "b@x"]),
        ('["a@x",""]', ["a@x"]),
        ("[]", None),
        (" , ", None),
        ("", None),
    ],
)
def test_list_forms(file_type: str, written: str, emails: list[str] | None) -> None:
    assert one(file_type, alternate_emails=written).get("alternate_emails") == emails


@pytest.mark.parametrize(
    ("written", "emails"),
    [(["a@x", "", "b\0@x"], ["a@x", "b@x"]), ([], None), ([""], None), (None, None)],
)
def test_json_list(written: object, emails: list[str] | None) -> None:
    assert one("json", alternate_emails=written).get("alternate_emails") == emails


# --- fast path and slow path ----------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from(["", "2020-01-01", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00+01:00", "5"])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=2)
FIELDS = st.sampled_from(["contact_id", "email", "EMAIL", "alternate_emails", "created_at", "new"])
CUSTOM_FIELDS = st.sampled_from(["Plan", "plan", "Seats", "Since", "city", "New"])


ON_INVALID_VALUE = st.sampled_from(["fail", "null"])


class LogCapture(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    @override
    def emit(self, log_record: logging.LogRecord) -> None:
        self.messages.append(log_record.getMessage())


def outcome(
    file_type: str, data: bytes, columns: list[Column], on_invalid_value: OnInvalidValue
) -> tuple[object, list[str]]:
    """Return the contacts or the error, and what was logged."""
    handler = LogCapture()
    logger = logging.getLogger(PACKAGE)
    decoder = make_decoder(file_type, make_layout(columns, on_invalid_value))
    logger.addHandler(handler)
    try:
        blocks = list(decoder.decode(io.BytesIO(data), LABEL))
        decoder.log_invalid_values()
    except DataError as error:
        return str(error), handler.messages
    finally:
        logger.removeHandler(handler)
    return typed([row for block in blocks for row in block]), handler.messages


def assert_paths_agree(
    file_type: str, data: bytes, columns: list[Column], on_invalid_value: OnInvalidValue
) -> None:
    with patch(FAST[file_type], lambda *_: None):
        slow = outcome(file_type, data, columns, on_invalid_value)
    assert outcome(file_type, data, columns, on_invalid_value) == slow


SELECTIONS = st.sampled_from(
    [COLUMNS, select("email", "custom_seats", "alternate_emails"), select("custom_since")]
)


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(
        st.fixed_dictionaries(
            {"contact_id": st.just("a") | st.just("a") | VALUES},
            optional={"custom_fields": st.dictionaries(CUSTOM_FIELDS, VALUES, max_size=3)},
        ).flatmap(
            lambda contact: st.dictionaries(FIELDS, VALUES, max_size=3).map(
                lambda more: {**more, **contact}
            )
        ),
        max_size=4,
    ),
    columns=SELECTIONS,
    on_invalid_value=ON_INVALID_VALUE,
)
@example(
    lines=[{"contact_id": "a", "alternate_emails": "\ud800"}],
    columns=COLUMNS,
    on_invalid_value="fail",
)
def test_json_fast_path_equals_slow_path(
    lines: list[dict[str, Any]], columns: list[Column], on_invalid_value: OnInvalidValue
) -> None:
    data = json_lines(*lines)
    assert_paths_agree("json", data, columns, on_invalid_value)


CELLS = st.sampled_from(["", "a", "5", "1e400", "2020-01-01", "2020-01-01T00:00:00Z", "[]", '["'])


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(CELLS | TEXTS, min_size=4, max_size=6), max_size=4),
    header=st.permutations(["CONTACT_ID", "CREATED_AT", "Seats", "ALTERNATE_EMAILS", "EMAIL"]),
    columns=SELECTIONS,
    on_invalid_value=ON_INVALID_VALUE,
)
def test_csv_fast_path_equals_slow_path(
    rows: list[list[str]],
    header: list[str],
    columns: list[Column],
    on_invalid_value: OnInvalidValue,
) -> None:
    data = csv_rows(header, *(row if len(row) == 4 else (row * 2)[:5] for row in rows))
    assert_paths_agree("csv", data, columns, on_invalid_value)


LIST_CELLS = st.lists(
    st.sampled_from(
        [
            *('["a"]', '["b","c"]', "[]", '[""]', '["a"', ',"b"]', '"', "[", "]", "\n", "\r\n"),
            *("\\u0000", "\\u0041", "\\ud83d\\ude00", "\\ud800", "null", "1", "é", "a@x", " ", ";"),
        ]
    ),
    max_size=4,
).map("".join)


@settings(max_examples=250, deadline=None)
@given(cells=st.lists(LIST_CELLS, min_size=1, max_size=4))
@example(cells=['["a"]\n["b"]', '["c"]'])
@example(cells=['["a"]\n', '["c"]'])
@example(cells=[' ["a"]', '["c"]'])
@example(cells=['["a\\u0000"]', '["c"]'])
@example(cells=['["a"', '"b"]'])
def test_lists_of_csv_are_the_same_at_once_and_one_by_one(cells: list[str]) -> None:
    data = csv_rows(["CONTACT_ID", "ALTERNATE_EMAILS"], *(["a", cell] for cell in cells))
    assert_paths_agree("csv", data, COLUMNS, "fail")


@both_file_types
def test_plain_contacts_take_the_fast_path(file_type: str) -> None:
    # Or the two tests above compare the slow path with itself.
    fields = {"email": "x@y", "created_at": "2020-01-01T00:00:00Z", "Seats": 5, "Plan": "p"}
    with patch(SLOW[file_type]) as slow:
        assert len(one(file_type, **fields)) == 4
    assert not slow.called


# --- on_invalid_value ------------------------------------------------------------------------


def part_of(file_type: str, *seats: str, email: str = "x@y") -> bytes:
    """Return a part whose contacts have these seats."""
    contact = {"contact_id": "a", "email": email}
    return FILE_OF[file_type](*(contact | {"custom_fields": {"Seats": each}} for each in seats))


@both_file_types
def test_invalid_value_becomes_null_and_others_stay(
    file_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    columns = select("email", "custom_seats")
    decoder = make_decoder(file_type, make_layout(columns, "null"))
    data = part_of(file_type, "1", "private", "3", "private too", "")
    contacts = [
        contact
        for _ in range(2)
        for block in decoder.decode(io.BytesIO(data), LABEL)
        for contact in block
    ]
    assert [contact[2] for contact in contacts] == [1, None, 3, None, None] * 2
    assert {contact[1] for contact in contacts} == {"x@y"}
    (warning,) = caplog.messages
    assert f"{LABEL}, line {2 + HEADER_LINES[file_type]}, column custom_seats" in warning
    caplog.clear()
    decoder.log_invalid_values()
    assert caplog.messages == ["Column custom_seats: 4 invalid number value(s) emitted as null"]
    assert "private" not in warning


@both_file_types
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_locating_an_invalid_value_does_not_disturb_reading(
    file_type: str,
    compress: Any,  # noqa: ANN401 - either
    caplog: pytest.LogCaptureFixture,
) -> None:
    seats = [str(i) if i != 1500 else "private" for i in range(3000)]
    data = compress(part_of(file_type, *seats, email="x" * 100))
    contacts = [record(contact) for contact in decode(file_type, data, on_invalid_value="null")]
    assert [contact.get("custom_seats") for contact in contacts] == [
        None if i == 1500 else i for i in range(3000)
    ]
    assert f"line {1501 + HEADER_LINES[file_type]}, " in caplog.text


@both_file_types
def test_valid_values_are_not_warned_of(file_type: str, caplog: pytest.LogCaptureFixture) -> None:
    decoder = make_decoder(file_type, make_layout(select("email", "custom_seats"), "null"))
    list(decoder.decode(io.BytesIO(part_of(file_type, "1", "")), LABEL))
    decoder.log_invalid_values()
    assert caplog.messages == []


# --- fields and columns ---------------------------------------------------------------------


@both_file_types
def test_deselected_columns_are_not_even_coerced(file_type: str) -> None:
    reserved = {"contact_id": "a", "email": "x@y", "created_at": "no date"}
    custom = {"Seats": "no number", "Plan": "p"}
    data = FILE_OF[file_type]({**reserved, "custom_fields": custom})
    assert decode(file_type, data, select("email", "custom_plan")) == [("a", "x@y", "p")]


@pytest.mark.parametrize("custom", [None, {}])
def test_contact_may_have_no_custom_fields(custom: object) -> None:
    contacts = decode(
        "json", json_lines({"contact_id": "a"}, {"contact_id": "b", "custom_fields": custom})
    )
    assert [record(contact) for contact in contacts] == [{"contact_id": "a"}, {"contact_id": "b"}]


NAMESAKES = columns_from_schema(
    build_schema([FieldDefinition("e1_T", "City", "Text")], separate_exports=False), lambda _: True
)


def test_json_tells_a_custom_field_from_a_reserved_one_of_the_same_name() -> None:
    data = json_lines({"contact_id": "a", "city": "r", "custom_fields": {"City": "c"}})
    [contact] = decode("json", data, NAMESAKES)
    assert contact[NAMES.index("city")] == "r"
    assert contact[-1] == "c"


@pytest.mark.parametrize(
    ("header", "reserved", "custom"),
    [(["City", "CITY"], "2", "1"), (["CITY", "city"], "1", "2"), (["CITY"], "1", None)],
)
def test_csv_tells_them_by_the_upper_case_of_reserved_names(
    header: list[str], reserved: str, custom: str | None
) -> None:
    [contact] = decode(
        "csv", csv_rows([*header, "CONTACT_ID"], [*["1", "2"][: len(header)], "a"]), NAMESAKES
    )
    assert (contact[NAMES.index("city")], contact[-1]) == (reserved, custom)


@pytest.mark.parametrize("header", [["City"], ["CITY", "CITY"], ["city", "City"]])
@pytest.mark.parametrize("is_selected", [True, False])
def test_csv_that_does_not_tell_them_is_an_error(header: list[str], *, is_selected: bool) -> None:
    columns = [*NAMESAKES[:-1], NAMESAKES[-1]._replace(is_selected=is_selected)]
    data = csv_rows(["CONTACT_ID", *header], ["a", *["private"] * len(header)])
    with pytest.raises(
        DataError, match=r"column (custom_)?city .* Set file_type to json"
    ) as raised:
        decode("csv", data, columns)
    assert "private" not in str(raised.value)


@pytest.mark.parametrize("header", [["CITY", "City"], ["City", "CITY"]])
def test_field_named_like_a_reserved_one_and_not_in_the_catalog_is_an_error(
    header: list[str],
) -> None:
    with pytest.raises(DataError, match="column city is uncertain"):
        decode("csv", csv_rows(["CONTACT_ID", *header], ["a", "b", "c"]))


@both_file_types
def test_fields_are_matched_whatever_their_case(file_type: str) -> None:
    expected = {"contact_id": "a", "email": "x@y", "custom_plan": "p", "custom_seats": 5}
    for contact in (
        {"Contact_Id": "a", "Email": "x@y", "custom_fields": {"PLAN": "p", "seats": 5}},
        {"contact_id": "a", "EMAIL": "x@y", "custom_fields": {"Plan": "p", "Seats": 5}},
    ):
        contacts = decode(file_type, FILE_OF[file_type](contact, contact))
        assert [record(each) for each in contacts] == [expected] * 2


def test_other_spelling_is_learned() -> None:
    line = json_lines({"contact_id": "a", "EMAIL": "x@y", "New": 1, "custom_fields": {"PLAN": "p"}})
    decode = make_decoder("json", make_layout(COLUMNS)).decode
    expected = list(decode(io.BytesIO(line), LABEL))
    with patch(SLOW["json"]) as slow:
        assert list(decode(io.BytesIO(line * 2), LABEL)) == [expected[0] * 2]
    assert not slow.called


def test_alternating_spellings_rebuild_the_struct_once_each() -> None:
    lines = [{"contact_id": "a", "EMAIL": "x@y"}, {"contact_id": "a", "email": "x@y"}] * 3
    with patch("msgspec.defstruct", wraps=msgspec.defstruct) as made:
        contacts = decode("json", json_lines(*lines))
    assert [record(contact)["email"] for contact in contacts] == ["x@y"] * 6
    # Two at first, and two for each spelling learned: not two for every line.
    assert made.call_count == 6


OTHER_FORMS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "empty text": ({"city": ""}, {}),
    "list as text": ({"alternate_emails": "x@y,z@y"}, {}),
    "list with an empty text": ({"alternate_emails": ["x@y", ""]}, {}),
    "empty list": ({"alternate_emails": []}, {}),
    "number as text": ({}, {"Seats": "5"}),
    "day": ({}, {"Since": "2020-06-19"}),
    "US day": ({}, {"Since": "6/19/2020"}),
    "date elsewhere": ({"created_at": "2020-06-19T12:00:00+02:00"}, {}),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_other_forms_are_learned(form: str) -> None:
    reserved, custom_fields = OTHER_FORMS[form]
    full = {"contact_id": "a", "email": "x@y", **reserved, "custom_fields": custom_fields}
    line, empty = json_lines(full), json_lines({"contact_id": "b"})
    decode = make_decoder("json", make_layout(COLUMNS)).decode
    ((expected,),) = decode(io.BytesIO(line), LABEL)
    with patch(SLOW["json"]) as slow:
        assert next(decode(io.BytesIO(line * 2 + empty), LABEL))[:2] == [expected] * 2
    assert not slow.called


def test_csv_row_over_several_lines_is_named_by_its_first() -> None:
    data = csv_rows(["CONTACT_ID", "EMAIL", "Seats"], ["a", "1\n2\n3", "5"], ["b", "x\ny", "no"])
    with pytest.raises(DataError, match=f"^{LABEL}, line 5, column custom_seats"):
        decode("csv", data)


@pytest.mark.parametrize("name", ["__init__", "_2", "class", "a b", "é", ""])
@both_file_types
def test_catalog_may_have_odd_names(file_type: str, name: str) -> None:
    columns = [*select("email"), Column(name, "odd", is_custom=True, type=TEXT, is_selected=True)]
    data = FILE_OF[file_type]({"contact_id": "a", "custom_fields": {"odd": "x"}})
    assert decode(file_type, data, columns) == [("a", None, "x")]


def test_unknown_field_with_an_invalid_name_slows_its_own_lines_only() -> None:
    odd, plain = json_lines({"contact_id": "a", 'q"': 1}), json_lines({"contact_id": "b"})
    decode = make_decoder("json", make_layout(COLUMNS)).decode
    assert len(list(decode(io.BytesIO(odd + plain), LABEL))) == 1
    with patch(SLOW["json"]) as slow:
        list(decode(io.BytesIO(plain), LABEL))
    assert not slow.called


def test_invalid_value_is_found_after_learning() -> None:
    lines = [{"contact_id": "a", "custom_fields": {"Seats": seats}} for seats in ("5", "5", "five")]
    with pytest.raises(DataError, match=f"{LABEL}, line 3, column custom_seats"):
        decode("json", json_lines(*lines))


@both_file_types
def test_unknown_field_is_warned_of_once_and_ignored(
    file_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = FILE_OF[file_type](*[{"contact_id": "a", "custom_fields": {"Newest": "private"}}] * 3)
    decode = make_decoder(file_type, make_layout(select())).decode
    for _ in range(2):
        assert [row for block in decode(io.BytesIO(data), LABEL) for row in block] == [("a",)] * 3
    [warning] = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "Newest" in warning
    assert "--refresh-catalog" in warning
    assert "private" not in caplog.text


def test_unknown_field_is_named_without_an_address(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"contact_id": "a", "private@example.com": 1, "custom_fields": {"SG.private.key": 2}}
    assert decode("json", json_lines(fields), select()) == [("a",)]
    assert len(caplog.messages) == 2
    assert "private" not in caplog.text


@both_file_types
def test_deselected_and_known_fields_are_not_warned_of(
    file_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    contact = {"contact_id": "a", "email": "x@y", "custom_fields": {"PLAN": "p"}}
    data = FILE_OF[file_type](contact)
    assert decode(file_type, data, select()) == [("a",)]
    assert caplog.records == []


@both_file_types
def test_column_missing_in_the_file_is_null(file_type: str) -> None:
    data = FILE_OF[file_type]({"contact_id": "a"})
    assert decode(file_type, data) == [("a", *[None] * (len(COLUMNS) - 1))]


# --- files ----------------------------------------------------------------------------------


@both_file_types
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_empty_file_has_no_contacts(file_type: str, compress: Any) -> None:  # noqa: ANN401 - either
    assert decode(file_type, compress(b"")) == []


@pytest.mark.parametrize("data", [b"\n", b"\n\n\n", b"\r\n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_csv_of_blank_lines_without_header_is_an_error(data: bytes, compress: Any) -> None:  # noqa: ANN401 - either
    with pytest.raises(DataError, match=f"^{LABEL}: no CSV header"):
        decode("csv", compress(data))


def test_json_of_blank_lines_has_no_contacts() -> None:
    assert decode("json", b"\n \n\r\n") == []


@pytest.mark.parametrize("data", [b'"CONTACT_ID","EMAIL"\n', b'"CONTACT_ID","EMAIL"'])
def test_header_alone_has_no_contacts(data: bytes) -> None:
    assert decode("csv", data) == []


FILES = {
    "json": json_lines(*({"contact_id": str(i), "email": "x\u2028" * i} for i in range(300))),
    "csv": csv_rows(["CONTACT_ID", "EMAIL"], *([str(i), "x\n" * i] for i in range(300))),
}


@both_file_types
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: b"\xef\xbb\xbf" + data, id="BOM"),
        pytest.param(lambda data: data[:-1], id="no line break at the end"),
        pytest.param(lambda data: data + b"\n\n", id="empty lines"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(
            lambda data: b"".join(
                gzip.compress(each) for each in (b"", data[:777], b"", data[777:])
            ),
            id="gzip in members",
        ),
        pytest.param(lambda data: gzip.compress(data) + b"\0" * 512, id="padded gzip"),
        pytest.param(lambda data: gzip.compress(b"\xef\xbb\xbf" + data), id="gzip with BOM"),
    ],
)
def test_encoding_of_the_file_does_not_matter(file_type: str, change: Any) -> None:  # noqa: ANN401 - a function
    contacts = decode(file_type, change(FILES[file_type]))
    assert len(contacts) == 300
    assert contacts == decode(file_type, FILES[file_type])
    assert [len(str(record(each).get("email", ""))) for each in contacts] == [
        2 * i for i in range(300)
    ]


@pytest.mark.parametrize("data", [b'{"contact_id":"a"}\r\n', b' \t{ "contact_id" : "a" } \n'])
def test_blanks_around_json_do_not_matter(data: bytes) -> None:
    assert [record(contact) for contact in decode("json", data)] == [{"contact_id": "a"}]


def test_control_characters_that_json_forbids_are_kept() -> None:
    data = b'{"contact_id":"a","email":"x\ry\tz\x1f"}\n{"contact_id":"b"}\n'
    assert [record(contact) for contact in decode("json", data)] == [
        {"contact_id": "a", "email": "x\ry\tz\x1f"},
        {"contact_id": "b"},
    ]


def test_csv_may_have_bare_cells_and_crlf() -> None:
    data = b"CONTACT_ID,EMAIL\r\na,x@y\r\n"
    assert [record(contact) for contact in decode("csv", data)] == [
        {"contact_id": "a", "email": "x@y"}
    ]


@both_file_types
@pytest.mark.parametrize("shift", range(-3, 4))
def test_blocks_end_anywhere(file_type: str, shift: int) -> None:
    # One value fills the first block of 64 KiB but for the shift, the next reaches over several.
    texts = ["x" * (65536 - 60 + shift), "\u00e9\r\n" * 50_000, "y" * 65536, "z"]
    contacts = [{"contact_id": "a", "Email": text} for text in texts]
    data = {"json": json_lines(*contacts, ascii_only=False), "csv": csv_contacts(*contacts)}
    assert [record(contact)["email"] for contact in decode(file_type, data[file_type])] == texts


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\0b", "\ud800", "", "a\nb"])
def test_unknown_field_of_any_name_is_ignored(name: str) -> None:
    line = json.dumps({"contact_id": "a", name: 1, "custom_fields": {name: [1]}})
    data = (line + "\n").encode() * 3
    assert [record(contact)["contact_id"] for contact in decode("json", data)] == ["a"] * 3


@both_file_types
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_truncated_gzip_is_never_accepted(file_type: str, data: st.DataObject) -> None:
    whole = gzip.compress(FILES[file_type])
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(DataError, match=LABEL):
        decode(file_type, whole[:cut])


@both_file_types
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_gzip_is_never_accepted(file_type: str, data: st.DataObject) -> None:
    whole = bytearray(gzip.compress(FILES[file_type], mtime=0))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        contacts = decode(file_type, bytes(whole))
    except DataError as error:
        assert LABEL in str(error)  # noqa: PT017 - it need not be raised
    else:
        # A part of the header does not matter, nor which of two copies of a text is referred to.
        assert contacts == decode(file_type, FILES[file_type])


@both_file_types
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data[:-8] + bytes(4) + data[-4:], id="wrong checksum"),
        pytest.param(lambda data: data[:-4] + bytes(4), id="wrong length"),
        pytest.param(lambda data: data + b"garbage", id="garbage behind"),
        pytest.param(lambda data: data + data[:5], id="second member cut"),
        pytest.param(lambda data: data + data[:-1], id="second member cut late"),
        pytest.param(lambda _: b"\x1f\x8b", id="two bytes"),
    ],
)
def test_gzip_with_a_bad_end_is_an_error(file_type: str, change: Any) -> None:  # noqa: ANN401 - a function
    with pytest.raises(DataError, match=f"{LABEL}.*gzip"):
        decode(file_type, change(gzip.compress(FILES[file_type])))


# --- errors: part, line and column, never a value --------------------------------------------


@both_file_types
@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("Seats", "custom_seats", "private"),
        ("Seats", "custom_seats", "NaN"),
        ("Seats", "custom_seats", "Infinity"),
        ("Seats", "custom_seats", "1e400"),
        ("Seats", "custom_seats", "1_0"),
        ("Seats", "custom_seats", "\u0661"),
        ("Seats", "custom_seats", "\t1"),
        ("Seats", "custom_seats", "0x10"),
        ("Seats", "custom_seats", "1,2"),
        ("Seats", "custom_seats", "1" * 5000),
        ("created_at", "created_at", "private"),
        ("Since", "custom_since", "2020-02-30"),
        ("Since", "custom_since", "13/31/2020"),
        ("Since", "custom_since", "0000-01-01"),
        ("Since", "custom_since", "0001-01-01T00:00:00+01:00"),
        ("Since", "custom_since", "9999-12-31T23:59:59-01:00"),
        ("Since", "custom_since", "20200619"),
        ("Since", "custom_since", "2020"),
        ("Since", "custom_since", "99999999"),
        ("Since", "custom_since", "-99999999999"),
        ("Since", "custom_since", "157783680001"),
        ("Since", "custom_since", "15778368000000"),
        ("Since", "custom_since", "1577836800.5"),
        ("Since", "custom_since", "2020-06-19T10:05:60Z"),
        ("Since", "custom_since", "2020-06-19T24:00Z"),
        ("Since", "custom_since", "2020-06-19T10Z"),
        ("Since", "custom_since", "2020-06-19 10:05:25 CEST"),
        ("Since", "custom_since", "2020-06-19 10:05:25 +0200 +0200 CEST"),
        ("alternate_emails", "alternate_emails", '["private'),
        ("alternate_emails", "alternate_emails", '["private", 1]'),
        ("alternate_emails", "alternate_emails", "[" * 100_000),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_text_of_another_type_is_an_error(
    file_type: str, name: str, column: str, value: str
) -> None:
    with pytest.raises(DataError) as raised:
        one(file_type, **{name: value})
    text = str(raised.value)
    assert text.startswith(f"{LABEL}, line {1 + HEADER_LINES[file_type]}, column {column}: ")
    assert value not in text
    assert "private" not in "".join(map(repr, (raised.value, raised.value.__cause__)))
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", '["private"]'),
        ("email", '{"private":1}'),
        ("created_at", "17"),
        ("created_at", "true"),
        ("created_at", "1592561125.5"),
        ("created_at", "20200619"),
        ("created_at", "159256112500"),
        ("created_at", "1e400"),
        ("alternate_emails", "[17]"),
        ("alternate_emails", "[null]"),
        ("alternate_emails", '{"private":1}'),
        ("Seats", "true"),
        ("Seats", "[17]"),
        ("Seats", "1e400"),
        ("Seats", "1" * 5000),
        ("Seats", '{"private":1}'),
        ("Plan", "[17]"),
        ("Plan", '{"private":1}'),
    ],
)
def test_json_value_of_another_type_is_an_error(field: str, value: str) -> None:
    fields = f'"{field}":{value}'
    if field[0].isupper():
        fields = f'"custom_fields":{{{fields}}}'
    data = f'{{"contact_id":"a"}}\n{{"contact_id":"b",{fields}}}\n'.encode()
    with pytest.raises(DataError, match=rf"^{LABEL}, line 2, column \w*{field.lower()}:") as raised:
        decode("json", data)
    assert "17" not in str(raised.value)
    assert "private" not in str(raised.value)


@pytest.mark.parametrize(
    "line",
    [
        b"private",
        b'{"contact_id":"private"',
        b'{"contact_id":"private"},',
        b"{'contact_id':'private'}",
        b'{"contact_id":"private","email":"\xff"}',
        b'{"contact_id":"private","custom_fields":{"Seats":NaN}}',
        b'{"contact_id":"private","custom_fields":{"Seats":-Infinity}}',
        b'{"contact_id":"private","custom_fields":{"Seats":01}}',
        b'{"contact_id":"private","email":"\\x"}',
        b'{"contact_id":"private","deep":' + b"[" * 100_000 + b"}",
        b'{"contact_id":"private","deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
        b'["private"]',
        b'"private"',
        b"17",
        b"null",
        b'{"contact_id":"private","custom_fields":["private"]}',
        b'{"contact_id":"private","custom_fields":"private"}',
    ],
    ids=lambda line: ascii(line)[:60],
)
def test_line_that_is_not_a_contact_is_an_error(line: bytes) -> None:
    with pytest.raises(
        DataError, match=f"^{LABEL}, line 2: (invalid JSON|not a contact object)"
    ) as raised:
        decode("json", b'{"contact_id":"a"}\n\n' + line + b'\n{"contact_id":"b"}\n')
    assert "private" not in str(raised.value)


@both_file_types
@pytest.mark.parametrize("key", ["", "\0", "\ud800"])
@pytest.mark.parametrize("on_invalid_value", ["fail", "null"])
def test_contact_without_its_key_is_an_error(
    file_type: str, key: str, on_invalid_value: OnInvalidValue
) -> None:
    data = FILE_OF[file_type]({"contact_id": "a"}, {"contact_id": key, "email": "private"})
    line = 2 + HEADER_LINES[file_type]
    with pytest.raises(DataError, match=f"^{LABEL}, line {line}: contact_id is missing") as raised:
        decode(file_type, data, on_invalid_value=on_invalid_value)
    assert "private" not in str(raised.value)


@pytest.mark.parametrize(
    "line",
    [b"{}", b'{"contact_id":null}', b'{"contact_id":[17]}', b'{"custom_fields":{}}'],
)
@pytest.mark.parametrize("on_invalid_value", ["fail", "null"])
def test_json_contact_without_its_key_is_an_error(
    line: bytes, on_invalid_value: OnInvalidValue
) -> None:
    # Without a hint: the key can be neither null nor deselected.
    error = f"^{LABEL}, line 1(: contact_id is missing|, column contact_id: invalid text value)$"
    with pytest.raises(DataError, match=error):
        decode("json", line, on_invalid_value=on_invalid_value)


def test_part_without_a_header_leaks_no_contact(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match="CSV header without CONTACT_ID") as raised:
        decode("csv", b"someone@secret.example,Anna\n")
    assert "secret" not in caplog.text + str(raised.value)


def test_each_part_comes_in_blocks_of_the_same_size() -> None:
    decode = make_decoder("csv", make_layout(COLUMNS)).decode
    part = b"CONTACT_ID\n" + b"".join(b"c%d\n" % i for i in range(300))
    # More than a block may have, to come to the second part with.
    part += b"x" * (5 * 2**20) + b"\n"
    one, two = ([len(block) for block in decode(io.BytesIO(part), LABEL)] for _ in range(2))
    assert one == two


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("blank", [b"\n", b" \r\n", b"\n\n\n"])
def test_json_error_names_the_line_that_is_not_blank(compress: Any, blank: bytes) -> None:  # noqa: ANN401 - either
    lines = json_lines({"contact_id": "a", "email": "x" * 90})
    data = blank + (lines + blank) * 2000 + b"broken"
    with pytest.raises(DataError, match=f"^{LABEL}, line 2001: "):
        decode("json", compress(data + b"\n" + lines))


def test_line_is_counted_over_blocks() -> None:
    data = json_lines(*[{"contact_id": "a", "email": "x" * 90}] * 5000) + b"broken"
    with pytest.raises(DataError, match="line 5001: "):
        decode("json", data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'"EMAIL"\n"private"\n', "CONTACT_ID"),
        (b'"private"\n', "CONTACT_ID"),
        (b'{"contact_id":"private"}\n', "CONTACT_ID"),
        (b'"CONTACT_ID","EMAIL"\n"a","x"\n"private"\n', "line 3: row has 1 cells, expected 2"),
        (b'"CONTACT_ID","EMAIL"\n"a","x","private"\n', "line 2: row has 3 cells, expected 2"),
        (b'"CONTACT_ID"\n"a"\n"private"x"\n', "line 3: malformed CSV"),
        (b'"CONTACT_ID"\n"a"\n"private\n', "line 3: malformed CSV"),
        (b'"CONTACT_ID"\n"a"\nb\rprivate\n', "line 3: malformed CSV"),
        (b'"CONTACT_ID","Plan","PLAN"\n"a","x","private"\n', "column custom_plan"),
        (b'"CONTACT_ID","contact_id"\n"a","private"\n', "column contact_id"),
    ],
)
def test_malformed_csv_is_an_error(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=LABEL) as raised:
        decode("csv", data)
    assert words in str(raised.value)
    assert "private" not in str(raised.value)


def test_two_json_fields_of_one_column_are_an_error() -> None:
    data = json_lines({"contact_id": "a"}, {"contact_id": "a", "Email": "private", "email": "x"})
    with pytest.raises(DataError, match=f"^{LABEL}, line 2: duplicate field for column email"):
        decode("json", data)


@pytest.mark.parametrize("before", [0, 3000])
def test_csv_with_invalid_utf8_is_an_error_that_names_the_line(before: int) -> None:
    rows = csv_rows(["CONTACT_ID", "EMAIL"], *[["a", "x" * 90]] * before)
    with pytest.raises(DataError, match=f"^{LABEL}, line {before + 2}: ") as raised:
        decode("csv", rows + b'"a","private \xff"\n')
    assert "private" not in str(raised.value)


@contextlib.contextmanager
def max_row_bytes(limit: int) -> Iterator[None]:
    with (
        patch(f"{PACKAGE}.lines.MAX_ROW_BYTES", limit),
        patch(f"{PACKAGE}.csv.MAX_ROW_BYTES", limit),
    ):
        yield


@pytest.mark.parametrize(
    ("file_type", "data"),
    [
        ("json", b'{"contact_id":"a","email":"' + b"x" * 300_000 + b'"}\n'),
        ("json", b"x" * 300_000),
        ("csv", b'"CONTACT_ID"\n"' + b"x" * 300_000 + b'"\n'),
        ("csv", b'"CONTACT_ID"\n"' + b"x\n" * 150_000 + b'"\n'),
        ("csv", b'"CONTACT_ID"\n"' + b"x\n" * 150_000),
        ("csv", b'"CONTACT_ID"\n' + b'"x\n",' * 60_000),
        ("csv", b'"CONTACT_ID","A"\n' + b'"x' * 150_000),
    ],
    ids=["line", "garbage", "cell", "cell in lines", "unclosed quote", "short cells", "broken"],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_too_long_row_is_an_error_before_it_is_all_in_memory(
    file_type: str,
    data: bytes,
    compress: Any,  # noqa: ANN401 - either
) -> None:
    part = io.BytesIO(compress(data + b"more\n" * 100_000))
    with max_row_bytes(100_000), pytest.raises(DataError, match=LABEL):
        list(make_decoder(file_type, make_layout(COLUMNS)).decode(part, LABEL))
    if compress is bytes:
        assert part.tell() < len(data)


@both_file_types
def test_many_rows_are_not_a_long_row(file_type: str) -> None:
    # The least that a block of 64 KiB fits in; the file has more.
    with max_row_bytes(70_000):
        assert len(decode(file_type, FILES[file_type])) == 300


@both_file_types
@settings(max_examples=100, deadline=None)
@given(
    start=st.sampled_from(
        [b"", b"\x1f\x8b", b"\xef\xbb\xbf", b'"CONTACT_ID","EMAIL"\n', b'{"contact_id":"']
    ),
    rest=st.binary(max_size=60),
)
@example(start=b'"CONTACT_ID"\n', rest=b'"a"\n"\xff"\n')
@example(start=b"", rest=b"\xff")
def test_arbitrary_bytes_give_contacts_or_an_error_that_names_the_part(
    file_type: str, start: bytes, rest: bytes
) -> None:
    try:
        contacts = decode(file_type, start + rest)
    except DataError as error:
        assert LABEL in str(error)  # noqa: PT017 - it need not be raised
    else:
        assert all(contact[0] for contact in contacts)


# --- headers of CSV -------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [["EMAIL"], ["CREATED_AT", "UPDATED_AT"], ["CONTACT_ID"]])
def test_csv_without_columns_that_every_export_has_is_an_error(
    missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{PACKAGE}.csv._REQUIRED_NAMES", REQUIRED_NAMES)
    header = ["CONTACT_ID", "EMAIL", "CREATED_AT", "UPDATED_AT"]
    data = csv_rows([name for name in header if name not in missing], ["private"] * 4)
    # Deselected or not: the file is not that of an export.
    with pytest.raises(DataError, match=f"without {', '.join(missing)}; not a") as raised:
        decode("csv", data, select())
    assert "private" not in str(raised.value)


def test_blanks_around_names_of_csv_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{PACKAGE}.csv._REQUIRED_NAMES", REQUIRED_NAMES)
    data = b"CONTACT_ID, EMAIL ,\tCREATED_AT, UPDATED_AT , Plan\r\na,x@y,,2020-01-01,p\n"
    [contact] = decode("csv", data)
    assert record(contact) == {
        "contact_id": "a",
        "email": "x@y",
        "updated_at": datetime(2020, 1, 1, tzinfo=UTC),
        "custom_plan": "p",
    }


def test_columns_that_csv_lacks_are_null_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    columns = select("email", "city", "custom_plan")
    decoder = make_decoder("csv", make_layout(columns))
    for _ in range(2):
        rows = list(
            decoder.decode(io.BytesIO(csv_rows(["CONTACT_ID", "EMAIL"], ["a", "b"])), LABEL)
        )
        assert rows == [[("a", "b", None, None)]]
    (warning,) = caplog.messages
    assert "null in every contact: city, custom_plan." in warning


# --- limits ---------------------------------------------------------------------------------


def test_too_many_columns_of_csv_are_an_error() -> None:
    header = ["CONTACT_ID", *(f"c{i}" for i in range(2000))]
    with pytest.raises(DataError, match=f"^{LABEL}: 2001 columns, more than 2000"):
        decode("csv", csv_rows(header, ["a"] * 2001))


@both_file_types
@pytest.mark.parametrize("blank", [b"\n", b"\r\n"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_megabytes_of_blank_lines_are_an_error(
    file_type: str,
    blank: bytes,
    compress: Any,  # noqa: ANN401 - either
) -> None:
    start = FILES[file_type]
    assert len(decode(file_type, compress(start + blank * 100_000))) == 300
    with pytest.raises(DataError, match=f"^{LABEL}: excessive blank lines"):
        decode(file_type, compress(start + blank * 1_200_000))


def test_too_many_unknown_fields_are_an_error(caplog: pytest.LogCaptureFixture) -> None:
    lines = [{"contact_id": "a", **{f"f{i}_{j}": "private" for j in range(101)}} for i in range(10)]
    with pytest.raises(DataError, match=f"^{LABEL}, line 10: more than 1000 fields") as raised:
        decode("json", json_lines(*lines))
    assert "private" not in str(raised.value) + caplog.text


@both_file_types
@pytest.mark.parametrize("size", [100, 1_000_000])
def test_header_of_gzip_without_end_is_an_error(file_type: str, size: int) -> None:
    with pytest.raises(DataError, match=f"^{LABEL}: (truncated|corrupt) gzip"):
        decode(file_type, b"\x1f\x8b\x08\x08\0\0\0\0\0\x03" + b"a" * size)


@both_file_types
def test_part_that_expands_more_than_contacts_do_is_an_error(file_type: str) -> None:
    data = gzip.compress(FILES[file_type])
    with (
        patch(f"{PACKAGE}.lines._MIN_EXPANDED_BYTES", 1000),
        patch(f"{PACKAGE}.lines._MAX_EXPANSION", 2),
        pytest.raises(DataError, match=f"^{LABEL}: excessive gzip expansion"),
    ):
        decode(file_type, data)
    with patch(f"{PACKAGE}.lines._MIN_EXPANDED_BYTES", 1000):
        assert len(decode(file_type, data)) == 300
        assert len(decode(file_type, FILES[file_type])) == 300


# --- hashes ---------------------------------------------------------------------------------

KEY = b"a key, \xff"
HASHED = frozenset({"email", "alternate_emails", "custom_plan", "source_name"})


def hashed(text: str, key: bytes = KEY) -> str:
    return hmac.new(key, text.encode(), "sha256").hexdigest()


@both_file_types
@pytest.mark.parametrize("path", ["fast", "slow"])
@pytest.mark.parametrize("key", [KEY, b"k" * 64, b"k" * 65], ids=len)
@pytest.mark.parametrize("text", ["x@y", "", "\U0001f600", "\u00e9" * 1000, "12.50"])
def test_hashes_are_those_of_hmac(file_type: str, path: str, key: bytes, text: str) -> None:
    emails = ["x@y", "z@y"]
    first = {
        "contact_id": "a",
        "email": text,
        "alternate_emails": emails,
        "custom_fields": {"Plan": text, "Seats": 5},
    }
    data = FILE_OF[file_type](first, {"contact_id": "b"})
    columns = select("email", "alternate_emails", "custom_plan", "custom_seats")
    stamp = {"source_type": "list", "source_name": "secret", "source_id": None}
    layout = make_layout(columns, stamp=stamp, hasher=Hasher(HASHED, key))
    slow = patch(FAST[file_type], return_value=None)
    with slow if path == "slow" else contextlib.nullcontext():
        decoder = make_decoder(file_type, layout)
        rows = [row for block in decoder.decode(io.BytesIO(data), LABEL) for row in block]
    value = hashed(text, key) if text else None
    lists = [hashed(email, key) for email in emails]
    source = ("list", hashed("secret", key), None)
    assert rows == [
        ("a", value, lists, *source, value, 5),
        ("b", None, None, *source, None, None),
    ]


@both_file_types
def test_errors_of_hashed_columns_have_no_value(
    file_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    layout = make_layout(COLUMNS, "null", hasher=Hasher(HASHED - {"source_name"}, KEY))
    data = FILE_OF[file_type]({"contact_id": "a", "alternate_emails": '["private'})
    [[row]] = make_decoder(file_type, layout).decode(io.BytesIO(data), LABEL)
    assert row[NAMES.index("alternate_emails")] is None
    assert "column alternate_emails: invalid list value" in caplog.text
    assert "private" not in caplog.text


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("created_at", "is of type date"),
        ("custom_seats", "is of type number"),
        ("city", "is deselected"),
        ("e-mail", "is not in the catalog"),
        ("source_typo", "is not in the catalog"),
    ],
)
def test_columns_that_cannot_be_hashed_are_an_error(name: str, problem: str) -> None:
    columns = [column._replace(is_selected=column.name != "city") for column in COLUMNS]
    stamp = {"source_id": None, "source_name": None}
    make_layout(columns, stamp=stamp, hasher=Hasher(HASHED, KEY))
    with pytest.raises(ConfigurationError, match=f"^hash_columns: column {name} {problem}"):
        make_layout(columns, stamp=stamp, hasher=Hasher(HASHED | {name}, KEY))


# --- constant columns -----------------------------------------------------------------------


@both_file_types
@pytest.mark.parametrize("path", ["fast", "slow", "lenient"])
@pytest.mark.parametrize("columns", [COLUMNS, select("Plan", "created_at"), select()], ids=len)
def test_stamp_is_between_reserved_and_custom_columns(
    file_type: str, path: str, columns: list[Column]
) -> None:
    stamp = {"source_type": "list", "source_id": "a", "source_name": None}
    # A number as text needs the lenient decoder of JSON.
    seats: Any = "7" if path == "lenient" else 7
    custom = {"Plan": "p", "Seats": seats, "Since": "2020-01-02T00:00:00Z"}
    fields = {"created_at": "2021-01-02T00:00:00Z", "city": "c", "custom_fields": custom}
    data = FILE_OF[file_type](*({"contact_id": id_, **fields} for id_ in "ab"))
    plain = decode(file_type, data, columns)
    decoder = make_decoder(file_type, make_layout(columns, stamp=stamp))
    slow = patch(FAST[file_type], return_value=None)
    with slow if path == "slow" else contextlib.nullcontext():
        contacts = [each for block in decoder.decode(io.BytesIO(data), LABEL) for each in block]
    reserved = sum(column.is_selected and not column.is_custom for column in columns)
    assert contacts == [
        (*values[:reserved], "list", "a", None, *values[reserved:]) for values in plain
    ]

"""Record batches: the same contacts as those of the other decoders, typed."""

from __future__ import annotations

import contextlib
import csv
import io
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.api.client import FieldDefinition
from tap_sendgrid_contacts.dates import UTC
from tap_sendgrid_contacts.decode import arrow, make_decoder
from tap_sendgrid_contacts.decode.arrow import ARROW_TYPES, make_arrow_decoder
from tap_sendgrid_contacts.decode.csv import CsvDecoder
from tap_sendgrid_contacts.schema import build_schema, columns_from_schema
from tests.harness import both_file_types
from tests.unit.test_decode import (
    COLUMNS,
    EMPTY,
    LABEL,
    NAMES,
    as_json,
    contact_forms,
    csv_rows,
    json_lines,
    select,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tap_sendgrid_contacts.decode.contact import OnInvalidValue
    from tap_sendgrid_contacts.schema import Column

HEADER = ["CONTACT_ID", "EMAIL", "Seats", "Since"]

Rows = list[tuple[object, ...]]


def batches_of(
    file_type: str,
    data: bytes,
    columns: list[Column] = COLUMNS,
    on_invalid_value: OnInvalidValue = "fail",
    stamp: dict[str, str | None] | None = None,
) -> list[pa.RecordBatch]:
    decoder = make_arrow_decoder(file_type, columns, on_invalid_value, stamp)
    return list(decoder.decode(io.BytesIO(data), LABEL))


def rows_of(batches: list[pa.RecordBatch]) -> Rows:
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def expected(file_type: str, data: bytes) -> Rows:
    """Return what the other decoder reads, with numbers as doubles."""
    return [
        tuple(float(value) if isinstance(value, int) else value for value in astuple(contact))
        for block in make_decoder(file_type, COLUMNS).decode(io.BytesIO(data), LABEL)
        for contact in block
    ]


def comparable(rows: Rows) -> list[list[str]]:
    """Return values such that -0.0 is not 0.0; dates are equal whatever their time zone is."""
    return [
        [repr(value.timestamp() if hasattr(value, "timestamp") else value) for value in row]
        for row in rows
    ]


def outcome(
    read: Callable[[str, bytes], Rows], file_type: str, data: bytes
) -> list[list[str]] | None:
    """Return comparable rows, or None if there is an error in the data."""
    try:
        return comparable(read(file_type, data))
    except DataError:
        return None


def read_batches(file_type: str, data: bytes) -> Rows:
    return rows_of(batches_of(file_type, data))


@contextlib.contextmanager
def blocks_of(size: int) -> Iterator[None]:
    """Decode in blocks of this many bytes."""
    with (
        patch.object(arrow, "_CSV_BLOCK_BYTES", size),
        patch.object(arrow, "_JSON_BLOCK_BYTES", size),
    ):
        yield


@dataclass
class Reader:
    """Counts the blocks of CSV that were read by Arrow, and those that were read row by row."""

    by_arrow: int = 0
    by_row: int = 0


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    reader = Reader()
    parse_cells = arrow.ArrowCsvDecoder._parse_cells  # noqa: SLF001
    decode_lines = CsvDecoder.decode_lines

    def count_parsed(*arguments: Any) -> pa.RecordBatch | None:
        batch = parse_cells(*arguments)
        reader.by_arrow += batch is not None
        return batch

    def count_decoded(*arguments: Any) -> Iterator[pa.RecordBatch]:
        reader.by_row += 1
        return decode_lines(*arguments)

    monkeypatch.setattr(arrow.ArrowCsvDecoder, "_parse_cells", count_parsed)
    monkeypatch.setattr(CsvDecoder, "decode_lines", count_decoded)
    return reader


# --- the same contacts ----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    contacts=st.lists(contact_forms(), min_size=1, max_size=4),
    order=st.permutations(COLUMNS),
    block_bytes=st.sampled_from([1, 100, 2**20]),
)
def test_batches_have_the_contacts(
    contacts: list[dict[Column, Any]], order: list[Column], block_bytes: int
) -> None:
    lines = json_lines(*(as_json(contact, nulls=False) for contact in contacts))
    rows = csv_rows(
        [column.field if column.is_custom else column.field.upper() for column in order],
        *([contact.get(column, EMPTY)[1] for column in order] for contact in contacts),
    )
    with blocks_of(block_bytes):
        for file_type, data in (("json", lines), ("csv", rows)):
            try:
                batches = batches_of(file_type, data)
            except DataError as error:
                assert "beyond the range of doubles" in str(error)  # noqa: PT017 - no other is right
                assert any(abs(value[2]) > 10**308 for c in contacts for value in c.values())
                continue
            assert comparable(rows_of(batches)) == comparable(expected(file_type, data))


CSV_TOKENS = st.sampled_from(
    [
        *('"', '"', '""', ",", ",", "\n", "\n", "\r", "\r\n", "\0", " ", "a", "\ufeff"),
        *('"id"', '"id","a",', '"b,"', '"1"', '"x\ny"', "-0", "0.0", "007", "1e5", "nan"),
        *("2020-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "2020-13-01T00:00:00Z"),
        *("2020-01-01T10Z", "2020-01-01T101010.5Z", "2020-01-01 10:10:10Z", "2020-01-01T10:10:60Z"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    header=st.sampled_from(
        [
            '"CONTACT_ID","EMAIL","Seats","Since"\n',
            '"CONTACT_ID","EMAIL"\n',
            "\n\r\nCONTACT_ID,Since\n",
            '"CONTACT_ID"\r\n',
            '"CONTACT_ID","a\nb"\n',
            '\0CONTACT\0_ID,"EM\0AIL"\n',
            "",
        ]
    ),
    tokens=st.lists(CSV_TOKENS, max_size=12).map("".join),
    tail=st.sampled_from([b"", b'"\xff"\n', b'"id","\xed\xa0\x80"\n']),
    # A byte order mark has three bytes.
    block_bytes=st.sampled_from([3, 40, 2**20]),
)
def test_any_csv_is_read_as_by_the_other_decoder_or_not_at_all(
    header: str, tokens: str, tail: bytes, block_bytes: int
) -> None:
    data = (header + tokens).encode() + tail
    try:
        rows = comparable(expected("csv", data))
    except DataError:
        rows = None
    with blocks_of(block_bytes):
        if rows is not None:
            assert comparable(rows_of(batches_of("csv", data))) == rows
            return
        with pytest.raises(DataError):
            batches_of("csv", data)


# --- the fast path --------------------------------------------------------------------------


def test_usual_csv_is_read_by_arrow(reader: Reader) -> None:
    contacts = [["a", 'x "y", \r\n z', "12", "2020-01-02T03:04:05Z"], ["b", "", "0.5", ""]]
    data = csv_rows(HEADER, *contacts)
    rows = rows_of(batches_of("csv", data))
    assert (reader.by_arrow, reader.by_row) == (1, 0)
    assert rows == expected("csv", data)


@pytest.mark.parametrize(
    "row",
    [
        ["a\0b", "", "1", ""],
        ["a", "", "12345678901234567", "01/02/2020"],
        ["a", "", "+1", "2020-01-02T03:04:05.5+02:00"],
    ],
)
def test_unusual_values_of_csv_are_read_by_arrow_too(reader: Reader, row: list[str]) -> None:
    data = csv_rows(HEADER, row)
    rows = rows_of(batches_of("csv", data))
    assert (reader.by_arrow, reader.by_row) == (1, 0)
    assert rows == expected("csv", data)


@pytest.mark.parametrize(
    "cell",
    [
        *("-0", "-0.0", "0.0", "nan", "inf", "1e400", "1e5", "+1", "0x1F", "1.", ".5", " 1", "1_0"),
        *("9007199254740993", "-9007199254740993", "12345678901234567890"),
        *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
        *("2020-01-02T03:04:60Z", "2020-02-30T00:00:00Z", "2020-01-02 03:04:05Z"),
        *("2020-01-02T030405.5Z", "2020-01-02T03:04:05z", "2020-01-02T03:04+00Z", "2020-01-02T10Z"),
        *("2020-01-02T03:04Z", "2020-01-02T03:04:05+00", "2020-01-02T03:04:05.25Z"),
        *("\ufeff", "\ufeff1", "\u2028", "\x7f", "null", '["a"]', '["a",null]', "[]", "a b;c"),
        *('"', "\\", '\\"', "\r", "\n", "\t\x1f", "\\n", "'"),
    ],
)
@pytest.mark.parametrize("file_type", ["json", "csv"])
@pytest.mark.parametrize("has_neighbor", [False, True])
def test_odd_values_are_read_as_by_the_other_decoder(
    file_type: str, cell: str, *, has_neighbor: bool
) -> None:
    neighbors = {
        "email": "a",
        "alternate_emails": "a",
        "Seats": "5",
        "Since": "2020-01-02T03:04:05Z",
    }
    for field, neighbor in neighbors.items():
        contacts = [("0", cell), *[("1", neighbor)] * has_neighbor]
        if field.islower():
            data = json_lines(*({"contact_id": i, field: text} for i, text in contacts))
        else:
            data = json_lines(
                *({"contact_id": i, "custom_fields": {field: text}} for i, text in contacts)
            )
        if file_type == "csv":
            # In quotes only where that is necessary: it may hide what Arrow takes a text for.
            output = io.StringIO()
            csv.writer(output, lineterminator="\n").writerows(
                [[field, "CONTACT_ID"], *((text, i) for i, text in contacts)]
            )
            data = output.getvalue().encode()
        for block_bytes in (1, 2**20):
            with blocks_of(block_bytes):
                assert outcome(read_batches, file_type, data) == outcome(expected, file_type, data)


@pytest.mark.parametrize(
    ("rows", "tests"),
    [
        (b'"a","x ""y"", z",,"2020-01-02T03:04:05Z"\n', 0),
        (b'"a","x\ny","",\n', 1),
        (b'a,"x,y",,\r\n', 1),
    ],
    ids=["SendGrid", "quoted-empty", "minimal-crlf"],
)
def test_rows_in_any_form_are_read_by_arrow(rows: bytes, tests: int, reader: Reader) -> None:
    data = b"CONTACT_ID,EMAIL,Seats,Since\n" + rows
    # That of SendGrid, which is compared with what Arrow would write, needs no other test.
    with patch.object(arrow, "_is_unambiguous", wraps=arrow._is_unambiguous) as is_unambiguous:  # noqa: SLF001
        contacts = rows_of(batches_of("csv", data))
    assert is_unambiguous.call_count == tests
    assert (reader.by_arrow, reader.by_row) == (1, 0)
    assert contacts == expected("csv", data)


def test_block_that_arrow_rejects_is_read_row_by_row_and_only_that(reader: Reader) -> None:
    rows = [[str(i), "", "1", ""] for i in range(9)]
    rows[4][1] = "\ud800"
    data = csv_rows(HEADER, *rows)
    with blocks_of(40):
        contacts = rows_of(batches_of("csv", data))
    assert reader.by_row == 1
    assert reader.by_arrow > 1
    assert contacts == expected("csv", data)


def test_csv_with_ambiguous_quotes_is_read_row_by_row_to_its_end(reader: Reader) -> None:
    data = csv_rows(HEADER, ["a", "", "1", ""]) + b'b,x"y,2,\n"c",,"3",\n'
    with blocks_of(30):
        assert [row[:2] for row in rows_of(batches_of("csv", data))] == [
            ("a", None),
            ("b", 'x"y'),
            ("c", None),
        ]
    assert reader.by_arrow == 1


def test_header_with_nul_is_read_as_by_the_other_decoder(reader: Reader) -> None:
    data = b'\n"CONTACT\0_ID",EMAIL\n"a\0","x"\n'
    rows = rows_of(batches_of("csv", data))
    assert (reader.by_arrow, reader.by_row) == (1, 0)
    assert rows == expected("csv", data)


def test_rows_over_several_blocks_are_read_by_arrow(reader: Reader) -> None:
    contacts = [["a", "x\n\ny,\n", "1", ""], ["b", "x", "2", ""], ["c", "\n", "3", ""]]
    data = csv_rows(HEADER, *contacts)
    for block_bytes in range(1, len(data)):
        with blocks_of(block_bytes):
            assert [row[1] for row in rows_of(batches_of("csv", data))] == ["x\n\ny,\n", "x", "\n"]
    assert reader.by_row == 0


def test_nothing_is_lost_where_ambiguous_rows_precede_one_over_several_blocks() -> None:
    data = csv_rows(HEADER, ["a", "", "1", ""]) + b'b,x""y,2,\n"c","d\ne","3",\n"f",,"4",\n'
    for block_bytes in range(1, len(data)):
        with blocks_of(block_bytes):
            rows = rows_of(batches_of("csv", data))
        assert rows == expected("csv", data)


def test_row_without_end_is_an_error_before_it_fills_the_memory() -> None:
    data = csv_rows(HEADER, ["a", "", "1", ""]) + b'"b","' + b"x\n" * 100
    with (
        patch.object(arrow, "MAX_ROW_BYTES", 100),
        patch(f"{CsvDecoder.__module__}.MAX_ROW_BYTES", 120),
        blocks_of(10),
        pytest.raises(DataError, match=f"^{LABEL}: row longer than 120 characters"),
    ):
        batches_of("csv", data)


def test_stray_quote_does_not_make_a_row_of_all_that_follows() -> None:
    data = csv_rows(HEADER, ["a", "", "1", ""]) + b'"b",5" pipe,2,\n'
    data += csv_rows(HEADER, *([str(i), "x", "3", ""] for i in range(50))).partition(b"\n")[2]
    with (
        patch.object(arrow, "MAX_ROW_BYTES", 100),
        patch(f"{CsvDecoder.__module__}.MAX_ROW_BYTES", 100),
        blocks_of(40),
    ):
        rows = rows_of(batches_of("csv", data))
    assert rows == expected("csv", data)
    assert len(rows) == 52


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "", "1", ""], ["b", "", "x", ""]], "line 3, column custom_seats: invalid number"),
        ([["a", "", "1", ""], ["b", "", "1", "2020-13-01T00:00:00Z"]], "line 3, column custom_s"),
        ([["a", "", "1", ""], ["", "", "1", ""]], "line 3: contact_id is missing"),
        ([["a", "", "1", ""], ["b", "", "1"]], "line 3: row has 3 cells, expected 4"),
    ],
)
def test_errors_of_csv_name_the_line(rows: list[list[str]], message: str) -> None:
    for block_bytes in (1, 2**20):
        with (
            blocks_of(block_bytes),
            pytest.raises(DataError, match=f"^{LABEL}, {message}"),
        ):
            batches_of("csv", csv_rows(HEADER, *rows))


@both_file_types
def test_invalid_value_becomes_null(file_type: str, caplog: pytest.LogCaptureFixture) -> None:
    contacts = [{"contact_id": "a", "custom_fields": {"Seats": "x"}}]
    data = json_lines(*contacts)
    if file_type == "csv":
        data = csv_rows(["CONTACT_ID", "Seats"], ["a", "x"])
    (row,) = rows_of(batches_of(file_type, data, select("custom_seats"), "null"))
    assert row == ("a", None)
    assert "invalid number value" in caplog.text


def test_usual_dates_of_json_are_parsed_by_arrow() -> None:
    data = json_lines({"contact_id": "a", "created_at": "2020-01-02T03:04:05Z"})
    with patch.object(arrow, "_parse_usual_dates", wraps=arrow._parse_usual_dates) as parse:  # noqa: SLF001
        assert rows_of(batches_of("json", data)) == expected("json", data)
    assert parse.call_count == 1


@pytest.mark.parametrize("other", ["2020-01-02T04:04:05+01:00", 1577934245])
@pytest.mark.parametrize("date", ["2020-02-30T00:00:00Z", "yesterday", "2020-01-02T03:04:05ZZ"])
def test_invalid_date_of_json_is_found_among_others(
    date: str, other: object, caplog: pytest.LogCaptureFixture
) -> None:
    valid = "2020-01-02T03:04:05Z"
    dates = [valid, "01/02/2020", other, date, valid, "", None]
    data = json_lines(
        *({"contact_id": "a", "created_at": valid, "custom_fields": {"Since": d}} for d in dates)
    )
    columns = select("created_at", "custom_since")
    usual = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    midnight = datetime(2020, 1, 2, tzinfo=UTC)
    for block_bytes in (1, 300, 2**20):
        with blocks_of(block_bytes):
            rows = rows_of(batches_of("json", data, columns, "null"))
            assert [row[2] for row in rows] == [usual, midnight, usual, None, usual, None, None]
            assert {row[1] for row in rows} == {usual}
            with pytest.raises(DataError, match=f"^{LABEL}, line 4, column custom_since: invalid"):
                batches_of("json", data, columns)
    assert "column custom_since: invalid date value" in caplog.text


@pytest.mark.parametrize("on_invalid_value", ["fail", "null"])
@pytest.mark.parametrize(
    "data",
    [
        b'{"contact_id":"a"} {"contact_id":"b","created_at":"bad"}\n',
        b'{"contact_id":"a"} {"contact_id":"a"}\n{"contact_id":"b","created_at":"bad"}\n',
        b'{"contact_id":"a"}{"contact_id":"b"}\n\n{\n"contact_id":"c","created_at":"bad"}\n',
    ],
)
def test_objects_that_are_not_lines_are_read_as_by_the_other_decoder(
    data: bytes, on_invalid_value: OnInvalidValue
) -> None:
    decoder = make_decoder("json", COLUMNS, on_invalid_value)
    error = contacts = None
    try:
        blocks = decoder.decode(io.BytesIO(data), LABEL)
        contacts = [astuple(contact)[0] for block in blocks for contact in block]
    except DataError as raised:
        error = str(raised)
    try:
        rows = rows_of(batches_of("json", data, on_invalid_value=on_invalid_value))
    except DataError as raised:
        assert str(raised) == error  # noqa: PT017 - it need not be raised
    else:
        assert [row[0] for row in rows] == contacts


def test_error_names_the_part_alone_if_lines_are_not_contacts() -> None:
    data = b'{"contact_id":"a"} {"contact_id":"b"}\n{"contact_id":"c","created_at":"bad"}\n'
    with blocks_of(1), pytest.raises(DataError, match=f"^{LABEL}, column created_at: invalid date"):
        batches_of("json", data)


# --- types ----------------------------------------------------------------------------------


@both_file_types
def test_schema_has_the_selected_columns_in_the_order_of_records(file_type: str) -> None:
    data = json_lines({"contact_id": "a"}) if file_type == "json" else csv_rows(HEADER, ["a"] * 4)
    columns = select("custom_seats", "alternate_emails", "updated_at")
    if file_type == "csv":
        data = csv_rows(["CONTACT_ID"], ["a"])
    stamp = {"source_type": "list", "source_name": None}
    (batch,) = batches_of(file_type, data, columns, stamp=stamp)
    assert [(field.name, field.type) for field in batch.schema] == [
        ("contact_id", pa.string()),
        ("alternate_emails", pa.list_(pa.string())),
        ("updated_at", pa.timestamp("us", "UTC")),
        ("source_type", pa.string()),
        ("source_name", pa.string()),
        ("custom_seats", pa.float64()),
    ]
    assert rows_of([batch]) == [("a", None, None, "list", None, None)]


def test_schema_does_not_depend_on_the_values() -> None:
    (empty,) = batches_of("json", b"\n")
    (filled,) = batches_of("json", json_lines({"contact_id": "a", "email": "x"}))
    assert empty.num_rows == 0
    assert empty.schema == filled.schema
    assert empty.schema.names == NAMES
    assert set(empty.schema.types) == set(ARROW_TYPES.values())


@both_file_types
@pytest.mark.parametrize(
    ("numbers", "warns"),
    [([2**53, 10**20, 0.1], False), ([2**53 + 1, 3], True), ([-(2**53) - 1, 10**30 + 7], True)],
)
def test_rounded_whole_numbers_are_warned_of_once(
    file_type: str, numbers: list[float], *, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    lines = json_lines(
        *({"contact_id": "a", "custom_fields": {"Seats": number}} for number in numbers)
    )
    rows = csv_rows(["CONTACT_ID", "Seats"], *(["a", str(number)] for number in numbers))
    data = {"json": lines, "csv": rows}[file_type]
    with blocks_of(10):
        batches = batches_of(file_type, data + data.partition(b"\n")[2] * (file_type == "csv"))
    seats = [row[NAMES.index("custom_seats")] for row in rows_of(batches)]
    assert seats[: len(numbers)] == [float(number) for number in numbers]
    assert caplog.text.count("rounding whole numbers beyond 2^53") == warns


def test_only_the_column_that_is_rounded_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    columns = columns_from_schema(
        build_schema([FieldDefinition(f"e{i}_N", name, "Number") for i, name in enumerate("ABC")]),
        lambda _: True,
    )
    numbers = {"A": 1, "B": 2**53 + 1, "C": 0.5}
    data = json_lines({"contact_id": "a", "custom_fields": numbers})
    ((*_, a, b, c),) = rows_of(batches_of("json", data, columns))
    assert (a, b, c) == (1.0, 2.0**53, 0.5)
    assert caplog.messages[0].startswith("Column custom_b: rounding")
    assert len(caplog.messages) == 1


@both_file_types
def test_number_beyond_doubles_is_an_error(file_type: str) -> None:
    number = 10**400
    data = json_lines({"contact_id": "a", "custom_fields": {"Seats": number}})
    if file_type == "csv":
        data = csv_rows(["CONTACT_ID", "Seats"], ["a", str(number)])
    with pytest.raises(DataError, match=r"^Column custom_seats: .* beyond the range of doubles"):
        batches_of(file_type, data)

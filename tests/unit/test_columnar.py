"""Parquet and Arrow files: the rows, typed, in groups of a size that suits readers."""

from __future__ import annotations

import io
import runpy
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.column_types import COLUMN_TYPES, DATE, INTEGER, LIST, NUMBER, TEXT
from tap_sendgrid_contacts.output import columnar
from tap_sendgrid_contacts.output.formats import FORMATS
from tests.definitions import ROOT

if TYPE_CHECKING:
    from tap_sendgrid_contacts.column_types import ColumnType
    from tap_sendgrid_contacts.columns import Row

TYPES: dict[str, ColumnType] = {
    "contact_id": TEXT,
    "seats": NUMBER,
    "emails": LIST,
    "since": DATE,
    "city": TEXT,
}
SCHEMA = [
    ("contact_id", pa.string()),
    ("seats", pa.float64()),
    ("emails", pa.list_(pa.string())),
    ("since", pa.timestamp("us", "UTC")),
    ("city", pa.string()),
]
DAY = datetime(2020, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc)
ROWS: list[Row] = [
    ("a", 1, ["x@y", "z"], DAY, None),
    ("b", None, None, None, "\U0001f600"),
    ("c", 0.5, [], None, ""),
]
every_format = pytest.mark.parametrize("file_format", ["parquet", "arrow"])


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "_ROWS_AT_ONCE", 3)


def write(
    file_format: str, *blocks: list[Row], types: dict[str, ColumnType] | None = None
) -> io.BytesIO:
    file = io.BytesIO()
    open_writer = FORMATS[file_format].make_opener("none", types or TYPES)
    with open_writer(file) as write_rows:
        for block in blocks:
            write_rows(block)
    return file


def read(file_format: str, file: io.BytesIO) -> pa.Table:
    return ipc.open_file(file).read_all() if file_format == "arrow" else parquet.read_table(file)


def numbers(file_format: str, *values: float, column_type: ColumnType = NUMBER) -> list[float]:
    rows: list[Row] = [(value,) for value in values]
    table = read(file_format, write(file_format, rows, types={"seats": column_type}))
    result: list[float] = table["seats"].to_pylist()
    return result


@every_format
@pytest.mark.parametrize("group_bytes", [1, 2**20])
def test_files_have_the_rows_of_all_blocks(
    file_format: str, group_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "_ROW_GROUP_BYTES", group_bytes)
    monkeypatch.setattr(columnar, "_BATCH_BYTES", group_bytes)
    table = read(file_format, write(file_format, ROWS[:1], [], ROWS[1:], ROWS * 2, ROWS[:2]))
    assert [tuple(row.values()) for row in table.to_pylist()] == ROWS * 3 + ROWS[:2]
    assert [(field.name, field.type) for field in table.schema] == SCHEMA


@every_format
def test_schema_does_not_depend_on_the_values(file_format: str) -> None:
    empty: Row = ("a", *[None] * 4)
    schemas = [read(file_format, write(file_format, rows)).schema for rows in (ROWS, [empty])]
    assert schemas[0] == schemas[1]


@pytest.mark.parametrize(("groups_of", "sizes"), [(1, [3, 3, 3]), (2, [6, 3]), (99, [9])])
def test_parquet_has_groups_of_a_minimum_size(
    monkeypatch: pytest.MonkeyPatch, groups_of: int, sizes: list[int]
) -> None:
    size = columnar.RecordBatchBuilder(TYPES).build(ROWS).get_total_buffer_size()
    monkeypatch.setattr(columnar, "_ROW_GROUP_BYTES", size * groups_of)
    metadata = parquet.read_metadata(write("parquet", *[ROWS] * 3))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == sizes


@every_format
def test_failure_writes_no_rows_that_are_pending(file_format: str) -> None:
    file = io.BytesIO()

    def write_in_part() -> None:
        with FORMATS[file_format].make_opener("none", TYPES)(file) as write_rows:
            write_rows(ROWS)
            raise LookupError

    with pytest.raises(LookupError):
        write_in_part()
    assert b"x@y" not in file.getvalue()


def test_parquet_has_dictionaries_of_values_that_repeat() -> None:
    group = parquet.read_metadata(write("parquet", ROWS)).row_group(0)
    by_name = {group.column(i).path_in_schema: group.column(i) for i in range(5)}
    assert not by_name["contact_id"].has_dictionary_page
    assert by_name["city"].has_dictionary_page


def test_parquet_has_statistics_of_what_readers_filter_by() -> None:
    group = parquet.read_metadata(write("parquet", ROWS)).row_group(0)
    by_name = {group.column(i).path_in_schema: group.column(i) for i in range(5)}
    assert by_name["since"].is_stats_set
    assert by_name["seats"].is_stats_set
    assert not by_name["city"].is_stats_set


@every_format
@pytest.mark.parametrize(
    ("values", "warns"),
    [([2**53, 10**20, 0.1], False), ([2**53 + 1, 3], True), ([-(2**53) - 1, 10**30 + 7], True)],
)
def test_rounded_whole_numbers_are_warned_of(
    file_format: str, values: list[float], *, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert numbers(file_format, *values) == [float(value) for value in values]
    assert caplog.text.count("rounding whole numbers beyond 2^53") == warns


def test_only_the_column_that_is_rounded_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names: dict[str, ColumnType] = {"a": NUMBER, "b": NUMBER, "c": NUMBER}
    open_writer = FORMATS["arrow"].make_opener("none", names)
    for _ in range(2):
        with open_writer(io.BytesIO()) as write_rows:
            write_rows([(1, 2**53 + 1, 0.5)])
    assert [message.partition(" beyond")[0] for message in caplog.messages] == [
        "Column b: rounding whole numbers"
    ]


@every_format
def test_number_beyond_doubles_is_an_error(file_format: str) -> None:
    with pytest.raises(DataError, match=r"^Column seats: .* beyond the range of double"):
        numbers(file_format, 1, 10**400)


@every_format
def test_whole_numbers_are_exact_in_an_integer_column(file_format: str) -> None:
    values = [2**63 - 1, -(2**63), 2**53 + 1]
    assert numbers(file_format, *values, column_type=INTEGER) == values


@every_format
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400])
def test_whole_number_beyond_int64_is_an_error(file_format: str, value: int) -> None:
    with pytest.raises(DataError, match=r"^Column seats: .* int64, .* type it string"):
        numbers(file_format, 1, value, column_type=INTEGER)


@pytest.mark.parametrize("day", [datetime.min, datetime.max])  # noqa: DTZ901 - gets its zone
def test_all_dates_can_be_written(day: datetime) -> None:
    rows: list[Row] = [(day.replace(tzinfo=timezone.utc),), (None,)]
    table = read("arrow", write("arrow", rows, types={"since": DATE}))
    assert [(each["since"],) for each in table.to_pylist()] == rows


def test_example_has_an_sql_type_for_every_column_type() -> None:
    example = runpy.run_path(str(ROOT / "examples" / "load_batches.py"))
    for each in COLUMN_TYPES.values():
        assert example["column_type"](pa.field("x", each.arrow(pa)))


def test_memory_holds_a_group_not_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "_BATCH_BYTES", 1)
    file, sizes = io.BytesIO(), list[int]()
    with FORMATS["arrow"].make_opener("none", TYPES)(file) as write_rows:
        for _ in range(3):
            write_rows(ROWS)
            sizes.append(file.tell())
    assert sizes == sorted(set(sizes))

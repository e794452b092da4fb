"""Parquet and Arrow files: groups of a size that suits readers, nothing lost at their ends."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from tap_sendgrid_contacts import columnar

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = pa.record_batch({"name": pa.array(["a", "b"]), "number": pa.array([1.0, None])})

OPEN: dict[str, Callable[[Any], Any]] = {
    "parquet": lambda file: columnar.open_parquet(file, "zstd"),
    "arrow": columnar.open_arrow,
}
every_format = pytest.mark.parametrize("file_format", OPEN)


def write_batches(file_format: str) -> io.BytesIO:
    file = io.BytesIO()
    with OPEN[file_format](file) as write:
        for _ in range(3):
            write(BATCH)
    return file


@every_format
def test_files_have_the_rows_of_all_batches(file_format: str) -> None:
    file = write_batches(file_format)
    read = ipc.open_file(file).read_all() if file_format == "arrow" else parquet.read_table(file)
    assert read.equals(pa.Table.from_batches([BATCH] * 3))


@pytest.mark.parametrize(
    ("group_bytes", "groups"),
    [(1, [2, 2, 2]), (BATCH.get_total_buffer_size() + 1, [4, 2]), (2**20, [6])],
)
def test_parquet_has_groups_of_a_minimum_size(
    monkeypatch: pytest.MonkeyPatch, group_bytes: int, groups: list[int]
) -> None:
    monkeypatch.setattr(columnar, "_ROW_GROUP_BYTES", group_bytes)
    metadata = parquet.read_metadata(write_batches("parquet"))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == groups


@every_format
def test_failure_closes_the_file_without_what_is_pending(file_format: str) -> None:
    file = io.BytesIO()

    def write_in_part() -> None:
        with OPEN[file_format](file) as write:
            write(BATCH)
            raise LookupError

    with pytest.raises(LookupError):
        write_in_part()
    # A batch is pending until there are enough of them.
    assert file.getvalue() == b""


def test_parquet_has_dictionaries_of_values_that_repeat() -> None:
    file = io.BytesIO()
    batch = pa.record_batch({name: pa.array(["a", "b"]) for name in ("contact_id", "city")})
    with columnar.open_parquet(file, "none") as write:
        write(batch)
    group = parquet.read_metadata(file).row_group(0)
    assert [group.column(i).has_dictionary_page for i in range(2)] == [False, True]


def test_parquet_has_statistics_of_what_readers_filter_by() -> None:
    file = io.BytesIO()
    with columnar.open_parquet(file, "none") as write:
        write(BATCH)
    group = parquet.read_metadata(file).row_group(0)
    assert [group.column(i).is_stats_set for i in range(2)] == [False, True]
    text_only = io.BytesIO()
    with columnar.open_parquet(text_only, "none") as write:
        write(BATCH.select(["name"]))
    assert not parquet.read_metadata(text_only).row_group(0).column(0).is_stats_set

"""Outputs: a checkpoint is saved only after what it covers has been taken."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import pytest
from singer_sdk.helpers._batch import BatchConfig
from typing_extensions import override

from tap_sendgrid_contacts import outputs
from tap_sendgrid_contacts.checkpoint import Checkpoint, CheckpointStore
from tap_sendgrid_contacts.messages import MessageWriter, RecordMessageEncoder
from tap_sendgrid_contacts.records import Records
from tap_sendgrid_contacts.sync import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_sendgrid_contacts.columns import ColumnType, Row


TYPES: dict[str, ColumnType] = {"contact_id": "text", "updated_at": "date"}
RECORDS = Records(TYPES)
DAY = datetime(2020, 1, 2, tzinfo=timezone.utc)
START = Checkpoint(DAY, {}, export_id="e1")


class Store(CheckpointStore):
    """A store that lists what is saved and emitted, in order with what else is appended.

    Attributes:
        log: `save 3` for a checkpoint after 3 contacts, `emit` for a STATE.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        super().__init__({}, lambda: self.log.append("emit"), {}, {})
        super().save(START)
        self.log.clear()

    @override
    def save(self, checkpoint: Checkpoint, *, emit: bool = False) -> None:
        self.log.append(f"save {checkpoint.part_offset}")
        super().save(checkpoint, emit=emit)


@pytest.fixture
def store() -> Store:
    return Store()


def after(contacts: int) -> Checkpoint:
    return msgspec.structs.replace(START, part_offset=contacts)


def blocks_of(*sizes: int) -> Iterator[Block]:
    """Yield blocks of so many contacts, with ids from 0 on."""
    start = 0
    for size in sizes:
        contacts: list[Row] = [(str(i), DAY) for i in range(start, start + size)]
        yield Block(contacts, after(start + size), after(start))
        start += size


# --- emit -----------------------------------------------------------------------------------


def test_checkpoint_is_saved_after_its_items_were_taken(store: Store) -> None:
    items = outputs.emit([(["a", "b"], after(2)), (["c"], after(3))], store)
    for item in items:
        store.log.append(item)
    assert store.log == ["a", "b", "save 2", "c", "save 3"]


@pytest.mark.parametrize(("taken", "log"), [(1, []), (2, []), (3, ["save 2"])])
def test_checkpoint_is_not_saved_while_its_last_item_is_written(
    store: Store, taken: int, log: list[str]
) -> None:
    items = outputs.emit([(["a", "b"], after(2)), (["c"], after(3))], store)
    for _ in range(taken):
        next(items)
    # What the SDK raises while it writes ends the generator.
    items.close()  # type: ignore[attr-defined]
    assert store.log == log


def test_checkpoint_without_items_is_saved(store: Store) -> None:
    assert list(outputs.emit([((), after(2))], store)) == []
    assert store.log == ["save 2"]


def test_failing_items_save_no_checkpoint(store: Store) -> None:
    def items() -> Iterator[str]:
        yield "a"
        raise LookupError

    with pytest.raises(LookupError):
        list(outputs.emit([(items(), after(2))], store))
    assert store.log == []


def test_state_per_item_is_emitted_after_items_only(store: Store) -> None:
    groups: list[tuple[list[str], Checkpoint]] = [
        (["a"], after(2)),
        ([], after(3)),
        (["b"], after(4)),
    ]
    for item in outputs.emit(groups, store, state_per_item=True):
        store.log.append(item)
    assert store.log == ["a", "save 2", "emit", "save 3", "b", "save 4", "emit"]


# --- RECORD lines ---------------------------------------------------------------------------


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def increment(self, value: int = 1) -> None:
        self.value += value


def test_records_are_written_before_their_checkpoint_is_yielded(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    writer, counter = MessageWriter(), Counter()
    encoder = RecordMessageEncoder("contacts", None, TYPES)
    seen = 0
    for items, checkpoint in outputs.record_lines(
        blocks_of(2, 0, 3),
        writer,
        encoder,
        counter,  # type: ignore[arg-type]
    ):
        assert list(items) == []
        lines = capsysbinary.readouterr().out.splitlines()
        ids = [json.loads(line)["record"]["contact_id"] for line in lines]
        assert ids == [str(i) for i in range(seen, checkpoint.part_offset)]
        seen = checkpoint.part_offset
        assert writer.records_emitted == counter.value == seen
    assert seen == 5


def test_record_count_metric_is_optional(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    encoder = RecordMessageEncoder("contacts", None, TYPES)
    assert len(list(outputs.record_lines(blocks_of(1), MessageWriter(), encoder, None))) == 1
    assert capsysbinary.readouterr().out.count(b"\n") == 1


def test_broken_pipe_yields_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MessageWriter()

    def write_lines(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(writer, "write_lines", write_lines)
    output = outputs.record_lines(
        blocks_of(1), writer, RecordMessageEncoder("contacts", None, TYPES), None
    )
    with pytest.raises(BrokenPipeError):
        next(output)


# --- SDK records ----------------------------------------------------------------------------


def test_sdk_records_are_plain_and_followed_by_the_checkpoint(store: Store) -> None:
    for record in outputs.emit(outputs.sdk_records(blocks_of(2, 1), RECORDS), store):
        assert record.keys() == {"contact_id", "updated_at"}
        assert record["updated_at"] == "2020-01-02T00:00:00Z"
        store.log.append(record["contact_id"])
    assert store.log == ["0", "1", "save 2", "2", "save 3"]


# --- BATCH files ----------------------------------------------------------------------------


def batch_config(folder: Path, size: int) -> BatchConfig:
    return BatchConfig.from_dict(
        {
            "encoding": {"format": "jsonl", "compression": "gzip"},
            "storage": {"root": folder.as_uri()},
            "batch_size": size,
        }
    )


def rows_of(manifest: list[str]) -> list[dict[str, Any]]:
    (url,) = manifest
    lines = gzip.decompress(Path(urlsplit(url).path).read_bytes()).splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("sizes", [(5, 4, 3), (1,) * 6, (10,), (0, 3, 0, 0, 4, 0), (0,), ()])
def test_checkpoint_after_a_file_never_covers_more_than_the_files(
    tmp_path: Path, size: int, sizes: tuple[int, ...]
) -> None:
    writer, ids = MessageWriter(), list[int]()
    output = outputs.batch_files(
        blocks_of(*sizes),
        writer,
        batch_config(tmp_path, size),
        "contacts",
        TYPES,
        RECORDS.as_structs,
    )
    checkpoint = START
    for manifests, checkpoint in output:
        for manifest in manifests:
            rows = rows_of(manifest)
            assert 0 < len(rows) <= size
            ids += [int(row["contact_id"]) for row in rows]
        assert checkpoint.part_offset <= len(ids)
        # Within the block that is being written.
        assert len(ids) - checkpoint.part_offset < max(1, *sizes)
        assert writer.records_emitted == len(ids)
    assert ids == list(range(sum(sizes)))
    assert checkpoint.part_offset == sum(sizes)


def test_state_follows_each_file(tmp_path: Path, store: Store) -> None:
    config = batch_config(tmp_path, 2)
    output = outputs.batch_files(
        blocks_of(4, 0, 1), MessageWriter(), config, "contacts", TYPES, RECORDS.as_structs
    )
    for manifest in outputs.emit(output, store, state_per_item=True):
        store.log.append(f"file of {len(rows_of(manifest))}")
    # A block of four has one checkpoint, valid with its last file.
    assert store.log == [
        *("file of 2", "save 0", "emit"),
        *("file of 2", "save 4", "emit"),
        *("file of 1", "save 5", "emit"),
    ]


def test_end_of_a_part_has_its_checkpoint(tmp_path: Path) -> None:
    (block,) = blocks_of(1)
    finished = block.checkpoint.finish_part("name", "content")
    end = Block(None, finished, block.checkpoint)
    output = outputs.batch_files(
        [block, end],
        MessageWriter(),
        batch_config(tmp_path, 10),
        "contacts",
        TYPES,
        RECORDS.as_structs,
    )
    assert [checkpoint for _, checkpoint in output] == [finished]


def test_mapped_contacts_are_written_and_counted(tmp_path: Path) -> None:
    def map_contacts(contacts: list[Row]) -> list[dict[str, Any]]:
        return [{"id": Decimal("1.10")} for contact in contacts if contact[0] != "1"]

    writer = MessageWriter()
    output = outputs.batch_files(
        blocks_of(3), writer, batch_config(tmp_path, 10), "contacts", TYPES, map_contacts
    )
    ((manifests, checkpoint),) = output
    assert [rows_of(manifest) for manifest in manifests] == [[{"id": 1.1}] * 2]
    assert writer.records_emitted == 2
    assert checkpoint.part_offset == 3


def test_contacts_that_are_all_filtered_out_have_a_checkpoint_but_no_file(tmp_path: Path) -> None:
    output = outputs.batch_files(
        blocks_of(3), MessageWriter(), batch_config(tmp_path, 10), "contacts", TYPES, lambda _: []
    )
    assert [(manifests, checkpoint.part_offset) for manifests, checkpoint in output] == [([], 3)]
    assert list(tmp_path.iterdir()) == []

"""RECORD lines and records for the SDK: a checkpoint follows the contacts that it covers."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts.checkpoint import Block, Checkpoint
from tap_sendgrid_contacts.output.lines import RecordLines, SdkRecords
from tap_sendgrid_contacts.output.messages import MessageWriter
from tap_sendgrid_contacts.output.records import Records

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("contact_id", "updated_at")
DAY = datetime(2020, 1, 2, tzinfo=timezone.utc)


class Counter:
    """The SDK's metric."""

    def __init__(self) -> None:
        self.value = 0

    def increment(self, value: int) -> None:
        self.value += value


def blocks_of(*sizes: int) -> Iterator[Block]:
    """Yield blocks of so many contacts, with ids from 0 on."""
    end = 0
    for size in sizes:
        rows = [(str(number), DAY) for number in range(end, end + size)]
        end += size
        yield Block(rows, Checkpoint(DAY, part_offset=end))


@pytest.mark.parametrize("version", [None, 1700000000])
def test_lines_are_written_before_their_checkpoint_is_yielded(
    capsysbinary: pytest.CaptureFixture[bytes], version: int | None
) -> None:
    counter: Any = Counter()
    output = RecordLines("contacts", NAMES, MessageWriter(), counter)
    seen = 0
    for items, checkpoint in output.write(blocks_of(2, 0, 3), version):
        assert items == ()
        messages = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
        assert {message.get("version") for message in messages} <= {version}
        ids = [message["record"]["contact_id"] for message in messages]
        assert ids == [str(number) for number in range(seen, checkpoint.part_offset)]
        seen = checkpoint.part_offset
        assert output.records_emitted == counter.value == seen
    assert seen == 5


def test_metric_is_optional(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    output = RecordLines("contacts", NAMES, MessageWriter(), None)
    assert len(list(output.write(blocks_of(1), None))) == 1
    assert capsysbinary.readouterr().out.count(b"\n") == 1


def test_broken_pipe_yields_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MessageWriter()

    def write_lines(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(writer, "write_lines", write_lines)
    with pytest.raises(BrokenPipeError):
        next(RecordLines("contacts", NAMES, writer, None).write(blocks_of(1), None))


def test_records_for_the_sdk_are_plain() -> None:
    groups = SdkRecords(Records(NAMES), MessageWriter()).write(blocks_of(2, 1), None)
    assert [([*records], checkpoint.part_offset) for records, checkpoint in groups] == [
        ([{"contact_id": id_, "updated_at": "2020-01-02T00:00:00Z"} for id_ in ids], offset)
        for ids, offset in (("01", 2), ("2", 3))
    ]

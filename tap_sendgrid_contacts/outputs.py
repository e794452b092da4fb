"""Outputs of a sync: blocks of contacts become RECORD lines, SDK records or BATCH files.

Each output is a generator of what the SDK is to write for some contacts, and of the checkpoint
that is valid once it has done so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from tap_sendgrid_contacts.batches import Chunk, write_batch_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from singer_sdk.helpers._batch import BatchConfig
    from singer_sdk.helpers.types import Record
    from singer_sdk.metrics import Counter

    from tap_sendgrid_contacts.checkpoint import Checkpoint, CheckpointStore
    from tap_sendgrid_contacts.columns import ColumnType, Row
    from tap_sendgrid_contacts.messages import MessageWriter, RecordMessageEncoder
    from tap_sendgrid_contacts.records import Records
    from tap_sendgrid_contacts.sync import Block

T = TypeVar("T")


def emit(
    outputs: Iterable[tuple[Iterable[T], Checkpoint]],
    store: CheckpointStore,
    *,
    state_per_item: bool = False,
) -> Iterator[T]:
    """Hand outputs to the SDK, and save each checkpoint once they are written.

    Args:
        outputs: What the SDK is to write, and the checkpoint after it.
        store: Where checkpoints are saved.
        state_per_item: Whether to emit a STATE after each item, not only when it is due.

    Yields:
        The items, for the SDK to write.
    """
    for items, checkpoint in outputs:
        is_empty = True
        for item in items:
            is_empty = False
            # The SDK has written it when it asks for the next one.
            yield item
        store.save(checkpoint, emit=state_per_item and not is_empty)


def record_lines(
    blocks: Iterable[Block],
    writer: MessageWriter,
    encoder: RecordMessageEncoder,
    counter: Counter | None,
) -> Iterator[tuple[tuple[()], Checkpoint]]:
    """Write contacts as RECORD messages at once, past the SDK: the fast path.

    Args:
        blocks: The contacts.
        writer: Writes to standard output.
        encoder: Encodes the messages.
        counter: The SDK's metric of records.
    """
    for block in blocks:
        if block.contacts:
            count = len(block.contacts)
            writer.write_lines(encoder.encode(block.contacts), count)
            if counter is not None:
                counter.increment(count)
        yield (), block.checkpoint


def sdk_records(
    blocks: Iterable[Block], records: Records
) -> Iterator[tuple[Iterable[Record], Checkpoint]]:
    """Give contacts to the SDK one by one, for stream maps and flattening: the slow path."""
    for block in blocks:
        yield records.as_dicts(block.contacts or ()), block.checkpoint


def batch_files(
    blocks: Iterable[Block],
    writer: MessageWriter,
    config: BatchConfig,
    name: str,
    types: Mapping[str, ColumnType],
    map_contacts: Callable[[list[Row]], list[Any]] | None = None,
) -> Iterator[tuple[list[list[str]], Checkpoint]]:
    """Write contacts to BATCH files.

    Args:
        blocks: The contacts.
        writer: Counts the records.
        config: The SDK's `batch_config`.
        name: Prefix of the file names.
        types: The type of each value of a contact by its column's name.
        map_contacts: Makes what is written of contacts; None if that is their rows.

    Yields:
        The manifest of each file.
    """
    chunks = _iter_chunks(blocks, config.batch_size, map_contacts)
    for manifest, rows, checkpoint in write_batch_files(chunks, config, name, types):
        writer.records_emitted += rows
        yield [manifest] if manifest else [], checkpoint


def _iter_chunks(
    blocks: Iterable[Block],
    size: int,
    map_contacts: Callable[[list[Row]], list[Any]] | None,
) -> Iterator[Chunk]:
    for block in blocks:
        if block.contacts is None:
            yield Chunk((), block.checkpoint)
            continue
        for start in range(0, max(len(block.contacts), 1), size):
            contacts = block.contacts[start : start + size]
            # A checkpoint is that of the whole block: up to its last chunk, none of it is read.
            is_last = start + size >= len(block.contacts)
            yield Chunk(
                map_contacts(contacts) if map_contacts else contacts,
                block.checkpoint if is_last else block.previous,
            )

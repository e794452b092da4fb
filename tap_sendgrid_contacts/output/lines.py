"""RECORD lines, written past the SDK, and records for its stream maps."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tap_sendgrid_contacts.output.messages import RecordMessageEncoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from singer_sdk.helpers.types import Record
    from singer_sdk.metrics import Counter

    from tap_sendgrid_contacts.checkpoint import Block, Checkpoint
    from tap_sendgrid_contacts.output.messages import MessageWriter
    from tap_sendgrid_contacts.output.records import Records


class RecordLines:
    """Writes contacts as RECORD messages at once, past the SDK: the fast path."""

    def __init__(
        self, stream: str, names: Sequence[str], writer: MessageWriter, counter: Counter | None
    ) -> None:
        self._stream = stream
        self._names = tuple(names)
        self._writer = writer
        self._counter = counter

    @property
    def records_emitted(self) -> int:
        """See `Output`."""
        return self._writer.records_emitted

    def write(
        self, blocks: Iterable[Block], version: int | None
    ) -> Iterator[tuple[tuple[()], Checkpoint]]:
        """See `Output`; the SDK has nothing to write."""
        encoder = _make_encoder(self._stream, version, self._names)
        for block in blocks:
            if block.rows:
                count = len(block.rows)
                self._writer.write_lines(encoder.encode(block.rows), count)
                if self._counter is not None:
                    self._counter.increment(count)
            yield (), block.checkpoint


class SdkRecords:
    """Hands contacts to the SDK one by one, for stream maps and flattening: the slow path."""

    def __init__(self, records: Records, writer: MessageWriter) -> None:
        self._records = records
        self._writer = writer

    @property
    def records_emitted(self) -> int:
        """See `Output`."""
        return self._writer.records_emitted

    def write(
        self, blocks: Iterable[Block], version: int | None
    ) -> Iterator[tuple[Iterator[Record], Checkpoint]]:
        """See `Output`; the SDK gets the version from the stream."""
        del version
        for block in blocks:
            yield self._records.as_dicts(block.rows), block.checkpoint


@lru_cache(maxsize=1)
def _make_encoder(stream: str, version: int | None, names: tuple[str, ...]) -> RecordMessageEncoder:
    # One for all lists and segments of a run.
    return RecordMessageEncoder(stream, version, names)

"""Write Singer messages to standard output: complete lines, in blocks."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from itertools import repeat
from typing import TYPE_CHECKING

import msgspec
from singer_sdk.contrib.msgspec import MsgSpecWriter, serialize_jsonl
from singer_sdk.exceptions import FatalSyncError
from singer_sdk.singerlib import RecordMessage, StateMessage
from typing_extensions import override

from tap_sendgrid_contacts.output.records import Records

if TYPE_CHECKING:
    from collections.abc import Iterable

    from singer_sdk.singerlib.encoding.simple import Message

    from tap_sendgrid_contacts.columns import Row


class MessageWriter(MsgSpecWriter):
    """Writer of complete lines; counts RECORD messages."""

    def __init__(self) -> None:
        super().__init__()
        self.records_emitted = 0

    @override
    def write_message(self, message: Message) -> None:
        self.write_lines(self.format_message(message), isinstance(message, RecordMessage))

    @override
    def serialize_message(self, message: Message) -> bytearray:
        if isinstance(message, StateMessage):
            # The SDK copies a message for that, and a state can have hundreds of exports.
            return serialize_jsonl({"type": "STATE", "value": message.value})
        return super().serialize_message(message)

    def write_lines(self, lines: bytes | bytearray, records: int = 0) -> None:
        """Write complete lines, of which some are RECORD messages, and flush them.

        Raises:
            BrokenPipeError: If the target is gone.
            FatalSyncError: If standard output cannot be written otherwise.
        """
        try:
            stdout = sys.stdout.buffer
            # With PYTHONUNBUFFERED it is the raw file, whose writes can be partial.
            with memoryview(lines) as rest:
                written = 0
                while written < len(rest):
                    written += stdout.write(rest[written:])
            stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise FatalSyncError(f"Cannot write to standard output: {error.strerror}") from error
        self.records_emitted += records


class RecordMessageEncoder:
    """Encodes contacts as RECORD messages, a block at a time.

    The bytes are those of the SDK's own message and writer, at a tenth of the cost.
    """

    def __init__(self, stream: str, version: int | None, names: Iterable[str]) -> None:
        self._records = Records(names)
        version_field = ["version"] if version else []
        self._message_class = msgspec.defstruct(
            "Message", ["type", "stream", "record", *version_field, "time_extracted"], gc=False
        )
        self._leading_fields = repeat("RECORD"), repeat(stream)
        self._trailing_fields = [repeat(version)] if version else []
        self._encoder = msgspec.json.Encoder()

    def encode(self, contacts: Iterable[Row]) -> bytes:
        """Encode contacts as lines."""
        now = repeat(datetime.now(timezone.utc))
        records = self._records.as_structs(contacts)
        messages = map(
            self._message_class, *self._leading_fields, records, *self._trailing_fields, now
        )
        return self._encoder.encode_lines(list(messages))

"""Write contacts to BATCH files."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import uuid
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.maps import changes_nothing
from tap_sendgrid_contacts.output.formats import FORMATS
from tap_sendgrid_contacts.output.storage import (
    is_local,
    map_storage_errors,
    open_file,
    remove_unfinished,
    resolve_root,
    validate_root,
    validate_transport,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from singer_sdk.helpers._batch import BatchConfig
    from singer_sdk.mapper import StreamMap

    from tap_sendgrid_contacts.checkpoint import Block, Checkpoint
    from tap_sendgrid_contacts.column_types import ColumnType
    from tap_sendgrid_contacts.columns import Row
    from tap_sendgrid_contacts.output.formats import Write


logger = logging.getLogger(__name__)


def validate_batch_config(config: BatchConfig) -> None:
    """Raise `ConfigurationError` for what the settings' schema does not exclude."""
    encoding = config.encoding
    file_format = FORMATS[encoding.format]
    if encoding.compression not in {None, *file_format.suffixes}:
        raise ConfigurationError(
            "batch_config.encoding.compression must be one of "
            f"{', '.join(file_format.suffixes)} for {encoding.format}"
        )
    if file_format.package and not find_spec(file_format.package):
        raise ConfigurationError(
            f"batch_config.encoding.format {encoding.format} requires PyArrow: install the tap "
            "with the extra 'arrow'"
        )
    validate_root(config.storage.root, config.storage.prefix or "")
    if file_format.is_local and not is_local(config.storage.root):
        raise ConfigurationError(
            f"batch_config.storage.root must be a local folder for {encoding.format}"
        )
    validate_transport(config.storage.root, config.storage.params)


def validate_combination(
    config: BatchConfig, mappers: Sequence[StreamMap], *, has_version: bool
) -> None:
    """Raise `ConfigurationError` for what BATCH files cannot be combined with."""
    if len(mappers) > 1:
        # The SDK would announce every file for each of them.
        raise ConfigurationError("batch_config supports at most one stream map")
    if has_version:
        raise ConfigurationError(
            "batch_config cannot be combined with emit_activate_version_messages: records in files "
            "have no version, so a target would delete them"
        )
    name = config.encoding.format
    if FORMATS[name].is_columnar and not changes_nothing(mappers):
        raise ConfigurationError(
            f"batch_config.encoding.format {name} does not support stream maps and flattening; use "
            "jsonl"
        )


class _Chunk(NamedTuple):
    """Records that belong into one file.

    Attributes:
        records: The records.
        checkpoint: Valid once they are durable; None if that is the one before.
        requested_at: When their export was requested.
    """

    records: Sequence[Any]
    checkpoint: Checkpoint | None
    requested_at: datetime


class BatchFiles:
    """Writes contacts to BATCH files of up to `batch_size` records.

    All files of an export, also those of a resumed run, have its time in their names.

    Args:
        config: Storage, records per file, format and compression.
        stream: Name of the stream, for the names of the files.
        types: The type of each value of a row by its column's name.
        make_records: Makes what is written of rows; None if that is the rows.
    """

    def __init__(
        self,
        config: BatchConfig,
        stream: str,
        types: Mapping[str, ColumnType],
        make_records: Callable[[Sequence[Row]], Sequence[Any]] | None,
    ) -> None:
        self.records_emitted = 0
        self._config = config
        self._make_records = make_records
        file_format = FORMATS[config.encoding.format]
        compression = config.encoding.compression or file_format.default_compression
        self._open_writer = file_format.make_opener(compression, types)
        is_new_folder = not config.storage.root
        config.storage.root = resolve_root(config.storage.root)
        if is_new_folder:
            logger.info("Writing BATCH files to %s", config.storage.root)
        self._prefix = f"{config.storage.prefix or ''}{stream}-"
        remove_unfinished(config.storage.get_url(self._prefix))
        suffix = file_format.suffixes[compression]
        unique = uuid.uuid4()
        self._suffixes = (f"-{unique}-{number}.{suffix}" for number in itertools.count(1))

    def write(
        self, blocks: Iterable[Block], version: int | None
    ) -> Iterator[tuple[list[list[str]], Checkpoint | None]]:
        """See `Output`; the SDK is to write the manifest of each file.

        Raises:
            FatalSyncError: If a file cannot be written to the storage.
        """
        del version  # Records in files have none.
        chunks = self._iter_chunks(blocks)
        chunk = next(chunks, None)
        while chunk:
            if not chunk.records:
                yield [], chunk.checkpoint
                chunk = next(chunks, None)
                continue
            name = f"{self._prefix}{chunk.requested_at:%Y%m%dT%H%M%SZ}{next(self._suffixes)}"
            url = self._config.storage.get_url(name)
            count = 0
            with self._open(url) as write:
                while chunk and count + len(chunk.records) <= self._config.batch_size:
                    if chunk.records:
                        with map_storage_errors(url):
                            write(chunk.records)
                    count += len(chunk.records)
                    checkpoint = chunk.checkpoint
                    chunk = next(chunks, None)
            self.records_emitted += count
            yield [[url]], checkpoint

    @contextlib.contextmanager
    def _open(self, url: str) -> Iterator[Write]:
        """Open a file that appears in the storage only if the block ends without an exception."""
        stack = contextlib.ExitStack()
        try:
            with map_storage_errors(url):
                file = stack.enter_context(open_file(url, self._config.storage.params))
                write = stack.enter_context(self._open_writer(file))
            yield write
            with map_storage_errors(url):
                stack.close()
        except BaseException:
            # After a failed write, closing may fail too; that error would hide the first one.
            with contextlib.suppress(Exception):
                stack.__exit__(*sys.exc_info())
            raise

    def _iter_chunks(self, blocks: Iterable[Block]) -> Iterator[_Chunk]:
        size = self._config.batch_size
        before: Checkpoint | None = None
        for rows, checkpoint in blocks:
            for start in range(0, max(len(rows), 1), size):
                records: Sequence[Any] = rows[start : start + size]
                if self._make_records and records:
                    records = self._make_records(records)
                # Up to the last chunk of a block, nothing of it counts as read.
                is_last = start + size >= len(rows)
                yield _Chunk(records, checkpoint if is_last else before, checkpoint.requested_at)
            before = checkpoint

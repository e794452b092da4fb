"""Write BATCH files in any storage that fsspec supports."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
import tempfile
import uuid
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import fsspec
import msgspec
from fsspec.utils import get_protocol
from singer_sdk.exceptions import ConfigurationError, DataError, FatalSyncError

from tap_sendgrid_contacts.api.urls import is_safe_url
from tap_sendgrid_contacts.decode.lines import GzipFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig

    from tap_sendgrid_contacts.checkpoint import Block, Checkpoint
    from tap_sendgrid_contacts.columns import ColumnType, Row

    Write = Callable[[Sequence[Any]], object]
    OpenWriter = Callable[[IO[bytes]], contextlib.AbstractContextManager[Write]]

# Fast: a higher level would cost more time than the smaller files save.
_GZIP_LEVEL = 1


# What a storage root can be in. Others, such as `memory`, lose or publish what is written.
_PROTOCOLS = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss")

# Compressions by format. The first one is used if none is configured.
_COMPRESSIONS = {"jsonl": ("none", "gzip"), "parquet": ("zstd", "none"), "arrow": ("none",)}


def is_columnar(encoding: BaseBatchFileEncoding) -> bool:
    """Return whether files have a columnar format."""
    return encoding.format != "jsonl"


def validate_batch_config(config: BatchConfig) -> None:
    """Raise `ConfigurationError` for formats and storages that are not supported."""
    encoding = config.encoding
    compressions = _COMPRESSIONS.get(encoding.format)
    if not compressions:
        raise ConfigurationError(
            f"batch_config.encoding.format must be one of {', '.join(_COMPRESSIONS)}"
        )
    if encoding.compression not in {None, *compressions}:
        raise ConfigurationError(
            f"batch_config.encoding.compression must be one of {', '.join(compressions)} for "
            f"{encoding.format}"
        )
    if is_columnar(encoding) and not find_spec("pyarrow"):
        raise ConfigurationError(
            f"batch_config.encoding.format {encoding.format} requires PyArrow: install the tap "
            "with the extra 'arrow'"
        )
    if config.batch_size < 1:
        raise ConfigurationError("batch_config.batch_size must be at least 1")
    if config.storage.root:
        _validate_root(config.storage.root)
        if encoding.format == "arrow" and not _is_local(config.storage.root):
            raise ConfigurationError("batch_config.storage.root must be a local folder for arrow")
    _validate_params(config.storage.params)


def make_folder() -> str:
    """Make a folder for the files of a run without `storage.root`; return its URL."""
    return Path(tempfile.mkdtemp(prefix="tap-sendgrid-contacts-")).as_uri()


def _validate_root(root: str) -> None:
    has_protocol = re.match(r"[a-z][a-z\d+.-]+:", root, re.IGNORECASE)
    protocol, separator, path = root.partition("://")
    if has_protocol and (protocol not in _PROTOCOLS or not separator or "::" in root):
        raise ConfigurationError(
            "batch_config.storage.root must be a local folder (file:///path) or in an object "
            f"store ({', '.join(f'{each}://' for each in _PROTOCOLS[1:])}), without chaining"
        )
    if separator and not path:
        # `file://` would mean the working directory.
        raise ConfigurationError("batch_config.storage.root must name a folder or a bucket")
    try:
        fsspec.get_filesystem_class(get_protocol(root))
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"batch_config.storage.root: {error}") from error


def _validate_params(params: Mapping[str, Any]) -> None:
    """Refuse to send contacts in clear text, except to this computer."""
    text = json.dumps(params, separators=(",", ":"), default=str)
    endpoints = re.findall(r"http://[^\s\";,]*", text, re.IGNORECASE)
    if not all(map(is_safe_url, endpoints)):
        raise ConfigurationError(
            "batch_config.storage.params must not have an http endpoint, except on localhost"
        )
    # 0 and null turn it off too.
    turned_off = re.search(
        r'"use_ssl":(?!true)|DefaultEndpointsProtocol=http\b', text, re.IGNORECASE
    )
    if turned_off and not endpoints:
        raise ConfigurationError("batch_config.storage.params must not turn TLS off")


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
        name: Start of the file names.
        types: The type of each value of a row by its column's name.
        make_records: Makes what is written of rows; None if that is the rows.

    Attributes:
        records_emitted: Number of records so far.
    """

    def __init__(
        self,
        config: BatchConfig,
        name: str,
        types: Mapping[str, ColumnType],
        make_records: Callable[[Sequence[Row]], Sequence[Any]] | None,
    ) -> None:
        self.records_emitted = 0
        self._config = config
        self._make_records = make_records
        self._open_writer = _make_open_writer(config.encoding, types)
        suffix = config.encoding.format
        if suffix == "jsonl" and config.encoding.compression == "gzip":
            suffix += ".gz"
        self._prefix = f"{config.storage.prefix or ''}{name}-"
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
            with _open(url, self._config, self._open_writer) as write:
                while chunk and count + len(chunk.records) <= self._config.batch_size:
                    if chunk.records:
                        with _map_storage_errors():
                            write(chunk.records)
                    count += len(chunk.records)
                    checkpoint = chunk.checkpoint
                    chunk = next(chunks, None)
            self.records_emitted += count
            yield [[url]], checkpoint

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


@contextlib.contextmanager
def _open(url: str, config: BatchConfig, open_writer: OpenWriter) -> Iterator[Write]:
    """Open a file that appears in the storage only if the block ends without an exception.

    Yields:
        A function that writes records.
    """
    stack = contextlib.ExitStack()
    try:
        with _map_storage_errors():
            filesystem, path = fsspec.url_to_fs(url, **config.storage.params)
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            # Discards what is unfinished; the SDK's `open` would leave it behind.
            stack.enter_context(filesystem.transaction)
            file = stack.enter_context(filesystem.open(path, "wb"))
            write = stack.enter_context(open_writer(file))
        yield write
        with _map_storage_errors():
            stack.close()
    except BaseException:
        # After a failed write, closing may fail too; that error would hide the first one.
        with contextlib.suppress(Exception):
            stack.__exit__(*sys.exc_info())
        raise
    if _is_local(url):
        # Contacts are for the owner only, whatever the umask.
        os.chmod(path, 0o600)  # noqa: PTH101 - a path of fsspec


def _make_open_writer(
    encoding: BaseBatchFileEncoding, types: Mapping[str, ColumnType]
) -> OpenWriter:
    compression = encoding.compression or _COMPRESSIONS[encoding.format][0]
    if not is_columnar(encoding):
        return partial(_open_jsonl, is_gzip=compression == "gzip")
    from tap_sendgrid_contacts.output.columnar import ColumnarFormat  # noqa: PLC0415 - an extra

    return ColumnarFormat(encoding.format, compression, types).open


@contextlib.contextmanager
def _open_jsonl(file: IO[bytes], *, is_gzip: bool) -> Iterator[Write]:
    encoder = msgspec.json.Encoder(decimal_format="number")
    with contextlib.ExitStack() as stack:
        if is_gzip:
            gzip = GzipFile(filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL)
            file = stack.enter_context(gzip)
        yield lambda rows: file.write(encoder.encode_lines(rows))


@contextlib.contextmanager
def _map_storage_errors() -> Iterator[None]:
    """Map the errors of storage backends, each of which has its own, to `FatalSyncError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise FatalSyncError(f"batch_config: failed to write batch file: {reason}") from error


def _is_local(url: str) -> bool:
    return get_protocol(url) in {"file", "local"}

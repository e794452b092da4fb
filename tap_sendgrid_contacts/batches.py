"""Write BATCH files in any storage that fsspec supports."""

from __future__ import annotations

import contextlib
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

    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig

    from tap_sendgrid_contacts.checkpoint import Checkpoint
    from tap_sendgrid_contacts.columns import ColumnType

    Write = Callable[[Sequence[Any]], object]
    OpenWriter = Callable[[IO[bytes]], contextlib.AbstractContextManager[Write]]

# Fast: a higher level would cost more time than the smaller files save.
_GZIP_LEVEL = 1


# What a storage root can be in. Others, such as `memory`, lose or publish what is written.
_PROTOCOLS = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss")

# Compressions by format. The first one is used if none is configured.
_COMPRESSIONS = {"jsonl": ("none", "gzip"), "parquet": ("zstd", "none"), "arrow": ("none",)}


class Chunk(NamedTuple):
    """Records that are written to the same file.

    Attributes:
        rows: The records, not more than the batch size: rows for columnar files, otherwise
            anything that is encoded as a JSON object.
        checkpoint: Valid once the records are durable.
    """

    rows: Sequence[Any]
    checkpoint: Checkpoint


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


def write_batch_files(
    chunks: Iterable[Chunk], config: BatchConfig, name: str, types: Mapping[str, ColumnType]
) -> Iterator[tuple[list[str], int, Checkpoint]]:
    """Write files of up to `batch_size` records.

    Args:
        chunks: The records, in order.
        config: Storage, records per file, format and compression.
        name: Prefix of the file names.
        types: The type of each value of a row by its column's name, for columnar files.

    Yields:
        The manifest of a complete file, the number of its records, and the checkpoint after
        them; an empty manifest where there were no records to write.

    Raises:
        FatalSyncError: If a file cannot be written to the storage.
    """
    suffix = config.encoding.format
    if suffix == "jsonl" and config.encoding.compression == "gzip":
        suffix += ".gz"
    prefix = f"{config.storage.prefix or ''}{name}-{uuid.uuid4()}"
    open_writer = _make_open_writer(config.encoding, types)
    source = iter(chunks)
    chunk = next(source, None)
    number = 0
    while chunk:
        if not chunk.rows:
            yield [], 0, chunk.checkpoint
            chunk = next(source, None)
            continue
        number += 1
        url = config.storage.get_url(f"{prefix}-{number}.{suffix}")
        rows = 0
        with _open(url, config, open_writer) as write:
            while chunk and rows + len(chunk.rows) <= config.batch_size:
                if chunk.rows:
                    with _map_storage_errors():
                        write(chunk.rows)
                rows += len(chunk.rows)
                checkpoint = chunk.checkpoint
                chunk = next(source, None)
        yield [url], rows, checkpoint


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
    from tap_sendgrid_contacts.columnar import ColumnarFormat  # noqa: PLC0415 - an extra

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

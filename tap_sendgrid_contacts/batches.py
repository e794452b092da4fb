"""Write BATCH files: JSON lines in any storage that fsspec supports."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from typing import IO, TYPE_CHECKING, NamedTuple

import fsspec
from fsspec.utils import get_protocol
from singer_sdk.exceptions import ConfigurationError, FatalSyncError

from tap_sendgrid_contacts.decode.lines import GzipFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from singer_sdk.helpers._batch import BatchConfig

    from tap_sendgrid_contacts.checkpoint import Checkpoint

# Fast: a higher level would cost more time than the smaller files save.
_GZIP_LEVEL = 1


class EncodedChunk(NamedTuple):
    """Records that are written to the same file.

    Attributes:
        lines: The records as JSON lines.
        rows: Their number, not more than the batch size.
        checkpoint: Valid once the records are durable.
    """

    lines: bytes
    rows: int
    checkpoint: Checkpoint


def validate_batch_config(config: BatchConfig) -> None:
    """Raise `ConfigurationError` for formats and storages that are not supported."""
    encoding = config.encoding
    if encoding.format != "jsonl":
        raise ConfigurationError("batch_config.encoding.format: only jsonl is supported")
    if encoding.compression not in {None, "none", "gzip"}:
        raise ConfigurationError("batch_config.encoding.compression: use gzip or none")
    if config.batch_size < 1:
        raise ConfigurationError("batch_config.batch_size must be at least 1")
    try:
        fsspec.get_filesystem_class(get_protocol(config.storage.root))
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"batch_config.storage.root: {error}") from error


def write_batch_files(
    chunks: Iterable[EncodedChunk], config: BatchConfig, name: str
) -> Iterator[tuple[list[str], int, Checkpoint]]:
    """Write files of up to `batch_size` records.

    Args:
        chunks: The records, in order.
        config: Storage, records per file, compression.
        name: Prefix of the file names.

    Yields:
        The manifest of a complete file, the number of its records, and the checkpoint after
        them; an empty manifest where there were no records to write.

    Raises:
        FatalSyncError: If a file cannot be written to the storage.
    """
    is_gzip = config.encoding.compression == "gzip"
    prefix = f"{config.storage.prefix or ''}{name}-{uuid.uuid4()}"
    source = iter(chunks)
    chunk = next(source, None)
    number = 0
    while chunk:
        if not chunk.rows:
            yield [], 0, chunk.checkpoint
            chunk = next(source, None)
            continue
        number += 1
        url = config.storage.get_url(f"{prefix}-{number}.jsonl{'.gz' if is_gzip else ''}")
        rows = 0
        with _open(url, config, is_gzip=is_gzip) as file:
            while chunk and rows + chunk.rows <= config.batch_size:
                with _map_storage_errors():
                    file.write(chunk.lines)
                rows += chunk.rows
                checkpoint = chunk.checkpoint
                chunk = next(source, None)
        yield [url], rows, checkpoint


@contextlib.contextmanager
def _open(url: str, config: BatchConfig, *, is_gzip: bool) -> Iterator[IO[bytes]]:
    """Open a file that appears in the storage only if the block ends without an exception."""
    stack = contextlib.ExitStack()
    try:
        with _map_storage_errors():
            filesystem, path = fsspec.url_to_fs(url, **config.storage.params)
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            # Discards what is unfinished; the SDK's `open` would leave it behind.
            stack.enter_context(filesystem.transaction)
            raw = stack.enter_context(filesystem.open(path, "wb"))
            file = stack.enter_context(_compressed(raw, is_gzip=is_gzip))
        yield file
        with _map_storage_errors():
            stack.close()
    except BaseException:
        # After a failed write, closing may fail too; that error would hide the first one.
        with contextlib.suppress(Exception):
            stack.__exit__(*sys.exc_info())
        raise
    if get_protocol(url) in {"file", "local"}:
        # Contacts are for the owner only, whatever the umask.
        os.chmod(path, 0o600)  # noqa: PTH101 - a path of fsspec


@contextlib.contextmanager
def _map_storage_errors() -> Iterator[None]:
    """Map the errors of storage backends, each of which has its own, to `FatalSyncError`."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise FatalSyncError(f"batch_config: failed to write batch file: {reason}") from error


def _compressed(raw: IO[bytes], *, is_gzip: bool) -> contextlib.AbstractContextManager[IO[bytes]]:
    if not is_gzip:
        return contextlib.nullcontext(raw)
    file: IO[bytes] = GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=_GZIP_LEVEL)
    return file

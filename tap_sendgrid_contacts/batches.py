"""Contacts to BATCH files: JSON lines in any storage that fsspec reaches."""

from __future__ import annotations

import contextlib
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

    from tap_sendgrid_contacts.position import Position

# Made for speed: smaller files would cost more time than they save.
_GZIP_LEVEL = 1


class Chunk(NamedTuple):
    """Records that go into one file together.

    Attributes:
        lines: The records as JSON lines.
        rows: How many they are, no more than a file may have.
        position: How far the export is read behind them.
    """

    lines: bytes
    rows: int
    position: Position


def check(config: BatchConfig) -> None:
    """Raise `ConfigurationError` for what the tap does not write."""
    encoding = config.encoding
    if encoding.format != "jsonl" or encoding.compression not in {None, "none", "gzip"}:
        raise ConfigurationError(
            "`batch_config`: files are written as jsonl, with compression gzip or none"
        )
    if config.batch_size < 1:
        raise ConfigurationError("`batch_config`: batch_size must be at least 1")
    try:
        fsspec.get_filesystem_class(get_protocol(config.storage.root))
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"`batch_config`, `storage`: {error}") from error


def write_files(
    chunks: Iterable[Chunk], config: BatchConfig, name: str
) -> Iterator[tuple[str | None, Position]]:
    """Write files of up to `batch_size` records.

    Args:
        chunks: The records, in order.
        config: Where to, how many records a file, and whether gzipped.
        name: What the files' names begin with.

    Yields:
        A file's URL, when it is whole, and the position behind its records; the URL is None
        where there were no records.

    Raises:
        FatalSyncError: When the storage does not take a file.
    """
    gzipped = config.encoding.compression == "gzip"
    run = f"{config.storage.prefix or ''}{name}-{uuid.uuid4()}"
    source = iter(chunks)
    chunk = next(source, None)
    number = 0
    while chunk:
        if not chunk.rows:
            yield None, chunk.position
            chunk = next(source, None)
            continue
        number += 1
        url = config.storage.get_url(f"{run}-{number}.jsonl{'.gz' if gzipped else ''}")
        rows = 0
        stack = contextlib.ExitStack()
        try:
            with _in_words():
                files, path = fsspec.url_to_fs(url, **config.storage.params)
                files.makedirs(path.rpartition("/")[0], exist_ok=True)
                # What is not finished is discarded; the SDK's `open` would leave it behind.
                stack.enter_context(files.transaction)
                raw = stack.enter_context(files.open(path, "wb"))
                file = stack.enter_context(_writer(raw, gzipped=gzipped))
            while chunk and rows + chunk.rows <= config.batch_size:
                with _in_words():
                    file.write(chunk.lines)
                rows += chunk.rows
                position = chunk.position
                chunk = next(source, None)
            with _in_words():
                stack.close()
        except BaseException:
            # Where writing failed closing may fail too, and would hide why.
            with contextlib.suppress(Exception):
                stack.__exit__(*sys.exc_info())
            raise
        yield url, position


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Put what a storage raises into words: each has exceptions of its own."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise FatalSyncError(
            f"`batch_config`: a file could not be written to its storage: {reason}"
        ) from error


def _writer(raw: IO[bytes], *, gzipped: bool) -> contextlib.AbstractContextManager[IO[bytes]]:
    if not gzipped:
        return contextlib.nullcontext(raw)
    file: IO[bytes] = GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=_GZIP_LEVEL)
    return file

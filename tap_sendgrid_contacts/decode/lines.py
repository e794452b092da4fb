"""Bytes to blocks of complete lines: gunzip and split."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, BinaryIO

from singer_sdk.exceptions import DataError

try:
    from isal.igzip import GzipFile
    from isal.isal_zlib import error as zlib_error
except ImportError:  # no wheel for this platform
    from gzip import GzipFile
    from zlib import error as zlib_error

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DAMAGED_PART_HINT", "MAX_ROW_BYTES", "GzipFile", "iter_line_blocks"]

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Longest contact accepted; limits the memory used for a file that is not an export."""

DAMAGED_PART_HINT = "The part is damaged"

_BLOCK_BYTES = 64 * 1024


def iter_line_blocks(part: BinaryIO, label: str) -> Iterator[bytes]:
    """Yield complete lines in blocks, decompressed, without a byte order mark.

    Args:
        part: The file.
        label: Name of the part for errors.

    Raises:
        DataError: If the gzip stream is truncated or corrupt, or a line is too long.
    """
    # Neither the name of the object nor its headers say reliably whether it is compressed.
    is_gzip = part.read(2) == b"\x1f\x8b"
    part.seek(0)
    stream = GzipFile(fileobj=part, mode="rb") if is_gzip else part
    pending: list[bytes] = []
    pending_bytes = 0
    is_first = True
    while True:
        try:
            chunk = stream.read(_BLOCK_BYTES)
        except (EOFError, OSError, zlib_error) as error:
            problem = "truncated" if isinstance(error, EOFError) else "corrupt"
            raise DataError(f"{label}: {problem} gzip stream. {DAMAGED_PART_HINT}") from error
        is_end = not chunk
        if is_first and chunk:
            chunk = chunk.removeprefix(codecs.BOM_UTF8)
            is_first = False
        end = chunk.rfind(b"\n") + 1
        if end or is_end:
            block = b"".join((*pending, chunk[:end]))
            pending, pending_bytes = [], 0
            if block:
                yield block
        if is_end:
            return
        pending.append(chunk[end:])
        pending_bytes += len(chunk) - end
        if pending_bytes > MAX_ROW_BYTES:
            raise DataError(
                f"{label}: line longer than {MAX_ROW_BYTES} bytes; not a contacts export"
            )

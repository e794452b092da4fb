"""Bytes to blocks of complete lines: gunzip and split."""

from __future__ import annotations

import codecs
import os
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

# An export has no blank lines. They take time, and nothing reports that it passes.
_MAX_BLANK_BYTES = 1024 * 1024

# Gzip compresses 1032 times at most, and a contact has an id that does not compress at all. Parts
# that are small enough to be read within seconds are not looked at.
_MAX_EXPANSION = 1000
_MIN_EXPANDED_BYTES = 1024**3


def iter_line_blocks(part: BinaryIO, label: str) -> Iterator[bytes]:
    """Yield complete lines in blocks, decompressed, without a byte order mark.

    Raises:
        DataError: If the gzip stream is truncated or corrupt, or the content cannot be that of an
            export: a line is too long, there are too many blank lines, or the part expands more
            than contacts do.
    """
    max_bytes = max(_MIN_EXPANDED_BYTES, _MAX_EXPANSION * part.seek(0, os.SEEK_END))
    part.seek(0)
    # Neither the name of the object nor its headers say reliably whether it is compressed.
    is_gzip = part.read(2) == b"\x1f\x8b"
    part.seek(0)
    stream = GzipFile(fileobj=part, mode="rb") if is_gzip else part
    pending: list[bytes] = []
    pending_bytes = 0
    is_first = True
    total_bytes = blank_bytes = 0
    while True:
        try:
            chunk = stream.read(_BLOCK_BYTES)
        except (EOFError, OSError, OverflowError, zlib_error) as error:
            # isal raises the third for a long header.
            problem = "truncated" if isinstance(error, EOFError) else "corrupt"
            raise DataError(f"{label}: {problem} gzip stream. {DAMAGED_PART_HINT}") from error
        is_end = not chunk
        total_bytes += len(chunk)
        blank_bytes += len(chunk) if chunk.isspace() else 0
        if total_bytes > max_bytes or blank_bytes > _MAX_BLANK_BYTES:
            problem = "blank lines" if blank_bytes > _MAX_BLANK_BYTES else "gzip expansion"
            raise DataError(f"{label}: excessive {problem}; not a contacts export")
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

"""Bytes to lines: gunzip, and blocks of whole lines."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, BinaryIO

from singer_sdk.exceptions import DataError

try:
    from isal.igzip import GzipFile
    from isal.isal_zlib import error as zlib_error
except ImportError:  # no wheel for this machine
    from gzip import GzipFile
    from zlib import error as zlib_error

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DAMAGED", "MAX_ROW_BYTES", "GzipFile", "line_blocks"]

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Longest contact accepted: what bounds the memory when a file is not what it should be."""

DAMAGED = (
    "the part is damaged; run again, and if it stays so, without state (Meltano: --full-refresh) "
    "for a new export"
)

_BLOCK_BYTES = 64 * 1024


def line_blocks(part: BinaryIO, where: str) -> Iterator[bytes]:
    """Read whole lines in blocks of about 64 KiB, gunzipped if need be, without a BOM."""
    # Neither the object's name nor its headers say reliably whether it is gzipped.
    gzipped = part.read(2) == b"\x1f\x8b"
    part.seek(0)
    stream = GzipFile(fileobj=part, mode="rb") if gzipped else part
    pending: list[bytes] = []
    pending_bytes = 0
    first = True
    while True:
        try:
            chunk = stream.read(_BLOCK_BYTES)
        except (EOFError, OSError, zlib_error) as error:
            what = "ends too early" if isinstance(error, EOFError) else "is not valid"
            raise DataError(f"{where}: its gzip stream {what}; {DAMAGED}") from error
        if first and chunk:
            chunk = chunk.removeprefix(codecs.BOM_UTF8)
            first = False
        cut = chunk.rfind(b"\n") + 1
        if cut or not chunk:
            block = b"".join((*pending, chunk[:cut]))
            pending, pending_bytes = [], 0
            if block:
                yield block
        if not chunk:
            return
        pending.append(chunk[cut:])
        pending_bytes += len(chunk) - cut
        if pending_bytes > MAX_ROW_BYTES:
            raise DataError(
                f"{where}: a line is longer than {MAX_ROW_BYTES} bytes; this is no contact"
            )

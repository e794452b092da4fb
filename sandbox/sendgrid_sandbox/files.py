"""Files of exports: contacts are encoded, split into parts, compressed and written to disk."""

from __future__ import annotations

import zlib
from codecs import BOM_UTF8
from hashlib import md5
from itertools import islice, pairwise
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from sendgrid_sandbox.corruption import corrupt_gzip, corrupt_lines
from sendgrid_sandbox.encoders import ENCODERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sendgrid_sandbox.account import Account
    from sendgrid_sandbox.settings import FileFormat
    from sendgrid_sandbox.spec import ExportSpec

_LINES_PER_WRITE = 500
_MB = 1_000_000


class ExportFile(NamedTuple):
    """A file on disk, served unchanged."""

    path: Path
    size: int
    etag: str


class ExportFiles(NamedTuple):
    """The parts of an export and the number of contacts in them."""

    parts: list[ExportFile]
    contact_count: int


class ExportWriter:
    """Writes the files of an account's exports.

    Args:
        account: Account to export.
        file_format: Format of the files.
        folder: Folder for the files.
    """

    def __init__(self, account: Account, file_format: FileFormat, folder: Path) -> None:
        self._account = account
        self._format = file_format
        self._folder = folder
        self._cancelled = Event()

    def cancel(self) -> None:
        """Stop writing; `write` raises InterruptedError."""
        self._cancelled.set()

    def write(self, spec: ExportSpec, faults: frozenset[str], prefix: str) -> ExportFiles:
        """Write the files of an export.

        Args:
            spec: Contacts and file type to export.
            faults: Names of the faults in the files.
            prefix: Prefix of the file names.

        Returns:
            The files; their bytes depend only on the specification and the faults.
        """
        repeats = self._format.duplicates == "keep"
        ids = spec.list_ids, spec.segment_ids
        is_empty = "empty-once" in faults
        total = 0 if is_empty else self._account.count(*ids, repeats=repeats)
        contacts = iter(()) if is_empty else self._account.members(*ids, repeats=repeats)
        fields = self._account.fields
        encoder = ENCODERS[spec.file_type](self._format, fields, faults)
        lines: Iterator[bytes] = map(encoder.encode, contacts)
        if faults:
            lines = corrupt_lines(contacts, total // 2, encoder, fields, faults)

        parts: list[ExportFile] = []
        if not total and self._format.empty_export == "none":
            return ExportFiles(parts, 0)
        header = b"" if not total and self._format.empty_export == "file" else encoder.header
        bounds = [total * part // self._format.parts for part in range(self._format.parts + 1)]
        for start, end in pairwise(bounds):
            part = self._open(parts, prefix, header, end - start)
            for line in islice(lines, end - start):
                if self._cancelled.is_set():
                    raise InterruptedError
                if part.size + len(line) > spec.max_file_size * _MB and part.size:
                    parts.append(part.close())
                    part = self._open(parts, prefix, header, end - start)
                part.write(line)
            parts.append(part.close())
        if faults & {"truncated-gzip", "bad-crc"}:
            corrupt_gzip(parts[-1].path, faults)
            parts[-1] = _describe_part(parts[-1].path)
        return ExportFiles(parts, total)

    def _open(
        self, parts: list[ExportFile], prefix: str, header: bytes, line_count: int
    ) -> _PartFile:
        """Open the part after `parts`."""
        if parts and self._format.part_headers == "first":
            header = b""
        members, writes = self._format.gzip_members, line_count + 1
        part = _PartFile(
            (self._folder / f"{prefix}_{len(parts)}").open("wb"),
            lines_per_member=-(-writes // members),
            compressed=self._format.compression != "none",
        )
        part.write((BOM_UTF8 if self._format.bom else b"") + header)
        return part


class _PartFile:
    """A part being written: lines in, gzip members out."""

    def __init__(self, file: BinaryIO, *, lines_per_member: int, compressed: bool) -> None:
        self.size = 0
        self._file = file
        self._lines_per_member = lines_per_member
        self._lines_in_member = 0
        self._buffer: list[bytes] = []
        self._gzip = _gzip_compressor() if compressed else None

    def write(self, line: bytes) -> None:
        self.size += len(line)
        self._lines_in_member += 1
        if self._gzip and self._lines_in_member > self._lines_per_member:
            # Members may end anywhere; readers are tested best by one that ends within a line.
            middle = len(line) // 2
            self._buffer.append(line[:middle])
            self._flush(last=True)
            self._gzip, self._lines_in_member, line = _gzip_compressor(), 0, line[middle:]
        self._buffer.append(line)
        if len(self._buffer) == _LINES_PER_WRITE:
            self._flush()

    def close(self) -> ExportFile:
        self._flush(last=True)
        self._file.close()
        return _describe_part(Path(self._file.name))

    def _flush(self, *, last: bool = False) -> None:
        data = b"".join(self._buffer)
        self._buffer.clear()
        if self._gzip:
            data = self._gzip.compress(data) + (self._gzip.flush() if last else b"")
        self._file.write(data)


def _gzip_compressor() -> zlib._Compress:
    return zlib.compressobj(level=1, wbits=31)


def _describe_part(path: Path) -> ExportFile:
    with path.open("rb") as file:
        digest = md5(usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
    return ExportFile(path, path.stat().st_size, f'"{digest.hexdigest()}"')

"""The temp file that a part is downloaded to: ranges, changed content, disk errors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from typing import TYPE_CHECKING, BinaryIO

import requests
from singer_sdk.exceptions import FatalSyncError
from typing_extensions import override

from tap_sendgrid_contacts.api.http import TOO_MANY_FILES_HINT

if TYPE_CHECKING:
    from collections.abc import Generator

_MAX_SIZE_DIGITS = 18


def check_temp_dir() -> None:
    """Check that parts can be stored.

    Raises:
        FatalSyncError: If no temp file can be written, or only in another folder than TMPDIR,
            which may be chosen for its encryption.
    """
    named = os.environ.get("TMPDIR")
    with _map_disk_errors():
        used = tempfile.gettempdir()
    if named and os.path.realpath(used) != os.path.realpath(named):
        raise FatalSyncError(f"Cannot write to TMPDIR ({named}), where parts are to be stored")
    with _map_disk_errors(), tempfile.TemporaryFile() as file:
        file.write(b"\0")


class Part:
    """A part of an export, in a temp file that it is downloaded to.

    Attributes:
        name: Its identity, one of the `part_names` of the export.
        label: Its name for logs and errors, such as `Part 2 of 3`.
        file: An unlinked file; the reader closes it.
        size: Bytes downloaded.
        high_water_mark: Largest `size` so far: a download that restarts again and again makes
            no progress.
    """

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self.label = label
        with _map_disk_errors():
            self.file: BinaryIO = tempfile.TemporaryFile(prefix="sendgrid-contacts-")  # noqa: SIM115 - the reader closes it
        self.size = self.high_water_mark = 0
        self._hash = hashlib.sha256()
        self._expected_size: int | None = None
        self._is_chunked = False
        self._etag = ""

    @override
    def __str__(self) -> str:
        # The download thread may change it meanwhile.
        size, expected = self.size, self._expected_size
        total = f" of {expected / 1e6:,.1f}" if expected is not None and size < expected else ""
        return f"{self.label}: {size / 1e6:,.1f}{total} MB"

    @property
    def digest(self) -> str:
        """SHA-256 of what was downloaded, shortened."""
        return self._hash.hexdigest()[:12]

    @property
    def resume_offset(self) -> int:
        """The byte to resume at: without a strong ETag, the rest may be of other content."""
        return self.size if self._etag.startswith('"') else 0

    def range_headers(self) -> dict[str, str]:
        """Return the headers that request the rest of the same content, or all of it."""
        if not self.resume_offset:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Match": self._etag}

    def has_changed(self, response: requests.Response) -> bool:
        """Return whether the rest of the same content cannot be downloaded."""
        status = response.status_code
        if status == requests.codes.partial_content:
            start = response.headers.get("Content-Range", "").partition("-")[0]
            return start != f"bytes {self.size}" or response.headers.get("ETag", "") != self._etag
        return status in {
            requests.codes.precondition_failed,
            requests.codes.requested_range_not_satisfiable,
        }

    def is_incomplete(self, *, is_counted: bool) -> bool:
        """Return whether bytes are missing, or all of them may be.

        Args:
            is_counted: Whether the reader notices if contacts are missing.
        """
        if self._expected_size is None:
            return not (self.size or is_counted or self._is_chunked)
        return self.size < self._expected_size

    def start_response(self, response: requests.Response) -> None:
        """Prepare for the body: from the start, unless it is the rest."""
        if response.status_code == requests.codes.partial_content:
            size = response.headers.get("Content-Range", "").rpartition("/")[2]
        else:
            size = response.headers.get("Content-Length", "")
            self.reset()
        # Python refuses to convert thousands of digits, and no part has a size of so many.
        is_size = size.isdecimal() and len(size) <= _MAX_SIZE_DIGITS
        self._expected_size = int(size) if is_size else None
        self._is_chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        self._etag = response.headers.get("ETag", "")

    def reset(self) -> None:
        """Discard what was downloaded."""
        self.file.seek(0)
        self.file.truncate()
        self.size = 0
        self._hash = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        with _map_disk_errors():
            self.file.write(chunk)
            # A full disk raises here, and not where the reader seeks.
            self.file.flush()
        self._hash.update(chunk)
        self.size += len(chunk)
        self.high_water_mark = max(self.high_water_mark, self.size)


@contextlib.contextmanager
def _map_disk_errors() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            raise FatalSyncError(f"{error.strerror}. {TOO_MANY_FILES_HINT}") from error
        # None if there is no usable folder at all.
        folder = tempfile.tempdir or "no usable folder"
        raise FatalSyncError(
            f"Cannot write part to TMPDIR ({folder}): {error.strerror}. "
            "Parts are stored there compressed; set TMPDIR to a writable, larger volume"
        ) from error

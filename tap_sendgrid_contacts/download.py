"""Parts to whole files on disk, ahead of the reader.

A thread of its own fetches part after part into unlinked temporary files: however slow the
reader, no connection is held open and no link grows old, and a kill leaves nothing on disk.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from queue import Full, Queue
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import requests
from singer_sdk.exceptions import FatalAPIError, FatalSyncError
from typing_extensions import override

from tap_sendgrid_contacts.client import (
    MAX_TRIES,
    UnansweredError,
    check,
    is_safe_url,
    waits,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from tap_sendgrid_contacts.export import ExportJob

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 1024

# Each waiting part holds a file open; 1024 is the usual limit of open files.
_PARTS_AHEAD = 64


class Part(NamedTuple):
    """A part of an export, whole on disk.

    Attributes:
        number: Counted from 0.
        file: An unlinked file at its beginning; the reader closes it.
        version: What tells this content from another: the ETag, or else the size.
        bytes: Its size.
    """

    number: int
    file: BinaryIO
    version: str
    bytes: int


def fetch_parts(job: ExportJob, first: int, request_timeout: int) -> Generator[Part, None, None]:
    """Fetch the parts of an export that is ready.

    Args:
        job: The export.
        first: The part to begin with, counted from 0.
        request_timeout: Seconds to wait for a connection, and for more bytes.

    Yields:
        Part by part, in order. Close the generator to stop the fetching.

    Raises:
        RetriableAPIError: When a part could not be fetched, retries included.
        FatalAPIError: When its download is refused.
        FatalSyncError: When the disk is full.
    """
    ready: Queue[Part | BaseException] = Queue(_PARTS_AHEAD)
    stopped = threading.Event()

    def put(item: Part | BaseException) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=1)
            except Full:
                continue
            return

    def fetch() -> None:
        download = _Download(job, request_timeout, stopped)
        try:
            for number in range(first, job.parts):
                if stopped.is_set():
                    return
                put(download.part(number))
        except BaseException as error:  # noqa: BLE001 - it is raised again by the reader
            put(error)

    # A daemon: a run that ends does not wait for a server that has stopped sending.
    threading.Thread(target=fetch, name="download", daemon=True).start()
    try:
        for _ in range(first, job.parts):
            part = ready.get()
            if isinstance(part, BaseException):
                raise part
            with part.file:
                yield part
    finally:
        stopped.set()


class _PartSession(requests.Session):
    """A session that brings no credentials, whatever ~/.netrc says."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = lambda request: request
        # Ranges count the bytes as they are stored.
        self.headers["Accept-Encoding"] = "identity"

    @override
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None and "://" in target and not is_safe_url(target):
            raise FatalAPIError("The storage redirects to no https address; it is not followed")
        return target


class _Download:
    def __init__(self, job: ExportJob, timeout: int, stopped: threading.Event) -> None:
        self._job = job
        self._timeout = timeout
        self._stopped = stopped
        self._session = _PartSession()

    def part(self, number: int) -> Part:
        """Fetch a part, going on after each break where the last one ended."""
        who = f"The storage, asked for part {number + 1} of {self._job.parts}"
        spool = _Spool()
        delays = waits()
        next(delays)
        tries = 0
        while True:
            before = spool.bytes
            try:
                self._fetch(self._job.url(number), spool, who)
                break
            except UnansweredError as error:
                # A part of gigabytes may break more often than one request is tried.
                if spool.bytes > before:
                    tries = 0
                    delays = waits()
                    next(delays)
                tries += 1
                if tries >= MAX_TRIES or self._stopped.is_set():
                    spool.file.close()
                    raise
                delay = delays.send(error)
                logger.warning("%s; trying again in %.0f s", error, delay)
                time.sleep(delay)
        logger.info("Part %d of %d is here: %d bytes", number + 1, self._job.parts, spool.bytes)
        spool.file.seek(0)
        return Part(number, spool.file, spool.etag or f"{spool.bytes} bytes", spool.bytes)

    def _fetch(self, url: str, spool: _Spool, who: str) -> None:
        with (
            words(who),
            self._session.get(
                url, headers=spool.wanted(), timeout=self._timeout, stream=True
            ) as response,
        ):
            if response.status_code == requests.codes.forbidden:
                # The link may have grown old on the way; the next try gets a new one.
                raise UnansweredError(f"{who}, refused the link (403)")
            if spool.is_outdated_by(response):
                spool.clear()
                raise UnansweredError(f"{who}, has another file now; beginning again")
            check(response, who)
            spool.begin(response)
            while chunk := response.raw.read(_CHUNK_BYTES, decode_content=False):
                spool.write(chunk)
                if self._stopped.is_set():
                    raise FatalSyncError("The reader has stopped")


class _Spool:
    """The file a part comes into, and how far it has come."""

    def __init__(self) -> None:
        with _disk():
            self.file: BinaryIO = tempfile.TemporaryFile(prefix="sendgrid-contacts-")  # noqa: SIM115 - the reader closes it
        self.bytes = 0
        self.etag = ""

    def wanted(self) -> dict[str, str]:
        """The headers that ask for all, or for what is missing of the same file."""
        if not self.bytes:
            return {}
        headers = {"Range": f"bytes={self.bytes}-"}
        if self.etag and not self.etag.startswith("W/"):
            headers["If-Match"] = self.etag
        return headers

    def is_outdated_by(self, response: requests.Response) -> bool:
        """Tell whether what is missing cannot be had any more."""
        status = response.status_code
        if status == requests.codes.partial_content:
            start = response.headers.get("Content-Range", "").partition("-")[0]
            etag = response.headers.get("ETag", "")
            return start != f"bytes {self.bytes}" or etag != self.etag
        return status in {
            requests.codes.precondition_failed,
            requests.codes.requested_range_not_satisfiable,
        }

    def begin(self, response: requests.Response) -> None:
        """Take the answer's file: from its start, unless it is the missing end."""
        if response.status_code != requests.codes.partial_content:
            self.clear()
        self.etag = response.headers.get("ETag", "")

    def clear(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.bytes = 0

    def write(self, chunk: bytes) -> None:
        with _disk():
            self.file.write(chunk)
            # What does not fit is to be found here, not where the reader seeks.
            self.file.flush()
        self.bytes += len(chunk)


@contextlib.contextmanager
def _disk() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise FatalSyncError(
            f"No room for a part in {tempfile.gettempdir()}: {error.strerror}. "
            "Parts wait there compressed; set TMPDIR to a folder on a larger disk"
        ) from error

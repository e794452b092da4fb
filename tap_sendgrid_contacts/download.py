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
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import requests
from singer_sdk.exceptions import FatalAPIError, FatalSyncError
from typing_extensions import override

from tap_sendgrid_contacts.transport import (
    UnansweredError,
    check,
    in_words,
    is_safe_url,
    retrying,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

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


def fetch_parts(
    job: ExportJob,
    first: int,
    request_timeout: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Generator[Part, None, None]:
    """Fetch the parts of an export that is ready.

    Args:
        job: The export.
        first: The part to begin with, counted from 0.
        request_timeout: Seconds to wait for a connection, and for more bytes.
        tell: Is told every second how far a download is that the reader waits for.

    Yields:
        Part by part, in order. Close the generator to stop the fetching.

    Raises:
        RetriableAPIError: When a part could not be fetched, retries included.
        FatalAPIError: When its download is refused.
        FatalSyncError: When the disk is full.
    """
    download = _Download(job, request_timeout)
    # A daemon: a run that ends does not wait for a server that has stopped sending.
    threading.Thread(target=download.run, args=(first,), name="download", daemon=True).start()
    try:
        for _ in range(first, job.parts):
            part = download.next(tell)
            with part.file:
                yield part
    finally:
        download.stop()


class _PartSession(requests.Session):
    """A session that brings no credentials, whatever ~/.netrc says."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = lambda request: request
        # Ranges count the bytes as they are stored.
        self.headers["Accept-Encoding"] = "identity"

    @override
    def rebuild_auth(self, prepared_request: object, response: object) -> None:
        """Nothing: on a redirect `requests` would read ~/.netrc again."""

    @override
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None and "://" in target and not is_safe_url(target):
            raise FatalAPIError(
                "The storage redirects to a URL that is not https; it is not followed"
            )
        return target


class _Download:
    """What the thread does: part after part, or what went wrong, into a queue."""

    def __init__(self, job: ExportJob, timeout: int) -> None:
        self._ready: Queue[Part | BaseException] = Queue(_PARTS_AHEAD)
        self._spool: _Spool | None = None
        self._stopped = threading.Event()
        self._job = job
        self._timeout = timeout
        self._session = _PartSession()

    def run(self, first: int) -> None:
        try:
            for number in range(first, self._job.parts):
                if self._stopped.is_set():
                    break
                self._put(self.part(number))
        except BaseException as error:  # noqa: BLE001 - it is raised again by the reader
            self._put(error)
        if self._stopped.is_set():
            # The last part may have come in behind the reader that left.
            self._close_ready()

    def next(self, tell: Callable[[str], None]) -> Part:
        """Wait for the next part; raise what the thread came upon."""
        while True:
            try:
                part = self._ready.get(timeout=1)
            except Empty:
                tell(f"Downloading {self._spool or 'parts'}")
                continue
            if isinstance(part, BaseException):
                raise part
            return part

    def stop(self) -> None:
        """End the thread at its next chunk, and close what nobody will read."""
        self._stopped.set()
        self._close_ready()

    def _close_ready(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                _close(self._ready.get_nowait())

    def _put(self, item: Part | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=1)
            except Full:
                continue
            return
        _close(item)

    def part(self, number: int) -> Part:
        """Fetch a part, going on after each break where the last one ended."""
        self._spool = spool = _Spool(f"part {number + 1} of {self._job.parts}")
        try:
            # A part of gigabytes may break more often than one request is tried.
            while not self._fetch_some(number, spool):
                time.sleep(1)
        except BaseException:
            spool.file.close()
            raise
        logger.info("Downloaded %s", spool)
        spool.file.seek(0)
        return Part(number, spool.file, spool.etag or f"{spool.bytes} bytes", spool.bytes)

    @retrying(UnansweredError)
    def _fetch_some(self, number: int, spool: _Spool) -> bool:
        """Fetch what is missing; tell whether that was all."""
        before = spool.furthest
        url = self._job.url(number)
        try:
            self._fetch(url, spool)
        except UnansweredError as error:
            if spool.furthest <= before:
                raise
            logger.warning("%s; going on behind %d bytes", error, spool.bytes)
            return False
        return True

    def _fetch(self, url: str, spool: _Spool) -> None:
        who = f"The storage, asked for {spool.what}"
        with (
            in_words(who),
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
            if response.status_code not in {requests.codes.ok, requests.codes.partial_content}:
                raise UnansweredError(f"{who}, answered {response.status_code} instead of the file")
            spool.begin(response)
            while chunk := response.raw.read(_CHUNK_BYTES, decode_content=False):
                spool.write(chunk)
                if self._stopped.is_set():
                    raise FatalSyncError("The reader has stopped")
            if spool.lacks_end():
                raise UnansweredError(f"{who}, sent less than the rest")


def _close(item: Part | BaseException) -> None:
    if isinstance(item, Part):
        item.file.close()


class _Spool:
    """The file a part comes into, and how far it has come."""

    def __init__(self, what: str) -> None:
        self.what = what
        with _disk():
            self.file: BinaryIO = tempfile.TemporaryFile(prefix="sendgrid-contacts-")  # noqa: SIM115 - the reader closes it
        self.bytes = 0
        # Of the whole file, if the storage says.
        self._size: int | None = None
        # Ever: a file that begins again and again gets nowhere.
        self.furthest = 0
        self.etag = ""

    @override
    def __str__(self) -> str:
        total = f" of {self._size / 1e6:,.1f}" if self._size and self.lacks_end() else ""
        return f"{self.what}: {self.bytes / 1e6:,.1f}{total} MB"

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

    def lacks_end(self) -> bool:
        """Tell whether there is less than the storage said."""
        return self._size is not None and self.bytes < self._size

    def begin(self, response: requests.Response) -> None:
        """Take the answer's file: from its start, unless it is the missing end."""
        if response.status_code == requests.codes.partial_content:
            size = response.headers.get("Content-Range", "").rpartition("/")[2]
        else:
            size = response.headers.get("Content-Length", "")
            self.clear()
        self._size = int(size) if size.isdecimal() else None
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
        self.furthest = max(self.furthest, self.bytes)


@contextlib.contextmanager
def _disk() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise FatalSyncError(
            f"No room for a part in {tempfile.gettempdir()}: {error.strerror}. "
            "Parts wait there compressed; set TMPDIR to a folder on a larger disk"
        ) from error

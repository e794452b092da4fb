"""Prefetch parts to temp files in a background thread.

However slow the target, no connection is held open and no signed URL expires. The files are
unlinked: a killed run leaves nothing on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from queue import Empty, Queue
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import requests
from singer_sdk.exceptions import FatalAPIError
from typing_extensions import override

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.api.http import (
    TransientError,
    map_transport_errors,
    raise_for_status,
)
from tap_sendgrid_contacts.api.part_file import Part
from tap_sendgrid_contacts.api.session import Session
from tap_sendgrid_contacts.api.urls import is_safe_url

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from tap_sendgrid_contacts.api.export import ExportJob

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 1024

_PREFETCH_LIMIT = 64

# Bytes per second: below that, a part of gigabytes takes months.
_MIN_RATE = 1000

# How long the reader waits for a part before it looks for a signal again.
_SLICE_SECONDS = 0.25

# How long the end of a download waits for a server that neither responds nor hangs up.
_JOIN_SECONDS = 5.0


def iter_parts(
    job: ExportJob,
    part_names: Sequence[str],
    on_progress: Callable[[str], None],
    *,
    is_counted: bool,
) -> Generator[Part, None, None]:
    """Download parts of an export that is ready.

    Args:
        job: The export.
        part_names: Identities of the parts.
        on_progress: Called several times a second with the state of a download that the reader
            waits for.
        is_counted: Whether the reader notices if contacts are missing.

    Yields:
        The parts, in the order of the names, their files at the start. Close the generator to end
        the download.

    Raises:
        TransientError: If a part could not be downloaded, retries included.
        FatalAPIError: If its download is rejected.
        FatalSyncError: If it cannot be written to disk.
        Stopped: If a signal arrives while the reader waits.
    """
    worker = _PrefetchWorker(job, part_names, is_counted=is_counted)
    try:
        for _ in part_names:
            part = worker.get(on_progress)
            with part.file:
                yield part
    finally:
        worker.close()


class _AnonymousSession(Session):
    """A session that sends no credentials, whatever ~/.netrc contains."""

    def __init__(self, url: str, *, allow_http: bool) -> None:
        super().__init__(url)
        self._allow_http = allow_http
        self.auth = lambda request: request

    @override
    def rebuild_auth(self, prepared_request: object, response: object) -> None:
        """No-op: on a redirect, `requests` would read ~/.netrc again."""

    @override
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        # requests would read its body, whatever the size.
        resp.close()
        if not is_safe_url(urljoin(resp.url, target), allow_http=self._allow_http):
            raise FatalAPIError("The storage redirects to a non-HTTPS URL; not following it")
        return target


class _CancelledError(Exception):
    """The reader has gone."""


class _PrefetchWorker:
    """Downloads parts in order and enqueues them, or the exception that ended it."""

    def __init__(self, job: ExportJob, part_names: Sequence[str], *, is_counted: bool) -> None:
        self._results: Queue[Part | BaseException] = Queue()
        self._free_slots = threading.Semaphore(_prefetch_limit())
        self._current: Part | None = None
        self._cancelled = threading.Event()
        self._session: _AnonymousSession | None = None
        self._response: requests.Response | None = None
        self._job = job
        self._part_names = part_names
        self._labels = {
            name: f"Part {number} of {len(job.part_names)}"
            for number, name in enumerate(job.part_names, 1)
        }
        self._is_counted = is_counted
        self._timeout = job.client.request_timeout
        self._allow_http = job.client.allows_http
        self._retry = dataclasses.replace(job.client.retry, wait=self._wait)
        # A daemon: the process does not wait at exit for a server that has stopped sending.
        self._thread = threading.Thread(target=self._run, name="download", daemon=True)
        self._thread.start()

    def get(self, on_progress: Callable[[str], None]) -> Part:
        """Wait for the next part; raise the exception that ended the thread."""
        while True:
            stopping.check()
            try:
                result = self._results.get(timeout=_SLICE_SECONDS)
            except Empty:
                on_progress(f"Downloading {self._current or 'parts'}")
                continue
            if isinstance(result, BaseException):
                raise result
            self._free_slots.release()
            return result

    def close(self) -> None:
        """End the thread, and close the files nobody will read."""
        self._cancelled.set()
        self._free_slots.release()
        if response := self._response:
            # Ends a read that waits for the server.
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                response.raw.shutdown()
        self._thread.join(_JOIN_SECONDS)
        with contextlib.suppress(Empty):
            while True:
                result = self._results.get_nowait()
                if isinstance(result, Part):
                    result.file.close()

    def _run(self) -> None:
        try:
            for name in self._part_names:
                self._results.put(self._download_part(name))
                self._free_slots.acquire()
                self._check_cancelled()
        except BaseException as error:  # noqa: BLE001 - raised again in the reader's thread
            self._results.put(error)
        if self._session:
            self._session.close()

    def _wait(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise _CancelledError

    def _check_cancelled(self) -> None:
        self._wait(0)

    def _download_part(self, name: str) -> Part:
        """Download a part, resuming after each break."""
        self._current = part = Part(name, self._labels[name])
        # A part of gigabytes may break more often than one request is retried: attempts count
        # from the last byte that is new.
        try:
            while not self._retry.call(self._download_remaining, part):
                self._wait(self._retry.delays[0])
        except BaseException:
            part.file.close()
            raise
        logger.info("Downloaded %s", part)
        part.file.seek(0)
        return part

    def _download_remaining(self, part: Part) -> bool:
        """Download what is missing; return whether that was all of it."""
        before, started = part.high_water_mark, time.monotonic()
        self._check_cancelled()
        try:
            url = self._job.signed_url(part.name)
            self._stream_to_file(url, part)
        except TransientError as error:
            self._check_cancelled()
            self._job.discard_urls()
            progress = part.high_water_mark - before
            is_slow = progress <= _MIN_RATE * (time.monotonic() - started)
            if is_slow or not self._retry.delays:
                raise
            logger.warning("%s; resuming download at byte %d", error, part.resume_offset)
            return False
        return True

    def _stream_to_file(self, url: str, part: Part) -> None:
        label = part.label
        self._session = self._session or _AnonymousSession(url, allow_http=self._allow_http)
        with (
            map_transport_errors(f"{label}: download", url, "storage"),
            self._session.get(
                url, headers=part.range_headers(), timeout=self._timeout, stream=True
            ) as response,
        ):
            if response.status_code == requests.codes.forbidden:
                # It may have expired; the next attempt uses a fresh one.
                raise TransientError(f"{label}: signed URL rejected (HTTP 403)")
            if part.has_changed(response):
                part.reset()
                raise TransientError(f"{label}: content changed (ETag); restarting download")
            is_redirect = response.status_code // 100 == 3  # noqa: PLR2004
            detail = "the redirect has no Location to follow" if is_redirect else ""
            raise_for_status(response, f"{label}: download", detail)
            if response.status_code not in {requests.codes.ok, requests.codes.partial_content}:
                raise TransientError(f"{label}: download: unexpected HTTP {response.status_code}")
            part.start_response(response)
            self._response = response
            self._check_cancelled()
            deadline, before = time.monotonic() + self._timeout, part.size
            # `read` would wait for as many bytes, however slowly they come.
            while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
                part.write(chunk)
                self._check_cancelled()
                if (now := time.monotonic()) < deadline:
                    continue
                if part.size - before < _MIN_RATE * self._timeout:
                    raise TransientError(
                        f"{label}: download is slower than {_MIN_RATE:,} bytes/s (request_timeout)"
                    )
                deadline, before = now + self._timeout, part.size
            if part.is_incomplete(is_counted=self._is_counted):
                raise TransientError(f"{label}: truncated response")


def _prefetch_limit() -> int:
    """Return how many parts may wait for the reader: each holds a file open."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return _PREFETCH_LIMIT
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(_PREFETCH_LIMIT, open_files // 4))

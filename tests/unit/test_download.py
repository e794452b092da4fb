"""Downloads of parts: complete, in order, resumed after breaks, without a trace on disk."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import re
import signal
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import IO, TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import FatalAPIError, FatalSyncError
from typing_extensions import override

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.api import download as download_module
from tap_sendgrid_contacts.api import session as session_module
from tap_sendgrid_contacts.api.download import iter_parts
from tap_sendgrid_contacts.api.export import ExportJob
from tap_sendgrid_contacts.api.http import NO_RETRY, TransientError
from tests.unit.conftest import causes, log_of_package, make_client

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from email.message import Message
    from pathlib import Path

    from requests_mock import Mocker

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.part_file import Part
    from tests.unit.conftest import Clock

BODY = bytes(range(256)) * 4
ETAG = '"one"'


@dataclass(frozen=True)
class Reply:
    """A response that the storage is to send.

    Attributes:
        status: Its status.
        body: Its body; the length it announces is that of all of it.
        headers: Its headers.
        cut: After how many bytes of the body the connection breaks.
        stall: Whether it stalls there instead.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: bool = False


class ScriptedStorage(ThreadingHTTPServer):
    """Sends the scripted responses first, then those of a storage that works.

    The path is the part's number; the content of each part is BODY and its number. None in the
    script is a response of a storage that works.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.script: list[Reply | None] = []
        self.requests: list[tuple[str, Message]] = []
        self.released = threading.Event()

    def respond(self, path: str, headers: Message) -> Reply:
        self.requests.append((path, headers))
        if self.script and (scripted := self.script.pop(0)):
            return scripted
        body, tag = content_of(int(path[1:].partition("?")[0])), {"ETag": ETAG}
        start = int((headers["Range"] or "bytes=0-")[len("bytes=") : -1])
        if headers["If-Match"] not in {None, ETAG}:
            return Reply(412)
        if start:
            tag["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return Reply(206 if start else 200, body[start:], tag)

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore it: clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedStorage

    def do_GET(self) -> None:
        response = self.server.respond(self.path, self.headers)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in response.headers:
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body[: response.cut])
        if response.stall:
            self.server.released.wait(30)
        self.close_connection = True

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class Job(ExportJob):
    """An export that is ready; a URL is signed again after `discard_urls` only."""

    def __init__(self, url: str, parts: int, client: SendGridClient | None = None) -> None:
        client = client or make_client(api_url=url, request_timeout=10)
        super().__init__(client, "e1", label="", is_new=False)
        self.part_names = tuple(map(str, range(parts)))
        self.base = url
        self.signed: list[str] = []
        self.signature = 1

    @override
    def signed_url(self, part_name: str) -> str:
        self.signed.append(part_name)
        return f"{self.base}/{part_name}?signature=secret{self.signature}"

    @override
    def discard_urls(self) -> None:
        self.signature += 1


def download(
    url: str,
    parts: int = 1,
    first: int = 0,
    client: SendGridClient | None = None,
    *,
    is_counted: bool = True,
) -> Generator[Part, None, None]:
    job = Job(url, parts, client)
    return iter_parts(job, job.part_names[first:], lambda _: None, is_counted=is_counted)


def contents(storage: ScriptedStorage, parts: int = 1, first: int = 0) -> list[bytes]:
    return [part.file.read() for part in download(storage.url, parts, first)]


def ranges(storage: ScriptedStorage) -> list[str | None]:
    return [headers["Range"] for _, headers in storage.requests]


def content_of(part: int) -> bytes:
    return BODY + b"%d" % part


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def download_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "download"]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; no sleep, which would advance the clock."""
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("It did not happen within ten seconds")


@pytest.fixture
def storage() -> Iterator[ScriptedStorage]:
    with ScriptedStorage() as storage:
        thread = threading.Thread(target=storage.serve_forever, args=(0.01,))
        thread.start()
        yield storage
        storage.released.set()
        storage.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_sleep(clock: Clock) -> None:
    """Let no test sleep."""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[IO[bytes]]]:
    """Every temporary file, closed at the latest when the test is over."""
    files: list[IO[bytes]] = []
    make = tempfile.TemporaryFile

    def temporary_file(**options: Any) -> IO[bytes]:
        file: IO[bytes] = make(**options)
        files.append(file)
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    yield files
    for file in files:
        file.close()


# --- complete and in order ------------------------------------------------------------------


def test_parts_are_complete_and_in_order(storage: ScriptedStorage) -> None:
    parts = []
    for part in download(storage.url, 5):
        assert part.file.tell() == 0
        parts.append((part.name, part.label, part.file.read(), part.size, part.digest))
    assert parts == [
        (
            str(i),
            f"Part {i + 1} of 5",
            content_of(i),
            len(content_of(i)),
            digest(content_of(i)),
        )
        for i in range(5)
    ]


def test_other_parts_are_not_downloaded(storage: ScriptedStorage) -> None:
    assert contents(storage, parts=4, first=2) == [content_of(2), content_of(3)]
    assert [path[:2] for path, _ in storage.requests] == ["/2", "/3"]


def test_labels_number_all_parts_of_the_export(storage: ScriptedStorage) -> None:
    assert [part.label for part in download(storage.url, 3, first=1)] == [
        "Part 2 of 3",
        "Part 3 of 3",
    ]


@pytest.mark.parametrize(("parts", "first"), [(0, 0), (3, 3)])
def test_nothing_left_to_download(storage: ScriptedStorage, parts: int, first: int) -> None:
    assert contents(storage, parts, first) == []
    assert storage.requests == []


def test_empty_part_is_a_part(storage: ScriptedStorage) -> None:
    storage.script = [Reply(200)]
    [part] = download(storage.url)
    assert (part.size, part.digest) == (0, digest(b""))


def test_bytes_are_kept_as_they_are_stored(storage: ScriptedStorage) -> None:
    storage.script = [Reply(200, b"\x1f\x8bno gzip", {"Content-Encoding": "gzip"})]
    assert contents(storage) == [b"\x1f\x8bno gzip"]
    assert storage.requests[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("tags", [("one", "one", "two"), ("one", "two", "one"), ("", "", "")])
def test_digest_is_that_of_the_content_whatever_the_etag(
    storage: ScriptedStorage, tags: tuple[str, ...]
) -> None:
    storage.script = [
        Reply(200, body, {"ETag": f'"{tag}"'} if tag else {})
        for body, tag in zip((b"abc", b"abc", b"abd"), tags, strict=True)
    ]
    [one], [same], [other] = [[part.digest for part in download(storage.url)] for _ in range(3)]
    assert one == same != other


def test_size_of_thousands_of_digits_is_ignored(storage: ScriptedStorage) -> None:
    storage.script = [Reply(200, BODY, {"ETag": ETAG, "Content-Length": "9" * 5000})]
    assert contents(storage) == [BODY]


# An empty header: the body ends where the connection does.
UNKNOWN = {"Content-Length": ""}


@pytest.mark.parametrize(
    ("reply", "counted", "expected"),
    [
        (Reply(200, b"", UNKNOWN), False, content_of(0)),
        (Reply(200, b"", UNKNOWN), True, b""),
        (Reply(200, b""), False, b""),
        (Reply(200, b"0\r\n\r\n", UNKNOWN | {"Transfer-Encoding": "chunked"}), False, b""),
    ],
    ids=["lost", "counted", "announced", "chunked"],
)
def test_part_that_may_have_been_lost_is_downloaded_again(
    storage: ScriptedStorage,
    reply: Reply,
    counted: bool,  # noqa: FBT001 - a parameter of the test
    expected: bytes,
) -> None:
    storage.script = [reply]
    [part] = [part.file.read() for part in download(storage.url, is_counted=counted)]
    assert part == expected


# --- resumed after a break ------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 500, len(BODY)])
def test_download_resumes_where_it_broke(storage: ScriptedStorage, cut: int) -> None:
    storage.script = [Reply(200, content_of(0), {"ETag": ETAG}, cut=cut)]
    [part] = [(part.file.read(), part.size, part.digest) for part in download(storage.url)]
    assert part == (content_of(0), len(content_of(0)), digest(content_of(0)))
    assert ranges(storage) == [None, f"bytes={cut}-"]
    assert storage.requests[1][1]["If-Match"] == ETAG


def test_each_attempt_has_a_new_signed_url(storage: ScriptedStorage) -> None:
    storage.script = [Reply(200, content_of(0), {"ETag": ETAG}, cut=5), Reply(403)]
    assert contents(storage) == [content_of(0)]
    assert [path.partition("=")[2] for path, _ in storage.requests] == [
        "secret1",
        "secret2",
        "secret3",
    ]


def test_signed_urls_are_kept_without_errors(storage: ScriptedStorage) -> None:
    contents(storage, parts=3)
    assert {path.partition("=")[2] for path, _ in storage.requests} == {"secret1"}


@pytest.mark.parametrize("tag", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_etag_the_download_restarts(
    storage: ScriptedStorage, tag: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    storage.script = [Reply(200, BODY, tag, cut=5), Reply(200, NEW, tag)]
    [part] = [(part.file.read(), part.digest) for part in download(storage.url)]
    assert part == (NEW, digest(NEW))
    assert ranges(storage) == [None, None]
    assert [headers["If-Match"] for _, headers in storage.requests] == [None, None]
    assert "resuming download at byte 0" in caplog.text


NEW = b"a newer file, of another length"
FULL = Reply(200, NEW, {"ETag": '"two"'})


@pytest.mark.parametrize(
    "then",
    [
        pytest.param([FULL], id="all of it instead of the rest"),
        pytest.param([Reply(412), FULL], id="412"),
        pytest.param([Reply(416), FULL], id="416"),
        pytest.param(
            [Reply(206, NEW[5:], {"ETag": '"two"', "Content-Range": "bytes 5-30/31"}), FULL],
            id="the rest of another file",
        ),
        pytest.param([Reply(206, NEW[5:], {"Content-Range": "bytes 5-30/31"}), FULL], id="no ETag"),
        *(
            pytest.param(
                [Reply(206, NEW, {"ETag": ETAG, "Content-Range": start}), FULL],
                id=f"another start: {start}",
            )
            for start in ("bytes 0-30/31", "bytes 50-80/90", "bytes */31", "lines 5-30/31", "")
        ),
    ],
)
def test_changed_content_is_downloaded_from_the_start(
    storage: ScriptedStorage, then: list[Reply]
) -> None:
    storage.script = [Reply(200, BODY, {"ETag": ETAG}, cut=5), *then]
    [part] = [(part.file.read(), part.size, part.digest) for part in download(storage.url)]
    assert part == (NEW, len(NEW), digest(NEW))
    assert ranges(storage) == [None, "bytes=5-", None][: len(then) + 1]


def test_rest_in_pieces_is_put_together(storage: ScriptedStorage) -> None:
    pieces = [(5, 100), (100, 300)]
    storage.script = [
        Reply(200, BODY, {"ETag": ETAG}, cut=5),
        *(
            Reply(
                206,
                BODY[start:end],
                {"ETag": ETAG, "Content-Range": f"bytes {start}-{end - 1}/{len(content_of(0))}"},
            )
            for start, end in pieces
        ),
    ]
    assert contents(storage) == [content_of(0)]


def test_read_timeout_is_retried(storage: ScriptedStorage) -> None:
    # The chunk in hand may be lost with the connection; what counts is that the file is complete.
    storage.script = [Reply(200, content_of(0), {"ETag": ETAG}, cut=5, stall=True)]
    client = make_client(request_timeout=0.2)
    assert [part.file.read() for part in download(storage.url, client=client)] == [content_of(0)]
    assert len(storage.requests) == 2


def test_breaks_with_progress_between_them_use_up_no_attempts(storage: ScriptedStorage) -> None:
    storage.script = [
        Reply(200, content_of(0), {"ETag": ETAG}, cut=1),
        *(
            Reply(
                206,
                content_of(0)[i:],
                {"ETag": ETAG, "Content-Range": f"bytes {i}-{len(BODY)}/{len(content_of(0))}"},
                cut=1,
            )
            for i in range(1, 20)
        ),
    ]
    assert contents(storage) == [content_of(0)]
    assert len(storage.requests) == 21


def test_restarting_again_and_again_is_no_progress(storage: ScriptedStorage) -> None:
    # A storage that knows no ranges, and whose connections break by turns.
    storage.script = [Reply(200, content_of(0), cut=cut) for cut in (2, 1) * 10]
    with pytest.raises(TransientError):
        contents(storage)
    # One with progress, then as many as any request has.
    assert len(storage.requests) == 1 + 6


class TickingClock:
    """A clock that advances each time it is read: by the given seconds, then by the last."""

    def __init__(self, *ticks: float) -> None:
        self._now, self._ticks = 0.0, list(ticks)

    def monotonic(self) -> float:
        self._now += self._ticks.pop(0) if len(self._ticks) > 1 else self._ticks[0]
        return self._now


@pytest.mark.parametrize(
    # An attempt that was fast at first does not count.
    ("ticks", "attempts"),
    [([0.5], 1), ([2], 6), ([*([0.1] * 50), 2], 1 + 6)],
)
def test_slow_download(
    storage: ScriptedStorage, monkeypatch: pytest.MonkeyPatch, ticks: list[float], attempts: int
) -> None:
    monkeypatch.setattr(download_module, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(download_module, "time", TickingClock(*ticks))
    storage.script = [Reply(200, bytes(80_000), {"ETag": ETAG}) for _ in range(9)]
    client = make_client(request_timeout=5)
    parts = download(storage.url, client=client)
    if attempts > 1:
        with pytest.raises(TransientError, match=r"Part 1 of 1.*slower.*request_timeout"):
            next(parts)
    else:
        assert next(parts).size == 80_000
    assert len(storage.requests) == attempts


def test_deadline_is_that_of_each_read(
    storage: ScriptedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(session_module, "time", TickingClock(1))
    storage.script = [Reply(200, bytes(200_000))]
    assert contents(storage) == [bytes(200_000)]
    assert len(storage.requests) == 1


def test_slow_progress_over_many_connections(
    storage: ScriptedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "time", TickingClock(1))
    storage.script = [Reply(200, content_of(0), cut=cut) for cut in range(1, 20)]
    with pytest.raises(TransientError, match="Part 1 of 1"):
        contents(storage)
    assert len(storage.requests) == 6


def test_policy_without_delays_does_not_resume(storage: ScriptedStorage) -> None:
    storage.script = [Reply(200, content_of(0), {"ETag": ETAG}, cut=5)]
    client = make_client(request_timeout=10, retry=NO_RETRY)
    with pytest.raises(TransientError):
        list(download(storage.url, client=client))
    assert len(storage.requests) == 1


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 500, 503, 429])
def test_retries_end(
    storage: ScriptedStorage, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level("DEBUG")
    storage.script = [Reply(status)] * 10
    with pytest.raises(TransientError, match=rf"Part 1 of 1.*{status}") as raised:
        contents(storage)
    assert len(storage.requests) == 6
    assert "secret" not in str(raised.value) + log_of_package(caplog)


@pytest.mark.parametrize("status", [201, 202, 203, 204])
def test_2xx_without_the_file_is_retried(storage: ScriptedStorage, status: int) -> None:
    storage.script = [Reply(status)] * 2
    assert contents(storage) == [content_of(0)]
    assert len(storage.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 405])
def test_4xx_fails_without_retry_and_without_the_url(storage: ScriptedStorage, status: int) -> None:
    storage.script = [Reply(status, b"<Error>secret</Error>")]
    with pytest.raises(FatalAPIError, match=f"Part 1 of 1: download: HTTP {status}") as raised:
        contents(storage)
    assert len(storage.requests) == 1
    assert "secret" not in str(raised.value)


def test_failed_connection_is_reported_without_the_url(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    with ScriptedStorage() as closed:
        url = closed.url
    with pytest.raises(TransientError, match="connection refused") as raised:
        list(download(url))
    assert "secret" not in "".join(map(repr, causes(raised.value))) + log_of_package(caplog)
    assert raised.value.__suppress_context__


def test_error_of_a_later_part_follows_the_parts_before(storage: ScriptedStorage) -> None:
    # All of it is known before the first request: the download runs ahead of its reader.
    storage.script = [None, None, Reply(404)]
    parts = download(storage.url, 3)
    assert [next(parts).file.read() for _ in range(2)] == [content_of(0), content_of(1)]
    with pytest.raises(FatalAPIError, match="Part 3 of 3"):
        next(parts)


# --- credentials ----------------------------------------------------------------------------


@pytest.mark.usefixtures("netrc")
def test_storage_gets_no_credentials(storage: ScriptedStorage) -> None:
    assert contents(storage) == [content_of(0)]
    assert storage.requests[0][1]["Authorization"] is None


@pytest.mark.usefixtures("netrc")
def test_redirect_of_the_storage_gets_no_credentials(storage: ScriptedStorage) -> None:
    storage.script = [Reply(302, headers={"Location": "/7"})]
    assert contents(storage) == [content_of(7)]
    assert [headers["Authorization"] for _, headers in storage.requests] == [None, None]


def test_redirect_to_another_https_address_is_followed(requests_mock: Mocker) -> None:
    requests_mock.get("https://one/0", status_code=302, headers={"Location": "https://two/x"})
    requests_mock.get("https://two/x", content=b"abc")
    assert [part.file.read() for part in download("https://one")] == [b"abc"]


@pytest.mark.parametrize("host", ["http://two", "HTTP://two", "http://127.0.0.1", "http://[::1]"])
def test_redirect_to_plain_http_is_refused(requests_mock: Mocker, host: str) -> None:
    location = {"Location": f"{host}/x?s=secret"}
    requests_mock.get("https://one/0", status_code=302, headers=location)
    with pytest.raises(FatalAPIError, match="non-HTTPS") as raised:
        list(download("https://one"))
    assert "secret" not in str(raised.value)
    assert [sent.hostname for sent in requests_mock.request_history] == ["one"]


def test_refused_redirect_leaves_no_connection_open(storage: ScriptedStorage) -> None:
    storage.script = [Reply(302, headers={"Location": "http://two/x"})]
    with pytest.raises(FatalAPIError, match="non-HTTPS"):
        contents(storage)
    # A socket that nobody closed is a warning here, which fails the test.
    gc.collect()


def test_body_of_a_redirect_is_not_read(storage: ScriptedStorage) -> None:
    location = {"Location": "/0?redirected"}
    storage.script = [Reply(302, BODY, location, cut=1, stall=True)]
    assert contents(storage) == [content_of(0)]
    assert [path for path, _ in storage.requests][1:] == ["/0?redirected"]


# --- disk -----------------------------------------------------------------------------------


def test_no_part_is_visible_on_disk(storage: ScriptedStorage, folder: Path) -> None:
    seen = []
    for part in download(storage.url, 3):
        seen += list(folder.iterdir())
        part.file.read()
    assert seen + list(folder.iterdir()) == []


def test_part_is_closed_when_the_next_one_is_read(storage: ScriptedStorage) -> None:
    parts = download(storage.url, 2)
    one, two = next(parts), next(parts)
    assert (one.file.closed, two.file.closed) == (True, False)
    parts.close()
    assert two.file.closed


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


class FullDisk(io.BytesIO):
    def __init__(self, fails: str) -> None:
        super().__init__()
        self._fails = fails

    @override
    def write(self, data: Any, /) -> int:
        if self._fails == "writing":
            raise NO_SPACE
        return super().write(data)

    @override
    def flush(self) -> None:
        # Of a buffered file, this may be what reaches the disk.
        if self._fails == "flushing" and self.tell():
            raise NO_SPACE


@pytest.mark.parametrize("fails", ["writing", "flushing", "opening"])
def test_full_disk_names_tmpdir(
    storage: ScriptedStorage, monkeypatch: pytest.MonkeyPatch, folder: Path, fails: str
) -> None:
    def temporary_file(**_options: object) -> FullDisk:
        if fails == "opening":
            raise NO_SPACE
        return FullDisk(fails)

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    with pytest.raises(FatalSyncError, match="TMPDIR") as raised:
        contents(storage)
    assert str(folder) in str(raised.value)
    assert "No space left" in str(raised.value)


# --- thread ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch_limit", [1, 64])
def test_reader_that_stops_early_ends_the_download(
    storage: ScriptedStorage,
    files: list[IO[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    prefetch_limit: int,
) -> None:
    monkeypatch.setattr("tap_sendgrid_contacts.api.download._PREFETCH_LIMIT", prefetch_limit)
    parts = download(storage.url, 500)
    next(parts)
    parts.close()
    assert download_threads() == []
    assert len(storage.requests) < 500
    assert [file.closed for file in files] == [True] * len(files)


def test_reader_that_stops_early_ends_a_read_that_waits(storage: ScriptedStorage) -> None:
    storage.script = [None, Reply(200, bytes(1_000_000), cut=500_000, stall=True)]
    parts = download(storage.url, 2)
    next(parts)
    wait_for(lambda: len(storage.requests) == 2)
    parts.close()
    assert download_threads() == []
    assert not storage.released.is_set()


def test_reader_that_stops_early_ends_the_retries(
    storage: ScriptedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    storage.script = [None, *[Reply(503, headers={"Retry-After": "200"})] * 9]
    parts = download(storage.url, 2)
    next(parts)
    wait_for(lambda: "retrying in 200.0 s" in caplog.text)
    parts.close()
    assert download_threads() == []
    assert len(storage.requests) == 2


def test_signal_ends_the_wait_for_a_part(
    storage: ScriptedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.script = [Reply(200, bytes(1_000), cut=1, stall=True)]
    monkeypatch.setattr(stopping, "_noted", signal.SIGTERM)
    with pytest.raises(stopping.Stopped):
        contents(storage)
    assert download_threads() == []


def test_part_enqueued_after_the_reader_stopped_leaves_no_file_open(
    storage: ScriptedStorage, files: list[IO[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    second, closing = threading.Event(), threading.Event()
    join = threading.Thread.join

    class LateQueue(Queue[Any]):
        @override
        def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
            if getattr(item, "name", "") == "1":
                second.set()
                assert closing.wait(10)
            super().put(item)

    def join_late(thread: threading.Thread, timeout: float | None = None) -> None:
        closing.set()
        join(thread, timeout)

    monkeypatch.setattr("tap_sendgrid_contacts.api.download.Queue", LateQueue)
    monkeypatch.setattr(threading.Thread, "join", join_late)
    parts = download(storage.url, 2)
    next(parts)
    assert second.wait(10)
    parts.close()
    assert [file.closed for file in files] == [True, True]


@pytest.mark.parametrize("status", [404, 500])
def test_failed_part_leaves_no_file_open(
    storage: ScriptedStorage, files: list[IO[bytes]], status: int
) -> None:
    storage.script = [Reply(status)] * 6
    with pytest.raises((FatalAPIError, TransientError)):
        contents(storage)
    assert [file.closed for file in files] == [True]


def test_reader_that_waits_gets_progress(
    storage: ScriptedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ImpatientQueue(Queue[Any]):
        @override
        def get(self, block: bool = True, timeout: float | None = None) -> object:
            return super().get(timeout=0.01)

    monkeypatch.setattr("tap_sendgrid_contacts.api.download.Queue", ImpatientQueue)
    storage.script = [Reply(200, bytes(2_000_000), {"ETag": ETAG}, cut=1_000_000, stall=True)]
    texts: list[str] = []

    def on_progress(text: str) -> None:
        texts.append(text)
        if " of 2.0 MB" in text:
            storage.script = [Reply(200, b"abc", {"ETag": '"two"'})]
            storage.released.set()

    parts = iter_parts(Job(storage.url, 1), ["0"], on_progress, is_counted=True)
    [size] = [part.size for part in parts]
    assert size == 3
    # Later ones may be of the part's new content.
    text = next(text for text in texts if " of 2.0 MB" in text)
    assert re.fullmatch(r"Downloading Part 1 of 1: [01]\.\d of 2\.0 MB", text)


def test_prefetched_parts_are_bounded(
    storage: ScriptedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(storage.url, 20)
    signed_when_full: list[int] = []

    class Slots(threading.Semaphore):
        @override
        def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
            if super().acquire(blocking=False):
                return True
            signed_when_full.append(len(job.signed))
            return super().acquire()

    monkeypatch.setattr(threading, "Semaphore", Slots)
    monkeypatch.setattr("tap_sendgrid_contacts.api.download._PREFETCH_LIMIT", 2)
    parts = iter_parts(job, job.part_names, lambda _: None, is_counted=True)
    next(parts)
    # One with the reader, three waiting.
    wait_for(lambda: 4 in signed_when_full or len(job.signed) > 4)
    assert job.signed == ["0", "1", "2", "3"]
    parts.close()

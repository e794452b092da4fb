"""Parts to disk: whole, in order, from storage that breaks off, and without a trace."""

from __future__ import annotations

import errno
import io
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Full, Queue
from typing import IO, TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import FatalAPIError, FatalSyncError, RetriableAPIError
from typing_extensions import override

from tap_sendgrid_contacts.client import SendGrid
from tap_sendgrid_contacts.download import fetch_parts
from tap_sendgrid_contacts.export import ExportJob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message
    from pathlib import Path

    from requests_mock import Mocker

BODY = bytes(range(256)) * 4
ETAG = '"one"'


@dataclass(frozen=True)
class Answer:
    """What the storage answers to one request.

    Attributes:
        status: Its status.
        body: Its body; the length it announces is that of all of it.
        headers: Its headers.
        cut: After how many bytes of the body the connection breaks.
        stall: Whether it stays silent there instead.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: bool = False


class Storage(ThreadingHTTPServer):
    """Answers by the script while there is one, then as a storage does that works.

    The path is the part's number; each part is BODY and its number. None in the script is an
    answer of a storage that works.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.script: list[Answer | None] = []
        self.asked: list[tuple[str, Message]] = []
        self.over = threading.Event()

    def answer(self, path: str, headers: Message) -> Answer:
        self.asked.append((path, headers))
        if self.script and (scripted := self.script.pop(0)):
            return scripted
        body, tag = whole(int(path[1:].partition("?")[0])), {"ETag": ETAG}
        start = int((headers["Range"] or "bytes=0-")[len("bytes=") : -1])
        if headers["If-Match"] not in {None, ETAG}:
            return Answer(412)
        if start:
            tag["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return Answer(206 if start else 200, body[start:], tag)

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Storage

    def do_GET(self) -> None:
        answer = self.server.answer(self.path, self.headers)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: answer.cut])
        if answer.stall:
            self.server.over.wait(30)
        self.close_connection = True

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Job(ExportJob):
    """An export that is ready, with a new signature for each link."""

    def __init__(self, url: str, parts: int) -> None:
        super().__init__(SendGrid("SG.key"), "e1")
        self.parts = parts
        self.base = url
        self.links: list[int] = []

    @override
    def url(self, part: int) -> str:
        self.links.append(part)
        return f"{self.base}/{part}?signature=secret{len(self.links)}"


def downloads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "download"]


def join_downloads() -> None:
    for thread in downloads():
        thread.join(10)


def whole(part: int) -> bytes:
    return BODY + b"%d" % part


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage() as storage:
        thread = threading.Thread(target=storage.serve_forever, args=(0.01,))
        thread.start()
        yield storage
        storage.over.set()
        storage.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits instead of waiting."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


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
    join_downloads()
    for file in files:
        file.close()


@pytest.fixture
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(file))


def contents(storage: Storage, parts: int = 1, first: int = 0, timeout: int = 10) -> list[bytes]:
    return [part.file.read() for part in fetch_parts(Job(storage.url, parts), first, timeout)]


def ranges(storage: Storage) -> list[str | None]:
    return [headers["Range"] for _, headers in storage.asked]


# --- whole and in order ---------------------------------------------------------------------


def test_parts_come_whole_and_in_order(storage: Storage) -> None:
    parts = []
    for part in fetch_parts(Job(storage.url, 5), 0, 10):
        assert part.file.tell() == 0
        parts.append((part.number, part.file.read(), part.bytes))
    assert parts == [(i, whole(i), len(whole(i))) for i in range(5)]


def test_parts_before_the_first_wanted_are_not_fetched(storage: Storage) -> None:
    assert contents(storage, parts=4, first=2) == [whole(2), whole(3)]
    assert [path[:2] for path, _ in storage.asked] == ["/2", "/3"]


@pytest.mark.parametrize(("parts", "first"), [(0, 0), (3, 3)])
def test_nothing_left_to_fetch_is_nothing(storage: Storage, parts: int, first: int) -> None:
    assert contents(storage, parts, first) == []
    assert storage.asked == []


def test_empty_part_is_a_part(storage: Storage) -> None:
    storage.script = [Answer(200)]
    assert contents(storage) == [b""]


def test_bytes_are_kept_as_they_are_stored(storage: Storage) -> None:
    storage.script = [Answer(200, b"\x1f\x8bno gzip", {"Content-Encoding": "gzip"})]
    assert contents(storage) == [b"\x1f\x8bno gzip"]
    assert storage.asked[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("tag", [{"ETag": ETAG}, {"ETag": 'W/"one"'}, {}])
def test_version_tells_one_content_from_another(storage: Storage, tag: dict[str, str]) -> None:
    storage.script = [Answer(200, body, tag) for body in (b"abc", b"abc", b"abcd")]
    [one], [same], [other] = [
        [part.version for part in fetch_parts(Job(storage.url, 1), 0, 10)] for _ in range(3)
    ]
    assert one == same
    assert tag or one != other


# --- broken off -----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 500, len(BODY)])
def test_download_goes_on_where_it_broke_off(
    storage: Storage, slept: list[float], cut: int
) -> None:
    storage.script = [Answer(200, whole(0), {"ETag": ETAG}, cut=cut)]
    assert contents(storage) == [whole(0)]
    assert ranges(storage) == [None, f"bytes={cut}-"]
    assert storage.asked[1][1]["If-Match"] == ETAG
    assert len(slept) == 1


def test_each_try_gets_a_new_link(storage: Storage) -> None:
    storage.script = [Answer(200, whole(0), {"ETag": ETAG}, cut=5), Answer(403)]
    assert contents(storage) == [whole(0)]
    assert [path.partition("=")[2] for path, _ in storage.asked] == [
        "secret1",
        "secret2",
        "secret3",
    ]


@pytest.mark.parametrize("tag", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_tag_the_rest_is_asked_for_unconditionally(
    storage: Storage, tag: dict[str, str]
) -> None:
    rest = {**tag, "Content-Range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"}
    storage.script = [Answer(200, BODY, tag, cut=5), Answer(206, BODY[5:], rest)]
    assert contents(storage) == [BODY]
    assert storage.asked[1][1]["If-Match"] is None


NEW = b"a newer file, of another length"
FULL = Answer(200, NEW, {"ETag": '"two"'})


@pytest.mark.parametrize(
    "then",
    [
        pytest.param([FULL], id="all of it instead of the rest"),
        pytest.param([Answer(412), FULL], id="412"),
        pytest.param([Answer(416), FULL], id="416"),
        pytest.param(
            [Answer(206, NEW[5:], {"ETag": '"two"', "Content-Range": "bytes 5-30/31"}), FULL],
            id="the rest of another file",
        ),
        pytest.param([Answer(206, NEW[5:], {"Content-Range": "bytes 5-30/31"}), FULL], id="no tag"),
        *(
            pytest.param(
                [Answer(206, NEW, {"ETag": ETAG, "Content-Range": start}), FULL],
                id=f"another start: {start}",
            )
            for start in ("bytes 0-30/31", "bytes 50-80/90", "bytes */31", "lines 5-30/31", "")
        ),
    ],
)
def test_another_file_is_read_from_its_beginning(storage: Storage, then: list[Answer]) -> None:
    storage.script = [Answer(200, BODY, {"ETag": ETAG}, cut=5), *then]
    [part] = [
        (part.file.read(), part.bytes, part.version)
        for part in fetch_parts(Job(storage.url, 1), 0, 10)
    ]
    assert part == (NEW, len(NEW), '"two"')
    assert ranges(storage) == [None, "bytes=5-", None][: len(then) + 1]


def test_rest_that_comes_in_pieces_is_put_together(storage: Storage) -> None:
    pieces = [(5, 100), (100, 300)]
    storage.script = [
        Answer(200, BODY, {"ETag": ETAG}, cut=5),
        *(
            Answer(
                206,
                BODY[start:end],
                {"ETag": ETAG, "Content-Range": f"bytes {start}-{end - 1}/{len(whole(0))}"},
            )
            for start, end in pieces
        ),
    ]
    assert contents(storage) == [whole(0)]


def test_storage_that_stays_silent_is_asked_again(storage: Storage) -> None:
    # The chunk in hand may be lost with the connection; what counts is that the file is whole.
    storage.script = [Answer(200, whole(0), {"ETag": ETAG}, cut=5, stall=True)]
    assert contents(storage, timeout=1) == [whole(0)]
    assert len(storage.asked) == 2


def test_breaks_with_progress_between_them_are_no_lost_tries(
    storage: Storage, slept: list[float]
) -> None:
    storage.script = [
        Answer(200, whole(0), {"ETag": ETAG}, cut=1),
        *(
            Answer(
                206,
                whole(0)[i:],
                {"ETag": ETAG, "Content-Range": f"bytes {i}-{len(BODY)}/{len(whole(0))}"},
                cut=1,
            )
            for i in range(1, 20)
        ),
    ]
    assert contents(storage) == [whole(0)]
    assert slept == [1] * 20


def test_beginning_again_and_again_is_no_progress(storage: Storage, slept: list[float]) -> None:
    # A storage that knows no ranges, and whose connections break by turns.
    storage.script = [Answer(200, whole(0), cut=cut) for cut in (2, 1) * 10]
    with pytest.raises(RetriableAPIError):
        contents(storage)
    assert slept == [1, 1, 2, 4, 8, 16]


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 500, 503, 429])
def test_tries_come_to_an_end(
    storage: Storage, slept: list[float], caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level("DEBUG")
    storage.script = [Answer(status)] * 10
    with pytest.raises(RetriableAPIError, match=rf"part 1 of 1.*{status}") as raised:
        contents(storage)
    assert len(storage.asked) == 6
    assert slept == [1, 2, 4, 8, 16]
    assert "secret" not in str(raised.value) + caplog.text


def test_storage_says_how_long_to_wait(storage: Storage, slept: list[float]) -> None:
    storage.script = [Answer(503, headers={"Retry-After": "7"})]
    assert contents(storage) == [whole(0)]
    assert slept == [7]


@pytest.mark.parametrize("status", [201, 202, 203, 204])
def test_success_without_the_file_is_none(
    storage: Storage, slept: list[float], status: int
) -> None:
    storage.script = [Answer(status)] * 2
    assert contents(storage) == [whole(0)]
    assert slept == [1, 2]


@pytest.mark.parametrize("status", [400, 404, 405])
def test_refusal_is_told_at_once_without_the_link(storage: Storage, status: int) -> None:
    storage.script = [Answer(status, b"<Error>secret</Error>")]
    with pytest.raises(FatalAPIError, match=f"answered {status}") as raised:
        contents(storage)
    assert len(storage.asked) == 1
    assert "secret" not in str(raised.value)


def test_connection_that_cannot_be_made_is_told_without_the_link(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    with Storage() as closed:
        url = closed.url
    with pytest.raises(RetriableAPIError, match="refused the connection") as raised:
        list(fetch_parts(Job(url, 1), 0, 10))
    assert "secret" not in repr(raised.value) + caplog.text
    assert raised.value.__suppress_context__


def test_error_of_a_later_part_comes_after_the_parts_before(storage: Storage) -> None:
    # All of it is known before the first request: the download runs ahead of its reader.
    storage.script = [None, None, Answer(404)]
    parts = fetch_parts(Job(storage.url, 3), 0, 10)
    assert [next(parts).file.read() for _ in range(2)] == [whole(0), whole(1)]
    with pytest.raises(FatalAPIError, match="part 3 of 3"):
        next(parts)


# --- credentials ----------------------------------------------------------------------------


@pytest.mark.usefixtures("netrc")
def test_no_credentials_go_to_the_storage(storage: Storage) -> None:
    assert contents(storage) == [whole(0)]
    assert storage.asked[0][1]["Authorization"] is None


@pytest.mark.usefixtures("netrc")
def test_no_credentials_go_where_the_storage_redirects(storage: Storage) -> None:
    storage.script = [Answer(302, headers={"Location": "/7"})]
    assert contents(storage) == [whole(7)]
    assert [headers["Authorization"] for _, headers in storage.asked] == [None, None]


def test_redirect_to_another_https_address_is_followed(requests_mock: Mocker) -> None:
    requests_mock.get("https://one/0", status_code=302, headers={"Location": "https://two/x"})
    requests_mock.get("https://two/x", content=b"abc")
    assert [part.file.read() for part in fetch_parts(Job("https://one", 1), 0, 10)] == [b"abc"]


@pytest.mark.parametrize("target", ["http://two/x?s=secret", "HTTP://two/x?s=secret"])
def test_redirect_to_plain_http_is_refused(requests_mock: Mocker, target: str) -> None:
    requests_mock.get("https://one/0", status_code=302, headers={"Location": target})
    requests_mock.get("http://two/x", content=b"abc")
    with pytest.raises(FatalAPIError, match="not https") as raised:
        list(fetch_parts(Job("https://one", 1), 0, 10))
    assert "secret" not in str(raised.value)
    assert [sent.hostname for sent in requests_mock.request_history] == ["one"]


# --- the disk -------------------------------------------------------------------------------


def test_nothing_is_left_on_disk_nor_seen_there(storage: Storage, folder: Path) -> None:
    seen = []
    for part in fetch_parts(Job(storage.url, 3), 0, 10):
        seen += list(folder.iterdir())
        part.file.read()
    assert seen + list(folder.iterdir()) == []


def test_parts_are_closed_when_the_reader_goes_on(storage: Storage) -> None:
    parts = fetch_parts(Job(storage.url, 2), 0, 10)
    one, two = next(parts), next(parts)
    assert (one.file.closed, two.file.closed) == (True, False)
    parts.close()
    assert two.file.closed


class FullDisk(io.BytesIO):
    @override
    def write(self, data: object, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fails", ["writing", "opening"])
def test_full_disk_is_told_with_a_way_out(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, folder: Path, fails: str
) -> None:
    def temporary_file(**_options: object) -> FullDisk:
        if fails == "opening":
            raise OSError(errno.ENOSPC, "No space left on device")
        return FullDisk()

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    with pytest.raises(FatalSyncError, match="TMPDIR") as raised:
        contents(storage)
    assert str(folder) in str(raised.value)
    assert "No space left" in str(raised.value)


# --- the thread -----------------------------------------------------------------------------


@pytest.mark.parametrize("parts_ahead", [1, 64])
def test_reader_that_stops_early_stops_the_thread(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, parts_ahead: int
) -> None:
    monkeypatch.setattr("tap_sendgrid_contacts.download._PARTS_AHEAD", parts_ahead)
    parts = fetch_parts(Job(storage.url, 500), 0, 10)
    next(parts)
    parts.close()
    join_downloads()
    assert downloads() == []
    assert len(storage.asked) < 500


def test_no_thread_is_left_at_the_end(storage: Storage) -> None:
    contents(storage, parts=2)
    join_downloads()
    assert downloads() == []


def test_reader_that_stops_early_leaves_no_file_open(
    storage: Storage, files: list[IO[bytes]]
) -> None:
    parts = fetch_parts(Job(storage.url, 5), 0, 10)
    next(parts)
    parts.close()
    join_downloads()
    assert [file.closed for file in files] == [True] * len(files)


def test_part_that_comes_in_behind_the_reader_leaves_no_file_open(
    storage: Storage, files: list[IO[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    second, gone = threading.Event(), threading.Event()

    class LateQueue(Queue[Any]):
        @override
        def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
            if item.number:  # type: ignore[attr-defined]
                second.set()
                assert gone.wait(10)
            super().put(item)

        @override
        def get_nowait(self) -> object:
            try:
                return super().get_nowait()
            finally:
                gone.set()

    monkeypatch.setattr("tap_sendgrid_contacts.download.Queue", LateQueue)
    parts = fetch_parts(Job(storage.url, 2), 0, 10)
    next(parts)
    assert second.wait(10)
    parts.close()
    join_downloads()
    assert [file.closed for file in files] == [True, True]


@pytest.mark.parametrize("status", [404, 500])
def test_part_that_is_given_up_leaves_no_file_open(
    storage: Storage, files: list[IO[bytes]], status: int
) -> None:
    storage.script = [Answer(status)] * 6
    with pytest.raises((FatalAPIError, RetriableAPIError)):
        contents(storage)
    assert [file.closed for file in files] == [True]


def test_parts_ahead_of_the_reader_are_bounded(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()

    class SmallQueue(Queue[Any]):
        @override
        def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
            try:
                super().put(item, timeout=0.01)
            except Full:
                full.set()
                raise

    monkeypatch.setattr("tap_sendgrid_contacts.download.Queue", SmallQueue)
    monkeypatch.setattr("tap_sendgrid_contacts.download._PARTS_AHEAD", 2)
    job = Job(storage.url, 20)
    parts = fetch_parts(job, 0, 10)
    next(parts)
    full.clear()
    assert full.wait(10)
    # With the reader, two waiting, and one in hand.
    assert job.links == [0, 1, 2, 3]
    parts.close()

from __future__ import annotations

import errno
import os
import resource
import stat
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import fsspec
import pytest
from singer_sdk.exceptions import ConfigurationError, FatalSyncError
from singer_sdk.helpers._batch import StorageTarget

from tap_sendgrid_contacts.output import storage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {path.name: oct(path.lstat().st_mode & 0o777) for path in folder.iterdir()}


def test_a_file_is_private_and_hidden_until_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    folder = tmp_path / "new"
    with storage.open_file(f"file://{folder}/contacts-1.jsonl", {}) as file:
        file.write(b"contact")
        file.flush()
        assert modes(folder) == {".contacts-1.jsonl.unfinished": "0o600"}
    assert modes(folder) == {"contacts-1.jsonl": "0o600"}
    assert (folder / "contacts-1.jsonl").read_bytes() == b"contact"
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"kept")
    (tmp_path / ".contacts-1.jsonl.unfinished").symlink_to(other)
    opened = storage.open_file(f"file://{tmp_path}/contacts-1.jsonl", {})
    with pytest.raises(FileExistsError), opened:
        pass
    storage.remove_unfinished(f"file://{tmp_path}/contacts-")
    assert list(modes(tmp_path)) == ["other"]
    assert other.read_bytes() == b"kept"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_unfinished_file_is_removed(tmp_path: Path, error: BaseException) -> None:
    opened = storage.open_file(f"file://{tmp_path}/contacts-1.jsonl", {})
    with pytest.raises(type(error)), opened as file:
        raise error if file.write(b"contact") else AssertionError
    assert modes(tmp_path) == {}


def test_errors_name_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = f"file://{tmp_path}/file/contacts-1.jsonl"
    message = f"batch file to file://{tmp_path}/file: File exists"
    with pytest.raises(FatalSyncError, match=message), storage.map_storage_errors(url):
        storage.open_file(url, {}).__enter__()


def test_what_a_killed_run_has_left_is_removed(tmp_path: Path) -> None:
    names = (
        ".contacts-1.jsonl.unfinished",  # left by a kill
        ".other-1.jsonl.unfinished",  # of another stream
        "contacts-0.jsonl",
    )
    for name in names:
        (tmp_path / name).touch()
    url = f"file://{tmp_path}/contacts-"
    with storage.open_file(f"{url}2.jsonl", {}):
        # Another run writes a file at this moment.
        storage.remove_unfinished(url)
        assert sorted(modes(tmp_path)) == sorted([*names[1:], ".contacts-2.jsonl.unfinished"])
    assert sorted(modes(tmp_path)) == sorted([*names[1:], "contacts-2.jsonl"])


def test_leftovers_that_cannot_be_removed_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".contacts-1.jsonl.unfinished").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for folder in (tmp_path, tmp_path / "none", tmp_path / "loop", tmp_path / ("x" * 300)):
        storage.remove_unfinished(f"file://{folder}/contacts-")
    assert modes(tmp_path).keys() == {".contacts-1.jsonl.unfinished", "loop"}


@pytest.mark.parametrize("reason", [None, errno.ENOLCK])
def test_files_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int | None
) -> None:
    """On Windows and some network file systems."""

    def flock(*_: object) -> None:
        raise OSError(reason, "No locks available")

    fcntl = SimpleNamespace(flock=flock, LOCK_EX=0, LOCK_NB=0) if reason else None
    monkeypatch.setitem(sys.modules, "fcntl", fcntl)
    monkeypatch.delattr(os, "O_DIRECTORY")
    (tmp_path / ".contacts-0.jsonl.unfinished").touch()
    storage.remove_unfinished(f"file://{tmp_path}/contacts-")
    assert bool(modes(tmp_path)) == bool(reason)
    with storage.open_file(f"file://{tmp_path}/contacts-1.jsonl", {}) as file:
        file.write(b"contact")
    assert (tmp_path / "contacts-1.jsonl").read_bytes() == b"contact"


def test_a_file_is_closed_and_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows cannot rename open files; after a power cut, a file must not be there in part."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("sync folder" if is_folder else "sync file")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        calls.append(f"rename, closed: {file.closed}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    with storage.open_file(f"file://{tmp_path}/x.jsonl", {}) as file:
        file.write(b"contact")
    assert calls == ["sync file", "rename, closed: True", "sync folder"]


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    # Files of this process can have 4 KiB; to write more is an error, as on a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        opened = storage.open_file(f"file://{tmp_path}/contacts-1.jsonl", {})
        with pytest.raises(OSError, match="File too large"), opened as file:
            file.write(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert modes(tmp_path) == {}


@pytest.mark.parametrize("name", ["a b", "ä", "a%20b", "a#b"])
def test_roots_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    monkeypatch.chdir(tmp_path)
    for i, root in enumerate((f"file://{folder}", str(folder), name)):
        url = StorageTarget(storage.resolve_root(root)).get_url(f"{i}.jsonl")
        with storage.open_file(url, {}) as file:
            file.write(b"contact")
        assert (folder / f"{i}.jsonl").read_bytes() == b"contact"
        # As targets do.
        head, tail = StorageTarget.split_url(url)
        with StorageTarget.from_url(head).open(tail) as file:
            assert file.read() == b"contact"
    assert modes(tmp_path).keys() == {name}


def test_without_a_root_each_run_has_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp = tmp_path / "a b"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    urls = [StorageTarget(storage.resolve_root("")).get_url("1.jsonl") for _ in range(2)]
    for url in urls:
        with storage.open_file(url, {}):
            pass
    assert list(modes(temp).values()) == ["0o700"] * 2
    assert len(list(temp.glob("*/1.jsonl"))) == 2
    assert modes(tmp_path).keys() == {"a b"}


def test_the_environment_cannot_turn_tls_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://minio:9000"),
        ("AWS_ENDPOINT_URL_S3", "HTTP://192.0.2.1"),
        ("AZURE_STORAGE_CONNECTION_STRING", "DefaultEndpointsProtocol=http;AccountName=a"),
        ("OSS_ENDPOINT", "oss.example.com"),
        # Empty, they turn verification off in some versions of botocore.
        ("AWS_CA_BUNDLE", ""),
        ("REQUESTS_CA_BUNDLE", ""),
        ("STORAGE_EMULATOR_HOST", "storage.example.com:4443"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(ConfigurationError, match=f"^{name} must not"):
                storage.validate_transport("s3://contacts", {})
            storage.validate_transport("file:///contacts", {})
            patch.setenv(name, "/ca.pem" if "BUNDLE" in name else "http://localhost:9000")
            storage.validate_transport("s3://contacts", {})
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://minio:9000"})
    with pytest.raises(ConfigurationError, match=r"^The configuration of fsspec must not"):
        storage.validate_transport("s3://contacts", {})


def test_nothing_is_removed_from_object_stores() -> None:
    storage.remove_unfinished("s3://bucket/contacts-")

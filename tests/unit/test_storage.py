from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from singer_sdk.exceptions import FatalSyncError

from tap_sendgrid_contacts.output import storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}


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


def test_nothing_is_removed_from_object_stores() -> None:
    storage.remove_unfinished("s3://bucket/contacts-")

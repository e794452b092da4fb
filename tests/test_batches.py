"""BATCH files: the same records as RECORD messages, in files of a capped size."""

from __future__ import annotations

import gzip
import io
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from singer_sdk.exceptions import FatalSyncError
from singer_sdk.helpers._batch import BatchConfig
from typing_extensions import Buffer, override

from tap_sendgrid_contacts.batches import Chunk, write_files
from tap_sendgrid_contacts.position import Position
from tests.conftest import position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Run, Sandbox, Tap

both_types = pytest.mark.parametrize("file_type", ["json", "csv"])


def batch_config(folder: Path, compression: str = "gzip", **more: Any) -> dict[str, Any]:
    return {
        "encoding": {"format": "jsonl", "compression": compression},
        "storage": {"root": folder.as_uri(), "prefix": "load-"},
        **more,
    }


def lines_of(url: str) -> list[bytes]:
    content = Path(urlsplit(url).path).read_bytes()
    return (gzip.decompress(content) if url.endswith(".gz") else content).splitlines()


def rows_of(run: Run) -> list[list[dict[str, Any]]]:
    files = []
    for message in run.of("BATCH"):
        (url,) = message["manifest"]
        assert "/load-contacts-" in url
        files.append([json.loads(line) for line in lines_of(url)])
    return files


@both_types
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_files_hold_the_records(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path, file_type: str, compression: str
) -> None:
    there = sandbox("--contacts", "700", "--parts", "3", "--custom-fields", "8")
    config: dict[str, Any] = {"file_type": file_type}
    records = tap(there, **config).records
    for size, files in ((50, 14), (10_000, 1)):
        run = tap(
            there, **config, batch_config=batch_config(tmp_path, compression, batch_size=size)
        )
        assert run.code == 0, run.log
        assert run.records == []
        batches = rows_of(run)
        assert [row for rows in batches for row in rows] == records
        assert all(0 < len(rows) <= size for rows in batches)
        assert len(batches) >= files
        assert run.of("BATCH")[0]["encoding"]["compression"] == compression
        assert run.export_state is None


def test_selection_and_maps_apply(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    there = sandbox("--contacts", "200", "--no-edge-cases")
    catalog = tap.discover(there)
    for entry in catalog["streams"][0]["metadata"]:
        if entry["breadcrumb"] == ["properties", "email"]:
            entry["metadata"]["selected"] = False
    run = tap(there, catalog=catalog, batch_config=batch_config(tmp_path))
    (rows,) = rows_of(run)
    assert len(rows) == 200
    assert all("email" not in row and "contact_id" in row for row in rows)
    maps = {"contacts": {"city": "__NULL__", "__filter__": "country == 'Denmark'"}}
    run = tap(there, stream_maps=maps, batch_config=batch_config(tmp_path))
    mapped = [row for rows in rows_of(run) for row in rows]
    assert 0 < len(mapped) < 200
    assert all("city" not in row and row["country"] == "Denmark" for row in mapped)
    assert mapped == tap(there, stream_maps=maps).records


def test_a_state_names_announced_files_only(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    there = sandbox("--contacts", "500", "--no-edge-cases", "--parts", "3")
    run = tap(there, batch_config=batch_config(tmp_path, batch_size=90))
    announced = 0
    for message in run.messages:
        if message["type"] == "BATCH":
            (url,) = message["manifest"]
            announced += len(lines_of(url))
        elif message["type"] == "STATE":
            at = position(message["value"]) or {}
            assert at.get("contacts", 0) + at.get("records", 0) <= announced
    # Any of them resumes to the rest.
    middle = run.of("STATE")[4]["value"]
    at = position(middle) or {}
    read = at.get("contacts", 0) + at.get("records", 0)
    rest = tap(there, state=middle, batch_config=batch_config(tmp_path, batch_size=90))
    assert sum(map(len, rows_of(rest))) == 500 - read


@pytest.mark.parametrize(
    "config",
    [
        {"emit_activate_version_messages": True},
        {"stream_maps": {"contacts": {}, "more": {"__source__": "contacts"}}},
    ],
)
def test_what_files_cannot_carry_is_refused(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path, config: dict[str, Any]
) -> None:
    there = sandbox("--contacts", "5")
    run = tap(there, batch_config=batch_config(tmp_path), **config)
    assert run.code == 1
    assert "`batch_config`" in run.error
    assert there.exports_asked_for == 0


@pytest.mark.parametrize("part", ["encoding", "storage"])
def test_a_config_that_lacks_something_is_told_as_it_should_be(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path, part: str
) -> None:
    config = batch_config(tmp_path)
    del config[part]
    run = tap(sandbox("--contacts", "5"), batch_config=config)
    assert run.code == 1
    assert "`batch_config` is to be as" in run.error


def test_parquet_is_refused(sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path) -> None:
    config = batch_config(tmp_path)
    config["encoding"]["format"] = "parquet"
    run = tap(sandbox("--contacts", "5"), batch_config=config)
    assert run.code == 1
    assert "jsonl" in run.error


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_run_that_fails_leaves_no_contacts_behind(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path, compression: str
) -> None:
    spool, files = tmp_path / "spool", tmp_path / "files"
    spool.mkdir()
    there = sandbox("--contacts", "900", "--parts", "3", "--fault", "bad-line")
    config = batch_config(files, compression, batch_size=70)
    run = tap(there, batch_config=config, env={"TMPDIR": str(spool)})
    assert run.code == 1
    assert list(spool.iterdir()) == []
    announced = {Path(urlsplit(batch["manifest"][0]).path) for batch in run.of("BATCH")}
    assert announced == set(files.iterdir())
    assert announced


def test_a_file_that_cannot_be_written_is_one_line(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    config = {"encoding": {"format": "jsonl"}, "storage": {"root": "file:///dev/null/no"}}
    run = tap(sandbox("--contacts", "5"), batch_config=config)
    assert run.code == 1
    assert "`batch_config`: a file could not be written to its storage: Not a dir" in run.error


class CredentialsError(Exception):
    """Object stores raise what is no OSError."""


@pytest.mark.parametrize("when", ["open", "write", "commit"])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_an_error_of_the_storage_is_told_as_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str, compression: str
) -> None:
    class File(io.BytesIO):
        @override
        def write(self, data: Buffer, /) -> int:
            # The header of gzip passes; when it is closed, it writes again.
            if when == "write" and self.tell() + len(bytes(data)) > 20:
                raise CredentialsError("private")
            return super().write(data)

        def commit(self) -> None:
            raise CredentialsError("private")

        def discard(self) -> None:
            pass

    def open_file(*_: object, **_options: object) -> File:
        if when == "open":
            raise CredentialsError("private")
        return File()

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem._open", open_file)
    config = BatchConfig.from_dict(batch_config(tmp_path, compression))
    chunk = Chunk(os.urandom(2**20), 1, Position(datetime.now(timezone.utc), {}))
    with pytest.raises(FatalSyncError, match=r"its storage: CredentialsError$"):
        list(write_files([chunk], config, "contacts"))


def test_an_error_of_the_contacts_is_none_of_the_storage(tmp_path: Path) -> None:
    def chunks() -> Iterator[Chunk]:
        yield Chunk(b"{}\n", 1, Position(datetime.now(timezone.utc), {}))
        raise LookupError

    with pytest.raises(LookupError):
        list(write_files(chunks(), BatchConfig.from_dict(batch_config(tmp_path)), "contacts"))
    # It is not whole, so it is not there.
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("root", "error"), [("gs://contacts", "gcsfs"), ("no://x", "no")])
def test_a_storage_that_there_is_no_package_for_is_refused(
    sandbox: Callable[..., Sandbox], tap: Tap, root: str, error: str
) -> None:
    there = sandbox("--contacts", "5")
    config = {"encoding": {"format": "jsonl"}, "storage": {"root": root}}
    run = tap(there, batch_config=config)
    assert run.code == 1
    assert "`batch_config`, `storage`: " in run.error
    assert error in run.error
    assert there.exports_asked_for == 0


def test_incremental_files_resume_without_loss(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    there = sandbox("--contacts", "400", "--no-edge-cases", "--parts", "2")
    catalog = tap.discover(there)
    root = next(each for each in catalog["streams"][0]["metadata"] if not each["breadcrumb"])
    root["metadata"]["replication-method"] = "INCREMENTAL"
    config: dict[str, Any] = {
        "catalog": catalog,
        "start_date": "2020-06-01T00:00:00Z",
        # Smaller than a block of the decoder.
        "batch_config": batch_config(tmp_path, batch_size=20),
    }
    whole = tap(there, **config)
    wanted = {row["contact_id"] for rows in rows_of(whole) for row in rows}
    assert 0 < len(wanted) < 400
    sent: set[str] = set()
    states = []
    for message in whole.messages:
        if message["type"] == "BATCH":
            (url,) = message["manifest"]
            sent |= {json.loads(line)["contact_id"] for line in lines_of(url)}
        elif message["type"] == "STATE" and position(message["value"]):
            states.append((message["value"], set(sent)))
    for state, before in states[1::3]:
        rest = tap(there, state=state, **config)
        assert before | {row["contact_id"] for rows in rows_of(rest) for row in rows} == wanted


def test_the_test_writes_no_files(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    there = sandbox("--contacts", "5")
    folder = tmp_path / "files"
    folder.mkdir()
    run = tap(there, "--test", batch_config=batch_config(folder))
    assert run.code == 0
    assert there.exports_asked_for == 0
    assert list(folder.iterdir()) == []

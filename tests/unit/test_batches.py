"""BATCH files: complete or not there, of a capped size; errors of any storage."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from singer_sdk.exceptions import ConfigurationError, FatalSyncError
from singer_sdk.helpers._batch import BatchConfig
from typing_extensions import Buffer, override

from tap_sendgrid_contacts.checkpoint import Block, Checkpoint
from tap_sendgrid_contacts.output import storage
from tap_sendgrid_contacts.output.batch import BatchFiles, validate_batch_config
from tap_sendgrid_contacts.output.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NOW = datetime.now(timezone.utc)


def batch_config(folder: Path, compression: str = "gzip", **more: Any) -> BatchConfig:
    return BatchConfig.from_dict(
        {
            "encoding": {"format": "jsonl", "compression": compression},
            "storage": {"root": folder.as_uri(), "prefix": "load-"},
            **more,
        }
    )


def block(*rows: Any) -> Block:
    """Return a block, whose checkpoint is after its last row."""
    return Block(rows, Checkpoint(NOW, part_offset=max(rows, default=-1) + 1))


def write(blocks: Iterable[Block], config: BatchConfig) -> Iterator[tuple[str, Checkpoint | None]]:
    """Write blocks; yield the URL of each file, or nothing, and the checkpoint after it."""
    for manifests, checkpoint in BatchFiles(config, "contacts", {}, None).write(blocks, None):
        yield "".join(url for [url] in manifests), checkpoint


def rows_of(url: str) -> list[Any]:
    content = Path(urlsplit(url).path).read_bytes()
    lines = gzip.decompress(content) if url.endswith(".gz") else content
    return [json.loads(line) for line in lines.splitlines()]


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_blocks_are_written_to_files_of_batch_size(tmp_path: Path, compression: str) -> None:
    blocks = [block(0, 1), block(2), block(3, 4, 5), block(6, 7), block(8)]
    files = list(write(blocks, batch_config(tmp_path, compression, batch_size=3)))
    assert [rows_of(url) for url, _ in files] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [checkpoint and checkpoint.part_offset for _, checkpoint in files] == [3, 6, 9]
    names = [Path(urlsplit(url).path).name for url, _ in files]
    suffix = ".jsonl.gz" if compression == "gzip" else ".jsonl"
    assert all(name.startswith("load-contacts-") and name.endswith(suffix) for name in names)
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_block_that_needs_several_files_counts_at_its_end(tmp_path: Path) -> None:
    blocks = [block(0), block(1, 2, 3, 4, 5), block(6)]
    files = list(write(blocks, batch_config(tmp_path, batch_size=2)))
    assert [rows_of(url) for url, _ in files] == [[0], [1, 2], [3, 4], [5, 6]]
    # A run that resumes emits a block again as a whole.
    assert [checkpoint and checkpoint.part_offset for _, checkpoint in files] == [1, 1, 1, 7]
    first = next(write([block(0, 1, 2)], batch_config(tmp_path, batch_size=2)))
    assert first[1] is None


def test_block_without_rows_has_a_checkpoint_but_no_file(tmp_path: Path) -> None:
    end_of_part = block()._replace(checkpoint=Checkpoint(NOW, finished_parts="a:b"))
    blocks = [end_of_part, block(0, 1), end_of_part, block(2), end_of_part]
    files = list(write(blocks, batch_config(tmp_path, batch_size=2)))
    # After a file, its checkpoint is that of the file.
    assert [bool(url) for url, _ in files] == [False, True, True]
    assert all(checkpoint and checkpoint.finished_parts == "a:b" for _, checkpoint in files)
    assert len(list(tmp_path.iterdir())) == 2


def test_emitted_records_are_counted_with_their_file(tmp_path: Path) -> None:
    output = BatchFiles(batch_config(tmp_path, batch_size=2), "contacts", {}, None)
    files = output.write([block(0, 1), block(2)], None)
    assert [output.records_emitted for _ in files] == [2, 3]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("sizes", [(5, 4, 3), (1,) * 6, (10,), (0, 3, 0, 0, 4, 0), (0,), ()])
def test_checkpoint_after_a_file_never_covers_more_than_the_files(
    tmp_path: Path, size: int, sizes: tuple[int, ...]
) -> None:
    numbers = iter(range(sum(sizes)))
    end, blocks = 0, []
    for count in sizes:
        end += count
        rows: Any = list(itertools.islice(numbers, count))
        blocks.append(Block(rows, Checkpoint(NOW, part_offset=end)))
    written: list[int] = []
    durable = 0
    for url, checkpoint in write(blocks, batch_config(tmp_path, batch_size=size)):
        rows = rows_of(url) if url else []
        assert len(rows) <= size
        written += rows
        durable = checkpoint.part_offset if checkpoint else durable
        # Within the block that is being written.
        assert 0 <= len(written) - durable < max(1, *sizes)
    assert written == list(range(end))
    assert durable == end


def test_records_are_made_of_rows_and_may_be_fewer(tmp_path: Path) -> None:
    def make_records(rows: Any) -> list[Any]:  # noqa: ANN401 - of a test
        return [{"id": Decimal("1.10")} for row in rows if row != 1]

    config = batch_config(tmp_path, "none", batch_size=3)
    output = BatchFiles(config, "contacts", {}, make_records)
    files = list(output.write([block(1), block(0, 1, 2)], None))
    assert [checkpoint and checkpoint.part_offset for _, checkpoint in files] == [2, 3]
    assert files[0][0] == []
    assert rows_of(files[1][0][0][0]) == [{"id": 1.1}] * 2
    assert output.records_emitted == 2


def test_file_is_complete_before_it_is_announced(tmp_path: Path) -> None:
    config = batch_config(tmp_path, batch_size=2)
    for url, _ in write([block(0, 1), block(2, 3)], config):
        assert len(rows_of(url)) == 2


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        list(write([block(0)], batch_config(tmp_path)))
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


# --- errors ---------------------------------------------------------------------------------


class CredentialsError(Exception):
    """Object stores raise what is not an OSError."""


@pytest.mark.parametrize("when", ["open", "write", "commit"])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_storage_error_is_mapped_without_its_message(
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

    # Any other file system does for an object store.
    monkeypatch.setattr(storage, "is_local", lambda _: False)
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem._open", open_file)
    rows: Any = [os.urandom(2**20).hex()]
    big = Block(rows, Checkpoint(NOW))
    with pytest.raises(FatalSyncError, match=r"batch_config: .*: CredentialsError$"):
        list(write([big], batch_config(tmp_path, compression)))


def test_storage_error_has_the_reason_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FatalSyncError, match=r"batch_config: .*: Not a directory$"):
        list(write([block(0)], batch_config(tmp_path / "file" / "no")))


def test_error_of_the_contacts_is_not_one_of_the_storage(tmp_path: Path) -> None:
    def blocks() -> Iterator[Block]:
        yield block(0)
        raise LookupError

    with pytest.raises(LookupError):
        list(write(blocks(), batch_config(tmp_path)))
    # It is not complete, so it is not there.
    assert not list(tmp_path.iterdir())


# --- config ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", FORMATS)
def test_batch_config_is_valid(tmp_path: Path, file_format: str) -> None:
    for compression in (None, *FORMATS[file_format].suffixes):
        encoding = {"format": file_format, "compression": compression}
        validate_batch_config(batch_config(tmp_path, encoding=encoding))


@pytest.mark.parametrize(
    ("root", "params"),
    [
        ("", {}),
        ("out", {}),
        ("/out", {}),
        ("file:///out", {"auto_mkdir": True}),
        ("file:///out", {"unpaired": "\ud800"}),
        ("s3://contacts/daily", {"endpoint_url": "http://127.0.0.1:9000", "use_ssl": False}),
        ("s3://contacts", {"client_kwargs": {"endpoint_url": "http://[::1]:9000/"}}),
        ("s3://contacts", {"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms"}}),
        ("s3://contacts", {"use_ssl": True, "client_kwargs": {"verify": "/etc/ca.pem"}}),
        ("oss://contacts", {"endpoint": "https://oss.example.com"}),
        (
            "abfs://contacts",
            {
                "connection_string": "DefaultEndpointsProtocol=http;AccountName=a;"
                "BlobEndpoint=http://127.0.0.1:10000/a;"
            },
        ),
        ("s3://contacts", {"client_kwargs": {"verify": None}}),
    ],
)
def test_storage_is_valid(
    monkeypatch: pytest.MonkeyPatch, root: str, params: dict[str, Any]
) -> None:
    # Without the extra of an object store.
    monkeypatch.setattr("fsspec.get_filesystem_class", lambda _: None)
    storage = {"root": root, "params": params}
    validate_batch_config(batch_config(Path("/"), storage=storage))


def test_columnar_files_require_pyarrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tap_sendgrid_contacts.output.batch.find_spec", lambda _: None)
    validate_batch_config(batch_config(tmp_path))
    with pytest.raises(ConfigurationError, match="extra 'arrow'"):
        validate_batch_config(batch_config(tmp_path, encoding={"format": "parquet"}))


def test_what_a_killed_run_has_left_is_removed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / ".load-contacts-0.jsonl.unfinished").touch()
    BatchFiles(batch_config(tmp_path), "contacts", {}, None)
    assert list(tmp_path.iterdir()) == []


NOTHING: tuple[object, ...] = (False, 0, "", [], {})


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("encoding.compression", {"encoding": {"format": "jsonl", "compression": "zstd"}}),
        ("encoding.compression", {"encoding": {"format": "parquet", "compression": "gzip"}}),
        ("encoding.compression", {"encoding": {"format": "arrow", "compression": "zstd"}}),
        (
            "storage.root",
            {"encoding": {"format": "arrow"}, "storage": {"root": "memory://contacts"}},
        ),
        ("storage.root", {"storage": {"root": "gs://contacts"}}),
        ("storage.root", {"storage": {"root": "no-such-protocol://x"}}),
        *(
            ("storage.root", {"storage": {"root": root}})
            for root in (
                *("file://", "s3://", "memory://contacts", "memory:", "MEMORY://x", "data:,x"),
                *("http://127.0.0.1/x", "https://example.com/x", "ftp://example.com", "sftp://x"),
                *("simplecache::s3://contacts", "file:///a::s3://b", "s3:contacts", "file:/x"),
                *("/a::b", "file://localhost/a", "file://a"),
            )
        ),
        *(
            ("storage.params", {"storage": {"root": "/x", "params": params}})
            for params in (
                {"endpoint_url": "http://minio:9000"},
                {"client_kwargs": {"endpoint_url": "HTTP://minio.example.com"}},
                {"connection_string": "BlobEndpoint=http://blob.example.com/a;"},
                {"endpoint": "oss.example.com"},
                *({"client_kwargs": {"use_ssl": off}} for off in (False, 0, None, "")),
                *({"client_kwargs": {"verify": off}} for off in NOTHING),
                *({each: False} for each in ("connection_verify", "ssl", "verify_ssl", "secure")),
                {"insecure": True},
                {
                    "client_kwargs": {"verify": False},
                    "config_kwargs": {"proxies": {"https": "http://127.0.0.1:3128"}},
                },
                {
                    "client_kwargs": {"endpoint_url": "https://x", "verify": 0},
                    "endpoint": "http://[::1]",
                },
                {"connection_string": "DefaultEndpointsProtocol=http;AccountName=a"},
            )
        ),
    ],
)
def test_invalid_batch_config_names_the_setting(
    tmp_path: Path, setting: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=f"^batch_config.{setting}"):
        validate_batch_config(batch_config(tmp_path, **changes))


def test_prefix_cannot_chain_file_systems(tmp_path: Path) -> None:
    # All files would have the path of the first of them.
    for root in ("", str(tmp_path)):
        storage = {"root": root, "prefix": "a::memory://"}
        with pytest.raises(ConfigurationError, match="prefix must not have '::'"):
            validate_batch_config(batch_config(tmp_path, storage=storage))

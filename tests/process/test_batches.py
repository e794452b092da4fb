"""BATCH files: the same records as RECORD messages, in files of a limited size."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from pyarrow import parquet

from tap_sendgrid_contacts.output.formats import FORMATS
from tests.batch_files import each_format_once, every_format, paths_of, records_of, stored
from tests.harness import both_file_types, checkpoint_of, contacts_read, deselect, incremental

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import Sandbox, Tap, TapRun


def batch_config(
    folder: Path, file_format: str = "jsonl", compression: str = "gzip", **more: Any
) -> dict[str, Any]:
    return {
        "encoding": {"format": file_format, "compression": compression},
        "storage": {"root": folder.as_uri(), "prefix": "load-"},
        **more,
    }


def path_of(message: dict[str, Any]) -> Path:
    (path,) = paths_of(message)
    assert path.name.startswith("load-contacts-")
    return path


def batches_of(run: TapRun) -> list[list[dict[str, Any]]]:
    return [records_of(message) for message in run.of_type("BATCH")]


@both_file_types
@every_format
def test_files_have_the_records(
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    tmp_path: Path,
    file_type: str,
    file_format: str,
    compression: str,
) -> None:
    sandbox = start_sandbox("--contacts", "700", "--parts", "3", "--custom-fields", "8")
    catalog = deselect(tap.discover(sandbox), "phone_number")
    config: dict[str, Any] = {"file_type": file_type, "catalog": catalog}
    records = tap(sandbox, **config).records
    assert "phone_number" not in records[0]
    for size, files in ((50, 14), (10_000, 1)):
        files_config = batch_config(tmp_path, file_format, compression, batch_size=size)
        run = tap(sandbox, **config, batch_config=files_config)
        assert run.records == []
        batches = batches_of(run)
        assert [row for rows in batches for row in rows] == stored(records, file_format)
        # So the columns have the same order.
        assert [list(rows[0]) for rows in batches] == [list(records[0])] * len(batches)
        assert all(0 < len(rows) <= size for rows in batches)
        assert len(batches) >= files
        assert run.of_type("BATCH")[0]["encoding"] == files_config["encoding"]
        assert run.checkpoint is None
        assert "700 emitted by this run" in run.log
        # Contacts are for the owner only.
        assert {path_of(message).stat().st_mode & 0o777 for message in run.of_type("BATCH")} == {
            0o600
        }


def test_parquet_is_compressed_unless_configured_otherwise(
    start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    sandbox = start_sandbox("--contacts", "5")
    config = batch_config(tmp_path)
    for options, codec in (
        ({}, "ZSTD"),
        ({"compression": "zstd"}, "ZSTD"),
        ({"compression": "none"}, "UNCOMPRESSED"),
    ):
        config["encoding"] = {"format": "parquet", **options}
        (message,) = tap(sandbox, batch_config=config).of_type("BATCH")
        metadata = parquet.read_metadata(path_of(message))
        assert metadata.row_group(0).column(0).compression == codec


def test_files_of_process(start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path) -> None:
    sandbox = start_sandbox("--contacts", "700", "--parts", "3")
    for file_format in ("jsonl", "parquet"):
        config = batch_config(tmp_path, file_format, "none")
        run = tap.run_process(sandbox, batch_config=config)
        rows = [row for rows in batches_of(run) for row in rows]
        assert rows == stored(tap(sandbox).records, file_format)


def test_stream_maps(start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path) -> None:
    sandbox = start_sandbox("--contacts", "200", "--no-edge-cases")
    maps = {"contacts": {"city": "__NULL__", "__filter__": "country == 'Denmark'"}}
    run = tap(sandbox, stream_maps=maps, batch_config=batch_config(tmp_path))
    mapped = [row for rows in batches_of(run) for row in rows]
    assert 0 < len(mapped) < 200
    assert all("city" not in row and row["country"] == "Denmark" for row in mapped)
    assert mapped == tap(sandbox, stream_maps=maps).records


@both_file_types
@each_format_once
def test_state_counts_announced_files_only(
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    tmp_path: Path,
    file_type: str,
    file_format: str,
    compression: str,
) -> None:
    sandbox = start_sandbox("--contacts", "500", "--no-edge-cases", "--parts", "3")
    config: dict[str, Any] = {
        "batch_config": batch_config(tmp_path, file_format, compression, batch_size=90),
        "file_type": file_type,
    }
    run = tap(sandbox, **config)
    announced = 0
    for message in run.messages:
        if message["type"] == "BATCH":
            announced += len(records_of(message))
        elif message["type"] == "STATE":
            assert contacts_read(message["value"]) <= announced
    # A run resumes to the rest from any of them.
    for state in run.states[1:-1]:
        rest = tap(sandbox, state=state, **config)
        assert sum(map(len, batches_of(rest))) == 500 - contacts_read(state)
    assert sandbox.exports_created == 1


def test_names_have_the_time_of_the_request(
    start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    sandbox = start_sandbox("--contacts", "300")
    config: dict[str, Any] = {"batch_config": batch_config(tmp_path, batch_size=90)}
    run = tap(sandbox, **config)
    state = run.states[2]
    checkpoint = checkpoint_of(state)
    assert checkpoint is not None
    time = checkpoint["requested_at"][:19].replace("-", "").replace(":", "")
    names = {path_of(message).name for message in run.of_type("BATCH")}
    assert all(name.startswith(f"load-contacts-{time}Z-") for name in names)
    # A resumed run adds files of the same export.
    checkpoint["requested_at"] = "2026-01-02T03:04:05Z"
    resumed = tap(sandbox, state=state, **config).of_type("BATCH")
    assert resumed
    assert all("/load-contacts-20260102T030405Z-" in str(path_of(each)) for each in resumed)


@pytest.mark.parametrize(
    ("file_format", "config", "reason"),
    [
        ("jsonl", {"emit_activate_version_messages": True}, "batch_config"),
        ("jsonl", {"stream_maps": {"contacts": {}, "b": {"__source__": "contacts"}}}, "at most"),
        *(
            (name, config, f"{name} does not support stream maps")
            for name, each in FORMATS.items()
            for config in (
                {"stream_maps": {"contacts": {"email": "md5(email or '')"}}},
                {"flattening_enabled": True, "flattening_max_depth": 1},
            )
            if each.is_columnar
        ),
        # One of each kind; tests/unit/test_batches.py has all of them.
        ("avro", {}, f"batch_config.encoding.format must be one of {', '.join(FORMATS)}"),
        ("jsonl", {"batch_config": {"storage": {"root": "gs://contacts"}}}, "gcsfs"),
    ],
    ids=str,
)
def test_rejected_before_the_export(
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    tmp_path: Path,
    file_format: str,
    config: dict[str, Any],
    reason: str,
) -> None:
    sandbox = start_sandbox("--contacts", "5")
    changes = config.get("batch_config", {})
    batches = {**batch_config(tmp_path, file_format, "none"), **changes}
    run = tap(sandbox, **{**config, "batch_config": batches}, code=1)
    assert reason in run.error
    # `--test` finds it as well: it is before anything is written.
    assert run.messages == []
    assert sandbox.exports_created == 0


def test_encoding_alone_is_complete(
    monkeypatch: pytest.MonkeyPatch,
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sandbox = start_sandbox("--contacts", "5")
    config = {"encoding": {"format": "jsonl"}, "storage": {"prefix": "load-"}}
    runs = [tap(sandbox, batch_config=config) for _ in range(2)]
    assert [[*map(len, batches_of(run))] for run in runs] == [[5], [5]]
    folders = {path_of(message).parent for run in runs for message in run.of_type("BATCH")}
    assert {folder.parent for folder in folders} == {tmp_path}
    # A new one in each run, and none for one that writes nothing.
    assert len(folders) == len([path for path in tmp_path.iterdir() if path in folders]) == 2
    before = set(tmp_path.iterdir())
    assert tap(sandbox, "--test", batch_config=config).code == 0
    assert set(tmp_path.iterdir()) == before


@both_file_types
@each_format_once
def test_failed_run_leaves_announced_files_only(
    monkeypatch: pytest.MonkeyPatch,
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    tmp_path: Path,
    file_type: str,
    file_format: str,
    compression: str,
) -> None:
    sandbox = start_sandbox("--contacts", "900", "--parts", "3", "--fault", "bad-line")
    files, temp = tmp_path / "files", tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    config = batch_config(files, file_format, compression, batch_size=70)
    run = tap(sandbox, batch_config=config, file_type=file_type, code=1)
    assert list(temp.iterdir()) == []
    announced = {path_of(message) for message in run.of_type("BATCH")}
    assert announced == set(files.iterdir())
    assert announced


@both_file_types
@each_format_once
def test_incremental_files_resume(
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    tmp_path: Path,
    file_type: str,
    file_format: str,
    compression: str,
) -> None:
    sandbox = start_sandbox("--contacts", "400", "--no-edge-cases", "--parts", "2")
    config: dict[str, Any] = {
        "catalog": incremental(tap.discover(sandbox)),
        "start_date": "2020-06-01T00:00:00Z",
        # Smaller than a block of the decoder.
        "batch_config": batch_config(tmp_path, file_format, compression, batch_size=20),
        "file_type": file_type,
    }

    def ids(rows: list[dict[str, Any]]) -> set[str]:
        return {row["contact_id"] for row in rows}

    complete = tap(sandbox, **config)
    wanted = ids([row for rows in batches_of(complete) for row in rows])
    assert 0 < len(wanted) < 400
    emitted: set[str] = set()
    states = []
    for message in complete.messages:
        if message["type"] == "BATCH":
            emitted |= ids(records_of(message))
        elif message["type"] == "STATE" and checkpoint_of(message["value"]):
            states.append((message["value"], set(emitted)))
    for state, before in states[1::3]:
        rest = tap(sandbox, state=state, **config)
        assert before | ids([row for rows in batches_of(rest) for row in rows]) == wanted

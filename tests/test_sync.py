"""The whole way, over real HTTP: from an export to Singer messages."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts.sandbox.account import Account
from tests.conftest import SANDBOX, TAP, Sandbox, Tap, position
from tests.expected import RESERVED, expected

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

both_types = pytest.mark.parametrize("file_type", ["json", "csv"])

CUSTOM_FIELDS = 20


def by_id(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {record["contact_id"]: record for record in records}
    assert len(found) == len(records)
    return found


@both_types
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--parts", "4", "--gzip-members", "3"),
        ("--compression", "plain-gzip"),
        ("--compression", "none", "--bom"),
        ("--number-format", "text", "--date-format", "iso", "--alternate-emails", "comma"),
        ("--date-format", "us", "--alternate-emails", "semicolon"),
        ("--alternate-emails", "space", "--fault", "chunked"),
    ],
    ids=" ".join,
)
def test_every_contact_arrives_whole_and_typed(
    sandbox: Callable[..., Sandbox], tap: Tap, file_type: str, options: tuple[str, ...]
) -> None:
    there = sandbox("--contacts", "700", "--custom-fields", str(CUSTOM_FIELDS), *options)
    run = tap(there, file_type=file_type)
    assert run.code == 0, run.log
    (schema,) = run.of("SCHEMA")
    account = Account(700, CUSTOM_FIELDS)
    assert by_id(run.records) == expected(account, schema["schema"])
    assert list(run.records[0])[: len(RESERVED)] == list(RESERVED)


@both_types
def test_lists_and_segments_are_what_is_asked_for(
    sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    there = sandbox("--contacts", "400")
    account = Account(400)
    lists = [group.id for group in account.lists[1:3]]
    segments = [account.segments[0].id]
    run = tap(
        there,
        file_type=file_type,
        list_ids=lists,
        segment_ids=segments,
        max_file_size=10,
        notify_email=True,
        on_behalf_of="subuser",
    )
    (schema,) = run.of("SCHEMA")
    assert by_id(run.records) == expected(account, schema["schema"], lists, segments)
    (post,) = [line for line in there.log if line.startswith("POST")]
    assert json.loads(post[post.index("{") : post.rindex("}") + 1]) == {
        "file_type": file_type,
        "list_ids": lists,
        "segment_ids": segments,
        "max_file_size": 10,
        "notifications": {"email": True},
    }


def test_what_is_not_configured_is_left_out_of_the_request(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "3")
    tap(there)
    (post,) = [line for line in there.log if line.startswith("POST")]
    assert post.endswith('{"file_type": "json"}')


@both_types
def test_overlapping_lists_may_repeat_a_contact(
    sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    there = sandbox("--contacts", "100", "--duplicates", "keep")
    lists = [group.id for group in Account(100).lists[:2]]
    run = tap(there, file_type=file_type, list_ids=lists)
    assert run.code == 0
    repeats = Counter(record["contact_id"] for record in run.records)
    assert set(repeats.values()) == {1, 2}


@both_types
def test_an_empty_export_is_a_complete_one(
    sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    there = sandbox("--contacts", "100")
    nobody = Account(100).lists[-1].id
    run = tap(there, file_type=file_type, list_ids=[nobody], emit_activate_version_messages=True)
    assert run.code == 0
    assert run.records == []
    assert len(run.of("ACTIVATE_VERSION")) == 1
    assert run.export_state is None


def test_the_messages_come_in_order(sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    run = tap(sandbox("--contacts", "25000", "--no-edge-cases", "--parts", "2"))
    kinds = [message["type"] for message in run.messages]
    assert kinds[0] == "SCHEMA"
    assert kinds.count("SCHEMA") == 1
    assert kinds[-1] == "STATE"
    # Before any record: asked for, and the export's id. In between: parts and every 10 000.
    before = kinds[: kinds.index("RECORD")]
    assert before.count("STATE") == 2
    positions = [position(message["value"]) or {} for message in run.of("STATE")]
    assert "id" not in positions[0]
    assert positions[1]["id"]
    assert positions[-1] == {}
    read = [at.get("contacts", 0) + at.get("records", 0) for at in positions[1:-1]]
    assert read == sorted(read)
    assert read[-1] == 25000
    assert max(b - a for a, b in pairwise(read)) <= 11_000
    assert run.state == {"bookmarks": {"contacts": {"exports": []}}}


def test_fewer_contacts_than_promised_are_an_error_unless_allowed(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "20", "--fault", "count-high")
    run = tap(there, emit_activate_version_messages=True)
    assert run.code == 1
    assert "allow_count_mismatch" in run.error
    assert run.export_state is not None
    assert run.of("ACTIVATE_VERSION") == []
    allowed = tap(there, allow_count_mismatch=True)
    assert allowed.code == 0
    assert len(allowed.records) == 20
    assert "allow_count_mismatch" in allowed.log


def test_deselected_columns_are_in_neither_schema_nor_records(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "30")
    catalog = tap.discover(there)
    gone = ["email", "updated_at", "custom_company_name"]
    for entry in catalog["streams"][0]["metadata"]:
        if entry["breadcrumb"] and entry["breadcrumb"][1] in gone:
            entry["metadata"]["selected"] = False
    run = tap(there, catalog=catalog)
    assert run.code == 0, run.log
    (schema,) = run.of("SCHEMA")
    columns = set(schema["schema"]["properties"])
    assert columns.isdisjoint(gone)
    assert {"contact_id", "first_name"} < columns
    assert all(set(record) == columns for record in run.records)
    # A field that is deselected is not a field that the catalog lacks.
    assert "catalog lacks" not in run.log


def test_catalog_without_the_stream_loads_nothing_and_says_so(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "10")
    run = tap(there, catalog={"streams": []})
    assert run.code == 0
    assert not run.records
    assert "The catalog has no stream contacts: nothing is loaded" in run.log


def test_a_field_made_after_discovery_is_named_once_and_not_emitted(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    catalog = tap.discover(sandbox("--contacts", "10", "--custom-fields", "2"))
    there = sandbox("--contacts", "300", "--custom-fields", "3", "--parts", "2")
    for file_type in ("json", "csv"):
        run = tap(there, catalog=catalog, file_type=file_type)
        assert run.code == 0
        (schema,) = run.of("SCHEMA")
        assert all(set(record) == set(schema["schema"]["properties"]) for record in run.records)
        (warning,) = [line for line in run.log.splitlines() if "catalog lacks" in line]
        assert "'dob'" in warning


def test_without_the_right_to_field_definitions_reserved_columns_load(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    run = tap(sandbox("--contacts", "10", "--fault", "forbidden-fields"))
    assert run.code == 0
    assert list(run.of("SCHEMA")[0]["schema"]["properties"]) == list(RESERVED)
    assert len(run.records) == 10
    assert "only reserved columns" in run.log


@both_types
def test_both_paths_give_the_same_bytes(
    sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    there = sandbox("--contacts", "500", "--custom-fields", str(CUSTOM_FIELDS))
    config: dict[str, Any] = {"file_type": file_type, "emit_activate_version_messages": True}
    fast = tap(there, **config)
    # A map that changes nothing: the records go through the SDK all the same.
    slow = tap(there, **config, stream_maps={"contacts": {"email": "email"}})
    assert "in blocks" in fast.log
    assert "one by one" in slow.log

    def lines(out: bytes) -> list[bytes]:
        records = (line for line in out.splitlines() if line.startswith(b'{"type":"RECORD"'))
        return [record.rpartition(b',"version":')[0] for record in records]

    assert lines(fast.out) == lines(slow.out)
    assert len(lines(fast.out)) == 500


def test_stream_maps_and_flattening_work_as_the_sdk_documents(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "40", "--no-edge-cases")
    maps = {
        "contacts": {
            "contact_id": "md5(contact_id)",
            "year": "updated_at[:4]",
            "facebook": "__NULL__",
        }
    }
    run = tap(there, stream_maps=maps)
    assert run.code == 0, run.log
    assert all(len(record["contact_id"]) == 32 for record in run.records)
    assert all(record["year"] == record["updated_at"][:4] for record in run.records)
    assert all("facebook" not in record for record in run.records)
    # What a map raises may quote a contact; the error does not.
    broken = tap(there, stream_maps={"contacts": {"n": "int(first_name)"}})
    assert broken.code == 1
    assert "ValueError in" in broken.error
    assert "invalid literal" not in broken.log
    flat = tap(there, flattening_enabled=True, flattening_max_depth=1)
    assert flat.code == 0, flat.log
    assert len(flat.records) == 40


def test_a_catalog_without_metadata_selects_all(sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    there = sandbox("--contacts", "20")
    catalog = tap.discover(there)
    catalog["streams"][0]["metadata"] = []
    run = tap(there, catalog=catalog)
    assert run.code == 0, run.log
    (schema,) = run.of("SCHEMA")
    assert len(run.records) == 20
    assert schema["schema"]["properties"].keys() == run.records[0].keys()
    assert "contact_id" in run.records[0]


class TestIncremental:
    """By the catalog's metadata, as Meltano and hand-written catalogs set it."""

    @staticmethod
    def catalog(tap: Tap, there: Sandbox) -> dict[str, Any]:
        catalog = tap.discover(there)
        root = next(each for each in catalog["streams"][0]["metadata"] if not each["breadcrumb"])
        assert root["metadata"]["valid-replication-keys"] == ["updated_at"]
        root["metadata"]["replication-method"] = "INCREMENTAL"
        return catalog

    @both_types
    def test_only_what_changed_since_comes(
        self, sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
    ) -> None:
        first_day = sandbox("--contacts", "300")
        catalog = self.catalog(tap, first_day)
        first = tap(first_day, catalog=catalog, file_type=file_type)
        assert first.code == 0, first.log
        assert len(first.records) == 300
        assert "FULL_TABLE" in first.log
        bookmark = first.state["bookmarks"]["contacts"]["replication_key_value"]
        assert bookmark == max(record["updated_at"] for record in first.records)
        state = first.state
        second_day = sandbox("--contacts", "300", "--day", "2")
        state["bookmarks"]["contacts"]["source"]["api_url"] = second_day.url
        second = tap(second_day, catalog=catalog, state=state, file_type=file_type)
        assert second.code == 0, second.log
        assert 0 < len(second.records) < 100
        assert all(record["updated_at"] >= bookmark for record in second.records)
        all_of_it = tap(second_day)
        wanted = {r["contact_id"] for r in all_of_it.records if r["updated_at"] >= bookmark}
        assert {record["contact_id"] for record in second.records} == wanted

    @pytest.mark.parametrize("start_date", ["2020-06-01T00:00:00Z", "2020-06-01", "06/01/2020"])
    def test_start_date_is_the_earliest(
        self, sandbox: Callable[..., Sandbox], tap: Tap, start_date: str
    ) -> None:
        there = sandbox("--contacts", "300")
        catalog = self.catalog(tap, there)
        run = tap(there, catalog=catalog, start_date=start_date)
        assert run.code == 0
        assert 0 < len(run.records) < 300
        assert min(record["updated_at"] for record in run.records) >= "2020-06-01"
        newest = run.state["bookmarks"]["contacts"]["replication_key_value"]
        again = tap(there, catalog=catalog, start_date=start_date, state=run.state)
        assert again.code == 0
        assert {record["updated_at"] for record in again.records} == {newest}

    def test_a_bookmark_that_is_no_date_is_not_used(
        self, sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        there = sandbox("--contacts", "300")
        catalog = self.catalog(tap, there)
        state = tap(there, catalog=catalog).state
        state["bookmarks"]["contacts"]["replication_key_value"] = "yesterday"
        run = tap(there, catalog=catalog, state=state, start_date="2020-06-01")
        assert run.code == 0
        assert 0 < len(run.records) < 300

    def test_other_lists_reset_the_bookmark(
        self, sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        there = sandbox("--contacts", "100")
        catalog = self.catalog(tap, there)
        first = tap(there, catalog=catalog)
        other = tap(there, catalog=catalog, state=first.state, list_ids=[Account(100).lists[0].id])
        assert other.code == 0
        assert len(other.records) == Account(100).count([Account(100).lists[0].id])
        same = tap(there, catalog=catalog, state=first.state)
        assert len(same.records) < len(other.records)


@pytest.mark.parametrize(("variable", "code"), [("API_URL", 0), ("API_KEY", 0)])
def test_the_sandbox_hands_url_and_key_to_a_command(variable: str, code: int) -> None:
    command = f'test -n "$TAP_SENDGRID_CONTACTS_{variable}"'
    done = subprocess.run([*SANDBOX, "run", "--", "sh", "-c", command], check=False)
    assert done.returncode == code


def test_memory_does_not_grow_with_the_contacts(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    peaks = []
    for contacts in (2_000, 60_000):
        there = sandbox("--contacts", str(contacts), "--no-edge-cases", "--pending-polls", "0")
        command = tap.command(there)
        with (tmp_path / "out").open("wb") as out, (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=out, stderr=log, env=os.environ)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss)
    # Thirty times the contacts, some 40 MB of records.
    assert peaks[1] < peaks[0] * 1.15


def test_about_and_version_need_no_network_and_no_config() -> None:
    for arguments in (
        ["--about", "--format=json"],
        ["--about", "--format=markdown"],
        ["--version"],
    ):
        done = subprocess.run(
            [*TAP, *arguments], capture_output=True, check=True, env={"PATH": os.environ["PATH"]}
        )
        assert b"tap-sendgrid-contacts" in done.stdout

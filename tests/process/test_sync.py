"""The whole way over real HTTP: from an export to Singer messages."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from sendgrid_sandbox.account import Account
from tap_sendgrid_contacts.run.state import STATE_INTERVAL
from tests.expected import RESERVED, expected
from tests.harness import (
    Sandbox,
    Tap,
    TapRun,
    both_file_types,
    checkpoint_of,
    contacts_read,
    deselect,
    is_complete,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CUSTOM_FIELDS = 20
# Contacts in a block of the decoder, which may straddle the interval of STATEs.


def records_by_id(run: TapRun) -> dict[str, dict[str, Any]]:
    records = {record["contact_id"]: record for record in run.records}
    assert len(records) == len(run.records)
    return records


def request_body(sandbox: Sandbox) -> dict[str, Any]:
    (line,) = [line for line in sandbox.log if line.startswith("POST")]
    body: dict[str, Any] = json.loads(line[line.index("{") : line.rindex("}") + 1])
    return body


@both_file_types
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--parts", "4", "--gzip-members", "3"),
        ("--compression", "gzip"),
        ("--compression", "plain-gzip"),
        ("--compression", "none", "--bom"),
        ("--number-format", "text", "--date-format", "iso", "--alternate-emails", "comma"),
        ("--date-format", "us", "--fault", "chunked"),
        ("--date-format", "go"),
        # With edge cases, EMAIL would be there twice.
        ("--header-case", "upper", "--no-edge-cases"),
        # Not with edge cases: the year 9999 is no epoch seconds.
        ("--date-format", "epoch", "--no-edge-cases"),
    ],
    ids=" ".join,
)
def test_records(
    start_sandbox: Callable[..., Sandbox], tap: Tap, file_type: str, options: tuple[str, ...]
) -> None:
    sandbox = start_sandbox("--contacts", "700", "--custom-fields", str(CUSTOM_FIELDS), *options)
    run = tap(sandbox, file_type=file_type)
    account = Account(700, CUSTOM_FIELDS, edge_cases="--no-edge-cases" not in options)
    assert records_by_id(run) == expected(account, run.schema)
    assert list(run.records[0])[: len(RESERVED)] == list(RESERVED)


@both_file_types
def test_lists_and_segments(
    start_sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    sandbox = start_sandbox("--contacts", "400")
    account = Account(400)
    lists = [audience.id for audience in account.lists[1:3]]
    segments = [account.segments[0].id]
    run = tap(
        sandbox,
        file_type=file_type,
        list_ids=lists,
        segment_ids=segments,
        max_file_size=10,
        notify_email=True,
        on_behalf_of="subuser",
    )
    assert records_by_id(run) == expected(account, run.schema, lists, segments)
    assert request_body(sandbox) == {
        "file_type": file_type,
        "list_ids": lists,
        "segment_ids": segments,
        "max_file_size": 10,
        "notifications": {"email": True},
    }
    requests = [line for line in sandbox.log if " /v3/" in line]
    assert all("on-behalf-of=subuser" in line for line in requests)
    sandbox.wait_for("GET /exports/")
    assert not [line for line in sandbox.log if "GET /exports/" in line and "subuser" in line]


def test_request_omits_unset_settings(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "3")
    tap(sandbox)
    assert request_body(sandbox) == {"file_type": "json"}


@both_file_types
def test_overlapping_lists(start_sandbox: Callable[..., Sandbox], tap: Tap, file_type: str) -> None:
    sandbox = start_sandbox("--contacts", "100", "--duplicates", "keep")
    lists = [audience.id for audience in Account(100).lists[:2]]
    run = tap(sandbox, file_type=file_type, list_ids=lists)
    assert set(run.contact_ids.values()) == {1, 2}


def test_message_order(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    run = tap(start_sandbox("--contacts", "21000", "--no-edge-cases", "--parts", "2"))
    types = [message["type"] for message in run.messages]
    assert types[0] == "SCHEMA"
    assert types.count("SCHEMA") == 1
    assert types[-1] == "STATE"
    # Before any record: requested, and the export's id. Then every 10,000.
    before = types[: types.index("RECORD")]
    assert before.count("STATE") == 2
    checkpoints = [checkpoint_of(state) or {} for state in run.states]
    assert "export_id" not in checkpoints[0]
    assert checkpoints[1]["export_id"]
    assert checkpoints[-1] == {}
    read = [contacts_read(state) for state in run.states[1:-1]]
    assert read == sorted(read)
    assert max(b - a for a, b in pairwise([*read, 21_000])) <= STATE_INTERVAL
    # A STATE never counts contacts that were not emitted before it.
    assert all(contacts_read(state) == run.ids_before(state).total() for state in run.states[1:-1])
    assert is_complete(run.state, run.schema)


def test_header_in_first_part_only(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "60", "--parts", "2", "--part-headers", "first")
    run = tap(sandbox, file_type="csv", code=1)
    assert "Part 2 of 2" in run.error
    assert "CONTACT_ID" in run.error
    assert tap(sandbox, file_type="json").code == 0


# --- ACTIVATE_VERSION -------------------------------------------------------------------------


@both_file_types
@pytest.mark.parametrize("form", ["header", "file", "none"])
def test_empty_export(
    start_sandbox: Callable[..., Sandbox], tap: Tap, file_type: str, form: str
) -> None:
    sandbox = start_sandbox("--contacts", "100", "--empty-export", form)
    empty: dict[str, Any] = {
        "file_type": file_type,
        "list_ids": [Account(100).lists[-1].id],
        "emit_activate_version_messages": True,
    }
    run = tap(sandbox, **empty)
    assert run.records == []
    assert run.checkpoint is None
    assert run.of_type("ACTIVATE_VERSION") == []
    (warning,) = run.lines("ACTIVATE_VERSION withheld")
    assert "max_shrink_percent" in warning
    allowed = tap(sandbox, **empty, max_shrink_percent=100)
    assert len(allowed.of_type("ACTIVATE_VERSION")) == 1
    assert "withheld" not in allowed.log


@both_file_types
def test_transient_empty_export(
    start_sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    sandbox = start_sandbox("--contacts", "100", "--fault", "empty-once")
    config: dict[str, Any] = {"file_type": file_type, "emit_activate_version_messages": True}
    empty = tap(sandbox, **config)
    assert (empty.code, empty.records) == (0, [])
    assert empty.of_type("ACTIVATE_VERSION") == []
    assert "ACTIVATE_VERSION withheld" in empty.log
    run = tap(sandbox, **config, state=empty.state)
    assert len(run.records) == 100
    assert len(run.of_type("ACTIVATE_VERSION")) == 1


@pytest.mark.parametrize(
    ("fault", "config"),
    [("count-missing", {}), ("count-high", {"allow_count_mismatch": True})],
)
def test_incomplete_export_activates_no_version(
    start_sandbox: Callable[..., Sandbox], tap: Tap, fault: str, config: dict[str, Any]
) -> None:
    sandbox = start_sandbox("--contacts", "50", "--fault", fault)
    # An empty export that is allowed is no proof either.
    run = tap(sandbox, emit_activate_version_messages=True, max_shrink_percent=100, **config)
    assert len(run.records) == 50
    assert run.of_type("ACTIVATE_VERSION") == []
    (warning,) = run.lines("ACTIVATE_VERSION withheld")
    assert "contact_count" in warning


def test_activate_version(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "50", "--parts", "2")
    run = tap(sandbox, emit_activate_version_messages=True)
    types = [message["type"] for message in run.messages]
    assert types.count("ACTIVATE_VERSION") == 1
    assert types.index("ACTIVATE_VERSION") > len(types) - 1 - types[::-1].index("RECORD")
    (activate,) = run.of_type("ACTIVATE_VERSION")
    assert {message["version"] for message in run.of_type("RECORD")} == {activate["version"]}
    without = tap(sandbox)
    assert without.of_type("ACTIVATE_VERSION") == []
    assert not any("version" in message for message in without.of_type("RECORD"))


# --- catalog ----------------------------------------------------------------------------------


def test_deselected_columns(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "30")
    deselected = ("email", "updated_at", "custom_company_name")
    run = tap(sandbox, catalog=deselect(tap.discover(sandbox), *deselected))
    columns = set(run.schema["properties"])
    assert columns.isdisjoint(deselected)
    assert {"contact_id", "first_name"} < columns
    assert all(set(record) == columns for record in run.records)
    # A field that is deselected is not unknown.
    assert "not in catalog" not in run.log


def test_key_cannot_be_deselected(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "5")
    run = tap(sandbox, catalog=deselect(tap.discover(sandbox), "contact_id"))
    assert len(run.contact_ids) == 5


def test_catalog_without_stream(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    run = tap(start_sandbox("--contacts", "10"), catalog={"streams": []})
    assert not run.records
    assert "Stream 'contacts' not found in catalog; nothing to sync" in run.log


def test_unknown_field(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    catalog = tap.discover(start_sandbox("--contacts", "10", "--custom-fields", "2"))
    sandbox = start_sandbox("--contacts", "300", "--custom-fields", "3", "--parts", "2")
    for file_type in ("json", "csv"):
        run = tap(sandbox, catalog=catalog, file_type=file_type)
        assert all(set(record) == set(run.schema["properties"]) for record in run.records)
        (warning,) = run.lines("not in catalog")
        assert "'dob'" in warning


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"stream": "people"}, "renames stream 'contacts'"),
        ({"tap_stream_id": "people", "stream": "people"}, "no stream 'contacts', but 'people'"),
        ({"key_properties": ["email"]}, "two keys: 'email' in key_properties"),
        ({"key_properties": ["email"], "metadata": []}, "key ('email') is not that of stream"),
        ({"schema": None}, "--catalog: Expected `object`, got `null` - at `$.streams[0].schema`"),
    ],
)
def test_invalid_catalog(
    start_sandbox: Callable[..., Sandbox], tap: Tap, change: dict[str, Any], error: str
) -> None:
    sandbox = start_sandbox("--contacts", "5")
    catalog = tap.discover(sandbox)
    catalog["streams"][0] |= change
    run = tap(sandbox, catalog=catalog, code=1)
    assert error in run.error
    assert run.out == b""
    assert sandbox.exports_created == 0


@pytest.mark.parametrize("key", ["value", "singer_state"])
def test_state_that_is_ignored_is_a_warning(
    start_sandbox: Callable[..., Sandbox], tap: Tap, key: str
) -> None:
    sandbox = start_sandbox("--contacts", "5")
    run = tap(sandbox, state={"type": "STATE", key: tap(sandbox).state})
    assert len(run.records) == 5
    (warning,) = run.lines("WARNING")
    assert "Ignoring --state, which has no bookmarks" in warning
    assert key in warning


class TestForbiddenFieldDefinitions:
    """Without the permission custom columns would silently go stale."""

    @pytest.mark.parametrize("arguments", [(), ("--discover",), ("--test",)], ids=str)
    def test_error(
        self, start_sandbox: Callable[..., Sandbox], tap: Tap, arguments: tuple[str, ...]
    ) -> None:
        sandbox = start_sandbox("--contacts", "10", "--fault", "forbidden-fields")
        run = tap(sandbox, *arguments, code=1)
        assert "/v3/marketing/field_definitions: HTTP 403" in run.error
        assert "marketing.read" in run.error
        assert run.out == b""
        assert sandbox.exports_created == 0

    def test_catalog_supplies_columns(
        self, start_sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        catalog = tap.discover(start_sandbox("--contacts", "10"))
        sandbox = start_sandbox("--contacts", "10", "--fault", "forbidden-fields")
        run = tap(sandbox, catalog=catalog)
        assert records_by_id(run) == expected(Account(10), run.schema)
        assert any(name.startswith("custom_") for name in run.schema["properties"])
        (warning,) = run.lines("WARNING")
        assert "HTTP 403" in warning
        assert "marketing.read" in warning

    def test_catalog_of_another_stream(
        self, start_sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        sandbox = start_sandbox("--contacts", "10", "--fault", "forbidden-fields")
        run = tap(sandbox, catalog={"streams": []}, code=1)
        assert "HTTP 403" in run.error


# --- stream maps ------------------------------------------------------------------------------


@both_file_types
def test_fast_and_slow_path_emit_same_bytes(
    start_sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    sandbox = start_sandbox("--contacts", "500", "--custom-fields", str(CUSTOM_FIELDS))
    config: dict[str, Any] = {"file_type": file_type, "emit_activate_version_messages": True}
    fast = tap(sandbox, **config)
    # A map that changes nothing: the records go through the SDK all the same.
    slow = tap(sandbox, **config, stream_maps={"contacts": {"email": "email"}})

    def record_lines(out: bytes) -> list[bytes]:
        records = (line for line in out.splitlines() if line.startswith(b'{"type":"RECORD"'))
        return [record.rpartition(b',"version":')[0] for record in records]

    assert record_lines(fast.out) == record_lines(slow.out)
    assert len(record_lines(fast.out)) == 500
    # The fast path writes one time for a block, the SDK one for each record.
    times = [len({m["time_extracted"] for m in run.of_type("RECORD")}) for run in (fast, slow)]
    assert times[0] < 10 < times[1]


def test_stream_maps(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    maps = {
        "contacts": {
            "contact_id": "md5(contact_id)",
            "year": "updated_at[:4]",
            "facebook": "__NULL__",
        }
    }
    run = tap(start_sandbox("--contacts", "40", "--no-edge-cases"), stream_maps=maps)
    assert all(len(record["contact_id"]) == 32 for record in run.records)
    assert all(record["year"] == record["updated_at"][:4] for record in run.records)
    assert all("facebook" not in record for record in run.records)


def test_stream_map_filter(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "400", "--no-edge-cases")
    countries = Counter(record["country"] for record in tap(sandbox).records)
    maps = {"contacts": {"__filter__": "country == 'Denmark'"}}
    run = tap(sandbox, stream_maps=maps)
    assert 0 < len(run.records) == countries["Denmark"] < 400
    # The summary tells what was read from what was emitted.
    assert f"400 contacts in 1 part(s), {len(run.records)} emitted by this run" in run.log


def test_flattening(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "40", "--no-edge-cases")
    run = tap(sandbox, flattening_enabled=True, flattening_max_depth=1)
    assert len(run.records) == 40


# --- on_invalid_value -------------------------------------------------------------------------


@both_file_types
@pytest.mark.parametrize(
    ("faults", "types"),
    [
        (("bad-number",), ("number",)),
        (("bad-date",), ("date",)),
        (("bad-number", "bad-date"), ("number", "date")),
    ],
    ids=str,
)
def test_on_invalid_value_null(
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    file_type: str,
    faults: tuple[str, ...],
    types: tuple[str, ...],
) -> None:
    options = [option for fault in faults for option in ("--fault", fault)]
    size = ("--contacts", "300", "--custom-fields", str(CUSTOM_FIELDS), "--no-edge-cases")
    sandbox = start_sandbox(*size, *options)
    run = tap(sandbox, file_type=file_type, on_invalid_value="null")
    wanted = expected(Account(300, CUSTOM_FIELDS, edge_cases=False), run.schema)
    warnings = run.lines("emitting null for such values")
    assert len(warnings) == len(types)
    for value_type in types:
        match = re.search(rf"line (\d+), column (\w+): invalid {value_type} value", run.log)
        assert match
        line, column = int(match[1]), match[2]
        # A CSV has a header, and its rows have one line each without edge cases.
        record = run.records[line - 1 - (file_type == "csv")]
        assert record[column] is None
        wanted[record["contact_id"]][column] = None
        (total,) = run.lines(f"Column {column}: ")
        assert f"1 invalid {value_type} value(s) emitted as null" in total
    assert records_by_id(run) == wanted
    assert "twelve" not in run.log
    assert "some day" not in run.log

"""Settings: each is validated before any request, in one line that shows no value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sendgrid_sandbox.account import Account
from tests.harness import run_in_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import Sandbox, Tap

# Nothing listens there: a request would end in another error.
UNREACHABLE: dict[str, Any] = {"api_key": "SG.very-secret", "api_url": "http://127.0.0.1:9"}

# One of each kind; tests/unit/test_config.py has all of them.
INVALID: list[tuple[str, dict[str, Any]]] = [
    ("api_key is missing", {"api_key": None}),
    ("api_key", {"api_key": "SG.very-secret\r\nX-Evil: 1"}),
    ("list_ids[1]", {"list_ids": ["00000000-0000-0000-0000-000000000000", "SG.very-secret"]}),
    ("max_file_size", {"max_file_size": 1.5}),
    ("api_url", {"api_url": "https://someone:very-secret@api.sendgrid.com"}),
    # What it should hide would be emitted as it is.
    ("stream_maps", {"stream_maps": {"contact": {"email": "__NULL__"}}}),
]


@pytest.mark.parametrize(
    ("setting", "config"), INVALID, ids=[json.dumps(config) for _, config in INVALID]
)
def test_invalid(tap: Tap, setting: str, config: dict[str, Any]) -> None:
    run = tap(None, **{**UNREACHABLE, **config}, code=1)
    assert setting in run.error
    assert "127.0.0.1:9" not in run.error
    assert "very-secret" not in run.log
    assert run.out == b""


@pytest.mark.parametrize("argument", ["--discover", "--test"])
def test_invalid_without_sync(tap: Tap, argument: str) -> None:
    run = tap(None, argument, **{**UNREACHABLE, "file_type": "xml"}, code=1)
    assert "file_type" in run.error


def test_all_from_environment(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    # As a process: its environment is the point.
    sandbox = start_sandbox("--contacts", "200")
    list_id = Account(200).lists[0].id
    env = {
        "LIST_IDS": json.dumps([list_id]),
        "SEGMENT_IDS": "[]",
        "FILE_TYPE": "csv",
        "MAX_FILE_SIZE": "7",
        "NOTIFY_EMAIL": "true",
        "ON_BEHALF_OF": "",
        "POLL_INTERVAL": "1",
        "POLL_TIMEOUT": "60",
        "REQUEST_TIMEOUT": "20",
        "ALLOW_COUNT_MISMATCH": "False",
        "MAX_SHRINK_PERCENT": "20",
        "ON_INVALID_VALUE": "null",
        "EMIT_ACTIVATE_VERSION_MESSAGES": "1",
        "START_DATE": "2020-01-01T00:00:00Z",
    }
    run = tap.run_process(
        None,
        "--config=ENV",
        env={
            **sandbox.env,
            **{f"TAP_SENDGRID_CONTACTS_{key}": value for key, value in env.items()},
        },
    )
    assert len(run.records) == Account(200).count([list_id])
    assert len(run.of_type("ACTIVATE_VERSION")) == 1
    (post,) = [line for line in sandbox.log if line.startswith("POST")]
    assert '"max_file_size": 7' in post
    assert '"notifications": {"email": true}' in post
    assert '"file_type": "csv"' in post
    assert "Unknown setting" not in run.log


def test_unknown_setting(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "1")
    env = {"TAP_SENDGRID_CONTACTS_END_DATE": "x", "TAP_SENDGRID_CONTACTS__LOAD_SCHEMA": "y"}
    run = tap(sandbox, "--config=ENV", env=env, user_agent="x")
    assert "Unknown setting 'user_agent' ignored" in run.log
    assert "Unknown setting 'end_date' ignored" in run.log
    assert "load_schema" not in run.log


def test_misnamed_setting(tap: Tap) -> None:
    run = tap(None, list_id=["x"], **UNREACHABLE, code=1)
    assert "'list_id' is not a setting; use list_ids" in run.error
    env = {"TAP_SENDGRID_CONTACTS_SEGMENT_ID": "x"}
    run = tap(None, "--config=ENV", env=env, **UNREACHABLE, code=1)
    assert "'segment_id' is not a setting; use segment_ids" in run.error


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--config", "--catalog", "--state"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("[" * 900 + "]" * 900, "nested too deeply"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("1e400", "number out of range"),
        ("NaN", "number out of range"),
    ],
)
def test_file_that_no_run_would_survive(
    tap: Tap, tmp_path: Path, option: str, value: str, error: str
) -> None:
    path = tmp_path / "file.json"
    path.write_text(f'{{"bookmarks": {{"contacts": {{"x": {value}}}}}, "streams": []}}')
    run = tap(None, option, str(path), **UNREACHABLE, code=1)
    assert f"{option} {path}: " in run.error
    assert error in run.error


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"bookmarks": 5}, "$.bookmarks"),
        ({"bookmarks": {"contacts": "very-secret"}}, "$.bookmarks[...]"),
        ({"bookmarks": {"contacts": {"partitions": 5}}}, "$.bookmarks[...].partitions"),
        ({"bookmarks": {"contacts": {"partitions": None}}}, "$.bookmarks[...].partitions"),
        ({"bookmarks": {"x": {"progress_markers": 5}}}, "$.bookmarks[...].progress_markers"),
        ({"bookmarks": {"contacts": {"partitions": [5]}}}, "$.bookmarks[...].partitions[0]"),
    ],
)
def test_state_of_the_wrong_shape(tap: Tap, tmp_path: Path, content: object, place: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps(content))
    run = tap(None, "--state", str(path), **UNREACHABLE, code=1)
    assert "--state: Expected" in run.error
    assert f"- at `{place}`" in run.error
    assert "very-secret" not in run.log


def test_empty_state_file(start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text("\n")
    run = tap(start_sandbox("--contacts", "3"), "--state", str(path))
    assert len(run.records) == 3


def test_files_are_utf8_in_any_locale(
    start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    # As a process: the locale is that of the interpreter.
    sandbox = start_sandbox("--contacts", "3")
    catalog = tap.discover(sandbox)
    column = {"type": ["string", "null"], "title": "Größe"}
    catalog["streams"][0]["schema"]["properties"]["first_name"] = column
    options = []
    for option, content in {
        "--catalog": catalog,
        "--state": {"bookmarks": {"ä": {}}},
        "--config": {"stream_maps": {"contacts": {"email": "'ä'"}}},
    }.items():
        path = tmp_path / f"{option}.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
        options += [option, str(path)]
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = tap.run_process(sandbox, *options, env=env)
    assert run.schema["properties"]["first_name"]["title"] == "Größe"
    assert [record["email"] for record in run.records] == ["ä"] * 3


def test_later_file_overrides_and_environment_overrides_files(tap: Tap, tmp_path: Path) -> None:
    options = ["--config=ENV"]
    for i, content in enumerate(({"file_type": "a", "poll_interval": 0}, {"file_type": "json"})):
        path = tmp_path / f"{i}.json"
        path.write_text(json.dumps(content))
        options += ["--config", str(path)]
    env = {"TAP_SENDGRID_CONTACTS_POLL_TIMEOUT": "0"}
    run = tap(None, *options, env=env, **UNREACHABLE, poll_timeout=1, code=1)
    assert "poll_interval must be at least 1; poll_timeout must be at least 1" in run.error
    assert "file_type" not in run.error


# --- the account ------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--discover",), ("--test",)], ids=str)
def test_rejected_key(
    start_sandbox: Callable[..., Sandbox], tap: Tap, arguments: tuple[str, ...]
) -> None:
    run = tap(start_sandbox(), *arguments, api_key="SG.very-secret", code=1)
    assert "HTTP 401" in run.error
    assert "api_key" in run.error
    assert "very-secret" not in run.log


@pytest.mark.parametrize("arguments", [(), ("--discover",), ("--test",)], ids=str)
def test_missing_permission(
    start_sandbox: Callable[..., Sandbox], tap: Tap, arguments: tuple[str, ...]
) -> None:
    run = tap(start_sandbox("--fault", "forbidden"), *arguments, code=1)
    assert "HTTP 403" in run.error
    assert "marketing.read" in run.error


class TestTest:
    """`--test`."""

    def test_creates_no_export(self, start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
        sandbox = start_sandbox("--contacts", "10")
        account = Account(10)
        run = tap(
            sandbox,
            "--test",
            list_ids=[account.lists[0].id.upper()],
            segment_ids=[account.segments[0].id],
        )
        assert run.records == []
        assert f"{account.lists[0].name}, {account.segments[0].name} (json)" in run.log
        assert sandbox.exports_created == 0

    def test_shows_the_account(self, start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
        sandbox = start_sandbox("--contacts", "1200")
        account = Account(1200)
        run = tap(sandbox, "--test")
        report = run.log[run.log.index("Contacts:") :].splitlines()
        size = account.count([account.lists[0].id])
        assert report[:3] == [
            "Contacts: 1,200",
            f"Lists: {len(account.lists)}",
            f"  {account.lists[0].id} {account.lists[0].name} ({size} contacts)",
        ]
        assert "  Num_Orders: column custom_num_orders, number" in report
        assert "A run would export: all contacts (json)" in report
        # Readable: nothing in between.
        assert not any("METRIC" in line or "INFO" in line for line in report)

    def test_empty_account(self, start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
        options = ("--contacts", "0", "--custom-fields", "0", "--no-audiences")
        run = tap(start_sandbox(*options, "--null-collections"), "--test")
        assert "Lists: 0\nSegments: 0\nCustom fields: 0\n" in run.log

    @pytest.mark.parametrize(
        "settings", [("list_ids",), ("segment_ids",), ("list_ids", "segment_ids")]
    )
    def test_unknown_ids(
        self, start_sandbox: Callable[..., Sandbox], tap: Tap, settings: tuple[str, ...]
    ) -> None:
        sandbox = start_sandbox("--contacts", "10")
        account = Account(10)
        audiences = {"list_ids": account.lists, "segment_ids": account.segments}
        unknown = {
            setting: f"00000000-0000-0000-0000-00000000dea{number}"
            for number, setting in enumerate(settings)
        }
        config: dict[str, Any] = {setting: [unknown[setting]] for setting in settings}
        run = tap(sandbox, "--test", **config, code=1)
        # All of them in the one line.
        for setting in settings:
            assert f"{setting}[0] {unknown[setting]} not found; closest: " in run.error
        for setting in settings:
            for audience in audiences[setting]:
                assert f"{audience.id} {audience.name} (" in run.log
        assert sandbox.exports_created == 0

    def test_suggests_the_closest_name(
        self, start_sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        segment = Account(10).segments[1]
        run = tap(start_sandbox("--contacts", "10"), "--test", segment_ids=["Has a fone"], code=1)
        assert f"Has a fone not found; closest: {segment.id} {segment.name} (" in run.error

    def test_shows_the_account_before_it_complains_of_a_name(
        self, start_sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        sandbox = start_sandbox("--contacts", "10")
        customers = Account(10).lists[0]
        run = tap(sandbox, "--test", list_ids=[customers.name], code=1)
        lines = run.log.splitlines()
        shown = next(i for i, line in enumerate(lines) if line.startswith(f"  {customers.id} "))
        assert lines.index(run.error) > shown
        assert f"list_ids[0] {customers.name} not found; closest: {customers.id}" in run.error
        # A run says how to find the id.
        run = tap(sandbox, list_ids=[customers.name], code=1)
        assert "list_ids[0] is not a UUID. Run --test to list available ids" in run.error
        assert sandbox.exports_created == 0

    @pytest.mark.parametrize("arguments", [(), ("--test",)], ids=str)
    def test_mistake_in_a_stream_map(
        self, start_sandbox: Callable[..., Sandbox], tap: Tap, arguments: tuple[str, ...]
    ) -> None:
        sandbox = start_sandbox("--contacts", "10")
        stream_maps = {"contacts": {"email": "md5(emial) if email else None"}}
        run = tap(sandbox, *arguments, stream_maps=stream_maps, code=1)
        assert "stream_maps.contacts.email: unknown name 'emial'; did you mean" in run.error
        assert sandbox.exports_created == 0

    def test_schema_and_records_are_those_of_the_sdk(
        self, start_sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        sandbox = start_sandbox("--contacts", "10")
        run = tap(sandbox, "--test=schema")
        assert [message["type"] for message in run.messages] == ["SCHEMA"]
        assert sandbox.exports_created == 0
        run = tap(sandbox, "--test=records")
        assert len(run.records) == 1

    @pytest.mark.parametrize("value", ["foo", "", "ALL "])
    def test_other_values_are_usage_errors(self, tap: Tap, value: str) -> None:
        run = tap(None, f"--test={value}", **UNREACHABLE, code=2)
        assert "Invalid value for '--test'" in run.log
        assert run.out == b""

    def test_help_says_that_it_starts_no_export(self) -> None:
        run = run_in_process(["--help"], {}, parse=False)
        assert run.code == 0
        text = " ".join(run.out.decode().split())
        assert (
            "--test [all|schema|records] Show the account and check the settings; starts no" in text
        )


# --- what is ignored --------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [None, "__NULL__"])
def test_stream_map_that_removes_the_stream(
    start_sandbox: Callable[..., Sandbox], tap: Tap, rules: str | None
) -> None:
    sandbox = start_sandbox("--contacts", "10")
    run = tap(sandbox, stream_maps={"contacts": rules})
    assert run.records == []
    assert len(run.lines("stream_maps removes stream 'contacts'; nothing to sync")) == 1
    assert sandbox.exports_created == 0


def test_start_date_without_incremental(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "10")
    run = tap(sandbox, start_date="2024-01-31")
    assert len(run.lines("Ignoring start_date: the replication method is not INCREMENTAL")) == 1
    catalog = tap.discover(sandbox)
    catalog["streams"][0]["replication_method"] = "INCREMENTAL"
    run = tap(sandbox, start_date="2024-01-31", catalog=catalog)
    assert "start_date" not in run.log

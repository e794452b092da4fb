"""Settings: each checked before any request, in one line that shows no value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts.sandbox.account import Account

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Sandbox, Tap

# Nobody listens there: whatever gets past the settings runs into retries and the test's timeout.
NOWHERE: dict[str, Any] = {"api_key": "SG.very-secret", "api_url": "http://127.0.0.1:9"}

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("api_key", {"api_key": None}),
    ("api_key", {"api_key": ""}),
    ("api_key", {"api_key": " \n"}),
    ("api_key", {"api_key": "SG.very-secret…"}),
    ("api_key", {"api_key": "SG.very-secret\r\nX-Evil: 1"}),
    ("api_key", {"api_key": 5}),
    ("list_ids", {"list_ids": ["SG.very-secret"]}),
    ("list_ids", {"list_ids": "00000000-0000-0000-0000-000000000000"}),
    ("list_ids", {"list_ids": [5]}),
    ("segment_ids", {"segment_ids": [""]}),
    ("segment_ids", {"segment_ids": {}}),
    ("file_type", {"file_type": "xml"}),
    ("file_type", {"file_type": "JSON"}),
    ("max_file_size", {"max_file_size": 0}),
    ("max_file_size", {"max_file_size": "10"}),
    ("max_file_size", {"max_file_size": 1.5}),
    ("notify_email", {"notify_email": "yes"}),
    ("api_url", {"api_url": "http://api.sendgrid.com"}),
    ("api_url", {"api_url": "http://127.0.0.1.example.com"}),
    ("api_url", {"api_url": "ftp://127.0.0.1"}),
    ("api_url", {"api_url": "https://"}),
    ("api_url", {"api_url": ""}),
    ("on_behalf_of", {"on_behalf_of": "a\nb"}),
    ("poll_interval", {"poll_interval": 0}),
    ("poll_timeout", {"poll_timeout": -1}),
    ("request_timeout", {"request_timeout": True}),
    ("allow_count_mismatch", {"allow_count_mismatch": 1}),
    ("start_date", {"start_date": "yesterday"}),
    ("emit_activate_version_messages", {"emit_activate_version_messages": "true"}),
    ("flattening_max_depth", {"flattening_enabled": True}),
    ("api_url", {"api_url": "https://someone:very-secret@api.sendgrid.com"}),
    # What it was to hide would be sent as it is.
    ("stream_maps", {"stream_maps": {"contact": {"email": "__NULL__"}}}),
    ("stream_maps", {"stream_maps": {"hashed": {"__source__": "contact"}}}),
]


@pytest.mark.parametrize(
    ("setting", "config"), WRONG, ids=[json.dumps(config) for _, config in WRONG]
)
def test_a_wrong_setting_is_named_in_one_line(
    tap: Tap, setting: str, config: dict[str, Any]
) -> None:
    run = tap(None, **{**NOWHERE, **config}, timeout=20)
    assert run.code == 1
    assert f"`{setting}`" in run.error
    assert "very-secret" not in run.log
    assert run.out == b""


@pytest.mark.parametrize("arguments", [("--discover",), ("--test",)])
def test_discovery_and_the_test_check_settings_too(tap: Tap, arguments: tuple[str, ...]) -> None:
    run = tap(None, *arguments, **{**NOWHERE, "file_type": "xml"}, timeout=20)
    assert run.code == 1
    assert "`file_type`" in run.error


@pytest.mark.parametrize(
    ("variable", "value", "setting"),
    [
        ("API_KEY", "", "api_key"),
        ("MAX_FILE_SIZE", "large", "max_file_size"),
        ("MAX_FILE_SIZE", "0", "max_file_size"),
        ("POLL_INTERVAL", "2.5", "poll_interval"),
        ("NOTIFY_EMAIL", "perhaps", "notify_email"),
        ("LIST_IDS", '["no-uuid"]', "list_ids"),
        ("FILE_TYPE", "xml", "file_type"),
        ("STREAM_MAPS", "{", "stream_maps"),
    ],
)
def test_a_wrong_setting_from_the_environment_is_named(
    tap: Tap, variable: str, value: str, setting: str
) -> None:
    env = {"TAP_SENDGRID_CONTACTS_API_KEY": "SG.very-secret"}
    env |= {f"TAP_SENDGRID_CONTACTS_{variable}": value}
    run = tap(None, "--config=ENV", env=env, timeout=20)
    assert run.code == 1
    assert f"`{setting}`" in run.error
    assert "very-secret" not in run.log


def test_all_settings_come_from_the_environment_too(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "200")
    list_id = Account(200).lists[0].id
    env = {
        "API_URL": there.url,
        "API_KEY": there.api_key,
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
        "EMIT_ACTIVATE_VERSION_MESSAGES": "1",
        "START_DATE": "2020-01-01T00:00:00Z",
    }
    run = tap(
        None,
        "--config=ENV",
        env={f"TAP_SENDGRID_CONTACTS_{key}": value for key, value in env.items()},
    )
    assert run.code == 0, run.log
    assert len(run.records) == Account(200).count([list_id])
    assert len(run.of("ACTIVATE_VERSION")) == 1
    (post,) = [line for line in there.log if line.startswith("POST")]
    assert '"max_file_size": 7' in post
    assert '"notifications": {"email": true}' in post
    assert '"file_type": "csv"' in post


def test_an_undeclared_setting_is_a_warning_with_the_nearest_name(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    run = tap(sandbox("--contacts", "1"), list_id=["x"], _orchestrator=1)
    assert run.code == 0
    assert "`list_id`" in run.log
    assert "`list_ids`" in run.log
    env = {"TAP_SENDGRID_CONTACTS_SEGMENT_ID": "x", "TAP_SENDGRID_CONTACTS__LOAD_SCHEMA": "y"}
    run = tap(sandbox("--contacts", "1"), "--config=ENV", env=env)
    assert run.code == 0
    assert "`segment_id`" in run.log
    assert "load_schema" not in run.log


def test_unset_settings_may_be_null(sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    run = tap(sandbox("--contacts", "1"), list_ids=None, max_file_size=None, on_behalf_of="")
    assert run.code == 0, run.log


@pytest.mark.parametrize("content", ["", "not json", "[]", '"SG.very-secret"'])
@pytest.mark.parametrize("option", ["--config", "--catalog", "--state"])
def test_a_file_that_is_no_json_object_is_named(
    tap: Tap, tmp_path: Path, option: str, content: str
) -> None:
    if option == "--state" and not content:
        pytest.skip("an empty state is a first run's")
    path = tmp_path / "file.json"
    path.write_text(content)
    run = tap(None, option, str(path), **NOWHERE, timeout=20)
    assert run.code == 1
    assert option in run.error
    assert "very-secret" not in run.log


def test_a_missing_config_file_is_named(tap: Tap) -> None:
    run = tap(None, "--config", "nowhere.json", **NOWHERE, timeout=20)
    assert run.code == 1
    assert "nowhere.json" in run.error


class TestRights:
    """What `--test`, discovery and a run say of a key that does not fit."""

    @pytest.mark.parametrize("arguments", [(), ("--discover",), ("--test",)])
    def test_a_refused_key(
        self, sandbox: Callable[..., Sandbox], tap: Tap, arguments: tuple[str, ...]
    ) -> None:
        there = sandbox("--api-key", "SG.another")
        there.api_key = "SG.very-secret"
        run = tap(there, *arguments)
        assert run.code == 1
        assert "401" in run.error
        assert "`api_key`" in run.error
        assert "very-secret" not in run.log

    def test_a_missing_right(self, sandbox: Callable[..., Sandbox], tap: Tap) -> None:
        run = tap(sandbox("--fault", "forbidden"))
        assert run.code == 1
        assert "403" in run.error
        assert "Marketing" in run.error

    def test_the_test_starts_no_export(self, sandbox: Callable[..., Sandbox], tap: Tap) -> None:
        there = sandbox("--contacts", "10")
        account = Account(10)
        run = tap(
            there,
            "--test",
            list_ids=[account.lists[0].id.upper()],
            segment_ids=[account.segments[0].id],
        )
        assert run.code == 0, run.log
        assert run.records == []
        assert there.exports_asked_for == 0

    @pytest.mark.parametrize("setting", ["list_ids", "segment_ids"])
    def test_an_unknown_list_is_answered_with_those_there_are(
        self, sandbox: Callable[..., Sandbox], tap: Tap, setting: str
    ) -> None:
        there = sandbox("--contacts", "10")
        unknown = "00000000-0000-0000-0000-00000000dead"
        config: dict[str, Any] = {setting: [unknown]}
        run = tap(there, "--test", **config)
        assert run.code == 1
        assert unknown in run.error
        account = Account(10)
        for group in account.lists if setting == "list_ids" else account.segments:
            assert f"{group.id} ({group.name})" in run.error

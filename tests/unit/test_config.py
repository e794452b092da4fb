"""Settings: normalized, validated before any request, never quoted."""

from __future__ import annotations

import copy
import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts.config import (
    check_names,
    find_invalid_ids,
    from_environment,
    normalize,
    validate,
)
from tap_sendgrid_contacts.tap import TapSendGridContacts

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "TAP_SENDGRID_CONTACTS_"
VALID: dict[str, Any] = {"api_key": "SG.very-secret"}
LIST_ID = "00000000-0000-0000-0000-00000000000a"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    schema = copy.deepcopy(TapSendGridContacts.config_jsonschema)
    TapSendGridContacts.append_builtin_config(schema)
    return schema


def errors_of(schema: dict[str, Any], **config: Any) -> list[str]:
    return validate(normalize({**VALID, **config}), schema)


# --- validate -------------------------------------------------------------------------------

BATCH_ENCODING = {"format": "jsonl", "compression": "gzip"}
BATCH_STORAGE = {"root": "file:///secret"}

INVALID: list[tuple[str, dict[str, Any]]] = [
    ("api_key", {"api_key": None}),
    ("api_key", {"api_key": ""}),
    ("api_key", {"api_key": " \n"}),
    ("api_key", {"api_key": "SG.very-secret…"}),
    ("api_key", {"api_key": "SG.very-secret\r\nX-Evil: 1"}),
    ("api_key", {"api_key": "SG. very-secret"}),
    ("api_key", {"api_key": 5}),
    ("api_url", {"api_url": "https://api.sendgrid.com/?key=very-secret"}),
    ("extra 'faker'", {"stream_maps": {"contacts": {"email": "fake.email()"}}}),
    ("list_ids[0]", {"list_ids": [" "]}),
    ("list_ids", {"list_ids": LIST_ID}),
    ("list_ids[0]", {"list_ids": [5]}),
    ("segment_ids[0]", {"segment_ids": [""]}),
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
    ("api_url", {"api_url": "https://someone:very-secret@api.sendgrid.com"}),
    ("api_url", {"api_url": "https://api.sendgrid.com?key=very-secret"}),
    ("api_url", {"api_url": "https://api.sendgrid.com/#very-secret"}),
    ("api_url", {"api_url": "https://api.sendgrid.com/very secret"}),
    ("api_url", {"api_url": 5}),
    ("on_behalf_of", {"on_behalf_of": "a\nb"}),
    ("on_behalf_of", {"on_behalf_of": "a b"}),
    ("poll_interval", {"poll_interval": 0}),
    ("poll_timeout", {"poll_timeout": -1}),
    ("request_timeout", {"request_timeout": True}),
    ("allow_count_mismatch", {"allow_count_mismatch": 1}),
    ("max_shrink_percent", {"max_shrink_percent": 101}),
    ("max_shrink_percent", {"max_shrink_percent": -1}),
    ("hash_columns", {"hash_columns": ["email"]}),
    ("hash_columns", {"hash_columns": ["email"], "hash_key": " \n"}),
    ("hash_columns[0]", {"hash_columns": [" "], "hash_key": "very-secret"}),
    ("hash_columns", {"hash_columns": ["contact_id"], "hash_key": "very-secret"}),
    ("hash_key", {"hash_key": 5}),
    ("on_invalid_value", {"on_invalid_value": "ignore"}),
    ("start_date", {"start_date": "yesterday"}),
    ("start_date", {"start_date": "0001-01-01T00:00:00+05:00"}),
    ("start_date", {"start_date": 5}),
    ("emit_activate_version_messages", {"emit_activate_version_messages": "true"}),
    ("flattening_max_depth", {"flattening_enabled": True}),
    # singer-sdk 0.55 would emit records, or write to the temporary directory.
    ("batch_config.encoding", {"batch_config": {"storage": BATCH_STORAGE}}),
    ("batch_config.encoding", {"batch_config": {"encoding": None, "storage": BATCH_STORAGE}}),
    ("batch_config.encoding.format", {"batch_config": {"encoding": {}, "storage": BATCH_STORAGE}}),
    ("batch_config.storage", {"batch_config": {"encoding": BATCH_ENCODING, "storage": "secret"}}),
    (
        "batch_config.storage.params",
        {"batch_config": {"encoding": BATCH_ENCODING, "storage": {"params": "secret"}}},
    ),
    (
        "batch_config.batch_size",
        {"batch_config": {"encoding": BATCH_ENCODING, "batch_size": 10**9}},
    ),
    ("batch_config.batch_size", {"batch_config": {"encoding": BATCH_ENCODING, "batch_size": 0}}),
    ("batch_config.encoding", {"batch_config": {"batch_size": 5}}),
    ("batch_config.encoding.format", {"batch_config": {"encoding": {"format": "avro"}}}),
    ("batch_config", {"batch_config": {"encoding": BATCH_ENCODING, "secret": 5}}),
    ("batch_config.encoding", {"batch_config": {"encoding": BATCH_ENCODING | {"secret": 5}}}),
    (
        "batch_config.storage",
        {"batch_config": {"encoding": BATCH_ENCODING, "storage": {"secret": 5}}},
    ),
    # What it was to hide would be emitted as it is.
    ("stream_maps", {"stream_maps": {"contact": {"email": "__NULL__"}}}),
    ("stream_maps", {"stream_maps": {"hashed": {"__source__": "contact"}}}),
    ("stream_maps", {"stream_maps": []}),
    ("stream_map_config", {"stream_map_config": {"secret": ["\ud800"]}}),
]


@pytest.mark.parametrize(
    ("setting", "config"), INVALID, ids=[json.dumps(config) for _, config in INVALID]
)
def test_invalid_setting_is_named_without_its_value(
    schema: dict[str, Any], setting: str, config: dict[str, Any]
) -> None:
    (error,) = errors_of(schema, **config)
    assert re.search(rf"(^|\s){re.escape(setting)}(\s|$)", error)
    assert "secret" not in error
    assert "\n" not in error


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"api_key": " SG.key\n"},
        {"list_ids": [LIST_ID, LIST_ID.upper()], "segment_ids": ["any text"]},
        {"list_ids": None, "max_file_size": None, "on_behalf_of": "", "start_date": None},
        {"api_url": "https://api.eu.sendgrid.com/ "},
        {"api_url": "http://127.0.0.1:8000"},
        {"file_type": "csv", "max_file_size": 1, "notify_email": True},
        {"on_invalid_value": "null", "max_shrink_percent": 100},
        {"hash_columns": ["email"], "hash_key": "secret\n"},
        {"batch_config": {"encoding": BATCH_ENCODING}},
        {"start_date": "2024-01-31"},
        {"start_date": "2024-01-31T00:00:00Z"},
        {"flattening_enabled": True, "flattening_max_depth": 1},
        {"flattening_enabled": False},
        {"stream_maps": {"contacts": {"email": "__NULL__"}}},
        {"stream_maps": {"contacts": None, "__else__": None}},
        {"stream_maps": {"hashed": {"__source__": "contacts"}}},
        {"stream_maps": {"*": {"email": "__NULL__"}, "cont*": {}}},
    ],
    ids=json.dumps,
)
def test_valid_settings(schema: dict[str, Any], config: dict[str, Any]) -> None:
    assert errors_of(schema, **config) == []


def test_all_errors_of_the_schema_are_returned(schema: dict[str, Any]) -> None:
    errors = errors_of(schema, file_type="xml", poll_interval=0, list_ids=["", 1])
    assert sorted(error.split()[0] for error in errors) == [
        "file_type",
        "list_ids[0]",
        "list_ids[1]",
        "poll_interval",
    ]


def test_missing_api_key_says_what_to_set(schema: dict[str, Any]) -> None:
    assert validate({}, schema) == ["api_key is missing: set it to a SendGrid API key"]


def test_choices_and_limits_are_in_the_message(schema: dict[str, Any]) -> None:
    assert errors_of(schema, file_type="xml") == ["file_type must be one of json, csv"]
    assert errors_of(schema, poll_interval=0) == ["poll_interval must be at least 1"]
    assert errors_of(schema, request_timeout=10**10) == ["request_timeout must be at most 86400"]
    assert errors_of(schema, poll_interval="2") == ["poll_interval must be of type integer"]


def test_missing_key_of_an_object_is_named_with_its_path() -> None:
    schema = {"properties": {"a": {"items": {"type": "object", "required": ["b", "c"]}}}}
    assert validate({"a": [{"b": 1, "c": 1}, {"b": 1}]}, schema) == ["a[1].c is missing"]


def test_every_number_has_limits(schema: dict[str, Any]) -> None:
    batch_size = schema["properties"]["batch_config"]["properties"]["batch_size"]
    numbers = [
        definition
        for key, definition in schema["properties"].items()
        # The SDK's own have none.
        if "integer" in definition["type"] and not key.startswith("flattening_")
    ]
    assert all({"minimum", "maximum"} <= number.keys() for number in [*numbers, batch_size])


def test_defaults_are_added(schema: dict[str, Any]) -> None:
    config = normalize(VALID)
    assert validate(config, schema) == []
    declared = {
        key: definition["default"]
        for key, definition in TapSendGridContacts.config_jsonschema["properties"].items()
        if "default" in definition
    }
    assert {key: config[key] for key in declared} == declared
    assert config["poll_timeout"] == 3600
    assert "start_date" not in config
    assert "max_file_size" not in config


# --- normalize ------------------------------------------------------------------------------

ROOT_AND_PREFIX = {"root": "", "prefix": "a"}


@pytest.mark.parametrize(
    "url",
    [
        "https://API.SendGrid.com",
        "HTTPS://api.sendgrid.com/",
        "https://api.sendgrid.com//",
        "https://api.sendgrid.com:443",
        "https://api.sendgrid.com:/v3",
        " https://api.sendgrid.com/v3/\n",
        "https://api.sendgrid.com/V3",
    ],
)
def test_forms_of_the_same_url_are_one(url: str) -> None:
    assert normalize({"api_url": url}) == {"api_url": "https://api.sendgrid.com"}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "http://[::1]:80000000",
        "http://[::1]:8000",
        "https://proxy.example.com/sendgrid",
        "https://proxy.example.com/v3/sendgrid",
        "https://proxy.example.com:80",
        "https://proxy.example.com/v3?x=/",
        "https://a@proxy.example.com/",
        "https://api.send\ngrid.com/",
        "https://[",
    ],
)
def test_other_urls_stay(url: str) -> None:
    assert normalize({"api_url": url}) == {"api_url": url}


def test_id_that_is_not_a_uuid_is_named_without_its_value() -> None:
    config = {"list_ids": [LIST_ID, "SG.very-secret", LIST_ID.upper(), f"{LIST_ID}0"]}
    assert list(find_invalid_ids(config)) == [
        f"list_ids[{i}] is not a UUID. Run --test to list available ids" for i in (1, 3)
    ]


@pytest.mark.parametrize(
    ("config", "normalized"),
    [
        ({"api_key": None, "list_ids": None}, {}),
        ({"api_key": " SG.key\r\n"}, {"api_key": "SG.key"}),
        ({"on_behalf_of": "subuser\n"}, {"on_behalf_of": "subuser"}),
        ({"api_url": "\thttps://x "}, {"api_url": "https://x"}),
        ({"list_ids": ["b", " a\r\n", "b", "a"]}, {"list_ids": ["b", "a"]}),
        ({"list_ids": [f" {LIST_ID.upper()}\n", LIST_ID]}, {"list_ids": [LIST_ID]}),
        # Not UUIDs: upper case may mean something.
        ({"segment_ids": ["B", "b"]}, {"segment_ids": ["B", "b"]}),
        ({"hash_key": "key\n"}, {"hash_key": "key"}),
        ({"hash_key": " "}, {}),
        ({"segment_ids": ["b", "a", "b"]}, {"segment_ids": ["b", "a"]}),
        ({"list_ids": "text"}, {"list_ids": "text"}),
        ({"list_ids": [{}, {}]}, {"list_ids": [{}, {}]}),
        ({"on_behalf_of": ""}, {}),
        ({"on_behalf_of": "a"}, {"on_behalf_of": "a"}),
        ({"api_key": 5, "other": 0}, {"api_key": 5, "other": 0}),
        ({"batch_config": {"encoding": {"format": None}, "storage": {"root": None}}}, {}),
        (
            {"batch_config": {"encoding": {"format": "jsonl", "compression": None}}},
            {"batch_config": {"encoding": {"format": "jsonl"}, "storage": {"root": ""}}},
        ),
        (
            {"batch_config": {"encoding": {"format": "jsonl"}, "storage": {"prefix": "a"}}},
            {"batch_config": {"encoding": {"format": "jsonl"}, "storage": ROOT_AND_PREFIX}},
        ),
    ],
)
def test_normalized_settings(config: dict[str, Any], normalized: dict[str, Any]) -> None:
    before = copy.deepcopy(config)
    assert normalize(config) == normalized
    assert config == before


# --- names of settings -----------------------------------------------------------------------

MISNAMED = {
    "list_id": "list_ids",
    "list_idz": "list_ids",
    "lits_ids": "list_ids",
    "List_IDs": "list_ids",
    "list-ids": "list_ids",
    "listIds": "list_ids",
    "list_uuids": "list_ids",
    " list_ids": "list_ids",
    "lists": "list_ids",
    "segment_id": "segment_ids",
    "SEGMENTS": "segment_ids",
    "hash_column": "hash_columns",
    "hashkey": "hash_key",
    "apikey": "api_key",
    "api_uri": "api_url",
    "start_dates": "start_date",
    "pol_timeout": "poll_timeout",
    "polling_interval": "poll_interval",
    "max_file_size_mb": "max_file_size",
    "stream_map": "stream_maps",
    "flattening_depth": "flattening_max_depth",
    "allow_empty_export": "max_shrink_percent",
}
UNKNOWN = [
    *("streams", "end_date", "user_agent", "auth_token", "token", "batch_size", "max_batch_rows"),
    *(
        "batch_size_rows",
        "file_size",
        "api_version",
        "api_ver",
        "start_time",
        "base_url",
        "page_size",
    ),
    *("account_id", "default_target_schema", "add_metadata_columns", "hash_salt", "_select", "x"),
]


@pytest.mark.parametrize(("key", "setting"), MISNAMED.items())
def test_misnamed_setting_is_an_error_that_names_the_right_one(
    schema: dict[str, Any], key: str, setting: str
) -> None:
    [error], warnings = check_names({**VALID, key: "very-secret"}, schema)
    assert warnings == []
    assert error.startswith(f"'{key}' is not a setting; use {setting}")
    assert "secret" not in error


@pytest.mark.parametrize("key", UNKNOWN)
def test_setting_of_an_orchestrator_is_a_warning(schema: dict[str, Any], key: str) -> None:
    config = {**VALID, key: "very-secret"}
    errors, [warning] = check_names(config, schema)
    assert errors == []
    assert warning.startswith(f"Unknown setting '{key}' ignored")
    assert "secret" not in warning


@pytest.mark.parametrize(
    "key",
    [
        *("", "…\n", "x" * 1000, "\x1b[31m", LIST_ID, "SG.aB3" + "x" * 16 + ".y" * 20, "f3" * 32),
        '{"api_key": "very-secret"}',
    ],
)
def test_name_that_may_be_a_secret_is_not_shown(schema: dict[str, Any], key: str) -> None:
    errors, [warning] = check_names({key: 1}, schema)
    assert errors == []
    assert warning == "Unknown setting ignored; its name is not shown, it may be a secret"


def test_declared_settings_are_known(schema: dict[str, Any]) -> None:
    config = dict.fromkeys(schema["properties"])
    assert check_names(config, schema) == ([], [])
    assert {"stream_maps", "batch_config", "flattening_enabled"} <= schema["properties"].keys()


# --- environment ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def from_variables(
    monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], **variables: str
) -> dict[str, Any]:
    for name, text in variables.items():
        monkeypatch.setenv(PREFIX + name, text)
    return from_environment(os.environ, schema, PREFIX)


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("API_KEY", "SG.key", "SG.key"),
        ("API_KEY", "", ""),
        ("API_URL", "https://x", "https://x"),
        ("LIST_IDS", f'["{LIST_ID}"]', [LIST_ID]),
        ("LIST_IDS", "a,b", ["a", "b"]),
        ("SEGMENT_IDS", "12345", ["12345"]),
        ("LIST_IDS", '["a"', '["a"'),
        ("LIST_IDS", "[" * 100_000, "[" * 100_000),
        ("MAX_FILE_SIZE", " 7\n", 7),
        ("MAX_FILE_SIZE", "9" * 5000, "9" * 5000),
        ("MAX_FILE_SIZE", "1_000", "1_000"),
        ("HASH_COLUMNS", "email,unique_name", ["email", "unique_name"]),
        ("SEGMENT_IDS", "[]", []),
        ("MAX_FILE_SIZE", "7", 7),
        ("MAX_FILE_SIZE", "large", "large"),
        ("POLL_INTERVAL", "2.5", "2.5"),
        ("NOTIFY_EMAIL", "true", True),
        ("NOTIFY_EMAIL", "1", True),
        ("NOTIFY_EMAIL", "ON", True),
        ("NOTIFY_EMAIL", "False", False),
        ("NOTIFY_EMAIL", "off", False),
        ("NOTIFY_EMAIL", "perhaps", "perhaps"),
        ("START_DATE", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ("STREAM_MAPS", '{"contacts": {}}', {"contacts": {}}),
        ("STREAM_MAPS", "{", "{"),
        ("FLATTENING_MAX_DEPTH", "3", 3),
    ],
)
def test_setting_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    schema: dict[str, Any],
    variable: str,
    text: str,
    value: object,
) -> None:
    config = from_variables(monkeypatch, schema, **{variable: text})
    assert config == {variable.lower(): value}
    assert type(config[variable.lower()]) is type(value)


@pytest.mark.parametrize("variable", ["ON_BEHALF_OF", "LIST_IDS", "MAX_FILE_SIZE", "NOTIFY_EMAIL"])
def test_empty_variable_is_unset(
    monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], variable: str
) -> None:
    assert from_variables(monkeypatch, schema, **{variable: ""}) == {}


def test_no_env_file_is_read(
    monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text(f"{PREFIX}API_URL=https://example.com\nHTTPS_PROXY=http://example.com\n")
    # The SDK searches for it in all folders above its own.
    monkeypatch.setattr("singer_sdk.configuration._dict_config.find_dotenv", lambda: str(file))
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    assert from_variables(monkeypatch, schema, API_KEY="SG.key") == {"api_key": "SG.key"}
    monkeypatch.delenv(f"{PREFIX}API_KEY")
    assert TapSendGridContacts._env_var_config == {}  # noqa: SLF001 - what the SDK reads
    assert dict(os.environ) == before


def test_unknown_variables_are_passed_on_except_those_of_orchestrators(
    monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any]
) -> None:
    config = from_variables(
        monkeypatch, schema, SEGMENT_ID="x", _LOAD_SCHEMA="y", LOGLEVEL="DEBUG", LOGLEVEL_X="z"
    )
    assert config == {"segment_id": "x"}
    assert from_variables(monkeypatch, schema, SEGMENT_ID="", List_Ids="a") == {"List_Ids": "a"}


@pytest.mark.parametrize(
    ("variable", "text", "setting"),
    [
        ("API_KEY", "", "api_key"),
        ("MAX_FILE_SIZE", "large", "max_file_size"),
        ("MAX_FILE_SIZE", "0", "max_file_size"),
        ("POLL_INTERVAL", "2.5", "poll_interval"),
        ("NOTIFY_EMAIL", "perhaps", "notify_email"),
        ("LIST_IDS", '[""]', "list_ids[0]"),
        ("LIST_IDS", '["', "list_ids"),
        ("FILE_TYPE", "xml", "file_type"),
        ("STREAM_MAPS", "{", "stream_maps"),
    ],
)
def test_invalid_setting_from_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch,
    schema: dict[str, Any],
    variable: str,
    text: str,
    setting: str,
) -> None:
    config = from_variables(monkeypatch, schema, **{"API_KEY": "SG.very-secret", variable: text})
    (error,) = validate(normalize(config), schema)
    assert error.startswith(f"{setting} ")
    assert "very-secret" not in error

"""Settings of any shape: either valid, or an error that names a setting in one line.

For long runs: `HYPOTHESIS_EXAMPLES=100000 pytest tests/unit/test_fuzz_settings.py`.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from singer_sdk.exceptions import ConfigurationError, SingerSDKError

from tap_sendgrid_contacts.api.client import SendGridClient
from tap_sendgrid_contacts.config import from_environment
from tap_sendgrid_contacts.redaction import one_line
from tap_sendgrid_contacts.tap import TapSendGridContacts
from tests.definitions import settings_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "TAP_SENDGRID_CONTACTS_"
EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))
fuzz = settings(
    max_examples=EXAMPLES or 50,
    # A short run finds what it has found before; a long one may find something new.
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
LIST_ID = "00000000-0000-0000-0000-00000000000a"

# Each has a valid value; what is changed is one of them, or within one of them. `batch_config` goes
# with neither versions nor several stream maps.
VALID: dict[str, Any] = {
    "api_key": "SG.key",
    "list_ids": [LIST_ID],
    "segment_ids": ["a"],
    "separate_exports": False,
    "file_type": "csv",
    "max_file_size": 10,
    "notify_email": True,
    "api_url": "https://api.eu.sendgrid.com/",
    "on_behalf_of": "subuser",
    "poll_interval": 1,
    "poll_timeout": 60,
    "request_timeout": 60,
    "allow_count_mismatch": True,
    "max_shrink_percent": 10,
    "hash_columns": ["email"],
    "hash_key": "key",
    "on_invalid_value": "null",
    "start_date": "2024-01-31T00:00:00Z",
    "emit_activate_version_messages": True,
    "batch_config": {
        "encoding": {"format": "jsonl", "compression": "gzip"},
        "storage": {"root": "file:///nowhere", "prefix": "a", "params": {"auto_mkdir": False}},
        "batch_size": 100,
    },
    "stream_maps": {
        "contacts": {
            "email": "md5(email) if email else None",
            "phone_number": "__NULL__",
            "__filter__": "bool(email)",
            "__alias__": "people",
            "__key_properties__": ["contact_id"],
        },
        "more": {"__source__": "contacts", "__else__": None, "contact_id": "contact_id"},
        "__else__": None,
    },
    "stream_map_config": {"salt": "b"},
    "flattening_enabled": True,
    "flattening_max_depth": 1,
    "flattening_max_key_length": 60,
    "flattening_separator": "__",
}

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1, 10**10, 10**400])
    | st.floats()
    | st.text()
    | st.sampled_from(
        [
            *(
                "",
                " ",
                "\0",
                "\ud800",
                "\x1b[31m",
                "a\nb",
                "__NULL__",
                "contacts",
                "*",
                "[",
                "x" * 5000,
            ),
            *(
                "email",
                "contact_id",
                "1/0",
                "self",
                "[x for x in email]",
                "'a' * 10**9",
                "((((",
                "\\",
            ),
            *(
                "https://",
                "https://[",
                "http://[::1]:99999",
                "https://a:b@c",
                "//",
                "file://",
                "s3://a",
            ),
            *(
                "memory://",
                "a::b",
                "0001-01-01T00:00:00+05:00",
                "2024-13-01",
                "9999-12-31T23:59:60-23:59",
            ),
        ]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def places(
    value: dict[Any, Any] | list[Any], path: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*path, key))


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    config = copy.deepcopy(VALID)
    kept = draw(st.sets(st.sampled_from([*VALID])))
    config = {key: value for key, value in config.items() if key in kept or key == "api_key"}
    for _ in range(draw(st.integers(0, 2))):
        if not (paths := [*places(config)]):
            break
        *outer, key = draw(st.sampled_from(paths))
        parent: Any = config
        for step in outer:
            parent = parent[step]
        change = draw(st.sampled_from(["replace", "remove", "rename"]))
        if change == "replace" or isinstance(parent, list):
            parent[key] = draw(VALUES)
        elif change == "remove":
            del parent[key]
        else:
            parent[draw(st.text() | st.sampled_from([*VALID]))] = parent.pop(key)
    return config


@pytest.fixture(autouse=True, scope="module")
def _offline() -> Iterator[None]:
    with (
        mock.patch.object(SendGridClient, "list_field_definitions", return_value=[]),
        mock.patch.object(TapSendGridContacts, "_setup_signal_handlers"),
        mock.patch.dict(os.environ, clear=True),
    ):
        logging.disable()
        yield
        logging.disable(logging.NOTSET)


def check(config: dict[str, Any]) -> None:
    """Prepare a run: what a run does before its first request but that of the definitions."""
    try:
        tap = TapSendGridContacts(config=copy.deepcopy(config))
    except SingerSDKError as error:
        line = one_line(str(error))  # as the command does
        assert line
        assert line.isprintable()
        return
    # What is valid once stays so: the run normalizes again for each stream.
    normalized = copy.deepcopy(dict(tap.config))
    assert dict(TapSendGridContacts(config=copy.deepcopy(normalized)).config) == normalized


@pytest.mark.parametrize(
    "absent", [["batch_config"], ["emit_activate_version_messages", "stream_maps"]], ids=str
)
def test_start_is_valid(absent: list[str]) -> None:
    config = {key: value for key, value in VALID.items() if key not in absent}
    TapSendGridContacts(config=copy.deepcopy(config))


def test_deeply_nested_settings_are_an_error() -> None:
    nested: dict[str, Any] = {}
    for _ in range(100_000):
        nested = {"a": nested}
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        TapSendGridContacts(config={"api_key": "SG.key", "batch_config": nested})
    while nested:  # not by recursion
        nested = nested.pop("a")


def test_whatever_an_alias_raises_names_the_setting() -> None:
    config = {"api_key": "SG.key", "stream_maps": {"contacts": {"__alias__": "1 / 0"}}}
    with pytest.raises(ConfigurationError, match="stream_maps cannot be applied: ZeroDivision"):
        TapSendGridContacts(config=config)


@fuzz
@given(configs())
def test_file(config: dict[str, Any]) -> None:
    check(config)


@fuzz
@given(configs(), st.dictionaries(st.sampled_from([*VALID]), st.text(), max_size=2))
def test_environment(config: dict[str, Any], changes: dict[str, str]) -> None:
    variables = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()
    }
    environment = {PREFIX + key.upper(): text for key, text in (variables | changes).items()}
    check(from_environment(environment, settings_schema(), PREFIX))

"""Expressions of stream maps: a mistake is found before the export, valid ones never are."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from singer_sdk.mapper import PluginMapper

from tap_sendgrid_contacts.maps import find_malformed, find_mistakes

TEXT = {"type": ["string", "null"]}
COLUMNS: dict[str, Any] = {
    "contact_id": TEXT,
    "email": TEXT,
    "first_name": TEXT,
    "alternate_emails": {"type": ["array", "null"], "items": TEXT},
    "created_at": TEXT | {"format": "date-time"},
    "custom_orders": {"type": ["number", "null"]},
}
RECORD: dict[str, Any] = {
    **dict.fromkeys(("contact_id", "email", "first_name"), "someone@example.com"),
    "alternate_emails": ["someone@example.com"],
    "created_at": "2024-01-31T00:00:00Z",
    "custom_orders": 1,
}
CONFIG = {"salt": "very-secret"}


def errors_of(rules: dict[str, Any]) -> list[str]:
    stream_maps = {"contacts": rules}
    if errors := list(find_malformed(stream_maps)):
        return errors
    config: dict[str, Any] = {"stream_maps": stream_maps, "stream_map_config": CONFIG}
    mapper = PluginMapper(config, logging.getLogger("test"))
    schema = {"properties": dict(COLUMNS)}
    mapper.register_raw_stream_schema("contacts", schema, ["contact_id"])
    errors = list(find_mistakes(stream_maps, RECORD, mapper.stream_maps["contacts"]))
    if not errors:
        # What has no error here has none with a contact.
        mapper.stream_maps["contacts"][0].transform(RECORD)
    return errors


@pytest.mark.parametrize(
    "expression",
    [
        "email",
        "md5(email) if email else None",
        "sha256(config['salt'] + record['email'])",
        "_['email'].split('@')[-1].strip().lower()",
        "self.upper()",
        "[md5(each) for each in alternate_emails or []]",
        "{'a': email, 'b': [1, 2.5, True]}",
        "f'{first_name} <{email}>'",
        "str(int(custom_orders) + 1)",
        "bool(email) and custom_orders > 0",
        "datetime.datetime.now().isoformat()",
        "datetime.date.today().year",
        "json.dumps(alternate_emails)",
        "__stream_name__ + __original_stream_name__",
        "email[0:3]",
        "email.encode().decode('ascii')",
        "-custom_orders",
        "__NULL__",
    ],
)
def test_valid_expression(expression: str) -> None:
    assert errors_of({"email": expression}) == []


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("md5(emial)", "unknown name 'emial'; did you mean 'email'?"),
        # In the branch that is not evaluated, too.
        ("email if email else emial", "unknown name 'emial'"),
        ("[emial for each in alternate_emails]", "unknown name 'emial'"),
        ("md6(email)", "unknown name 'md6'; did you mean 'md5'?"),
        ("custom_removed", "unknown name 'custom_removed'"),
        ("email.strip().lowr()", "unknown attribute 'lowr'; did you mean 'lower'?"),
        ("email.__class__", "unknown attribute '__class__'"),
        ("email.format()", "unknown attribute 'format'"),
        ("record['emial']", "unknown key of record: 'emial'; did you mean 'email'?"),
        ("config['pepper']", "unknown key of config: 'pepper'"),
        ("(lambda: email)()", "Lambda is not supported in expressions"),
        ("email + 'very-secret' + emial", "unknown name 'emial'"),
    ],
)
def test_mistake_is_named_with_its_column(expression: str, problem: str) -> None:
    (error,) = errors_of({"email": expression})
    assert error.startswith(f"stream_maps.contacts.email: {problem}")
    assert "secret" not in error


def test_self_is_the_value_of_a_column_that_exists() -> None:
    assert errors_of({"email": "self"}) == []
    assert errors_of({"new": "self"}) == ["stream_maps.contacts.new: unknown name 'self'"]


def test_filter_is_checked() -> None:
    (error,) = errors_of({"__filter__": "bool(emial)"})
    assert error.startswith("stream_maps.contacts.__filter__: unknown name 'emial'")
    options = {"__else__": None, "__alias__": "people", "contact_id": "contact_id"}
    assert errors_of({"__filter__": "bool(email)", **options}) == []


@pytest.mark.parametrize("alias", ["1 + 1", "''", "[]"])
def test_alias_that_is_not_a_name(alias: str) -> None:
    assert errors_of({"__alias__": alias}) == ["stream_maps: __alias__ is not a name"]


def test_column_that_is_removed_can_be_read() -> None:
    assert errors_of({"email": "__NULL__", "hash": "md5(email)"}) == []


@pytest.mark.parametrize(
    "expression", ["", " ", "md5(email", "x = 1", "email email", "a\0", "email\nemail", "(" * 1000]
)
def test_what_is_not_one_expression_is_named(expression: str) -> None:
    (error,) = errors_of({"email": expression})
    assert error.startswith("stream_maps.contacts.email is not a valid expression")


@pytest.mark.parametrize(
    ("stream_maps", "error"),
    [
        ({"contacts": []}, "stream_maps.contacts must be an object, null or __NULL__"),
        ({"contacts": "very-secret"}, "stream_maps.contacts must be an object, null or __NULL__"),
        ({"contacts": {"email": 5}}, "stream_maps.contacts.email must be an expression, null"),
        ({"contacts": {"email": []}}, "stream_maps.contacts.email must be an expression, null"),
        ({"contacts": {"__else__": []}}, "stream_maps.contacts.__else__ must be null or __NULL__"),
        ({"contacts": {"__alias__": 5}}, "stream_maps.contacts.__alias__ must be a string"),
        ({"contacts": {"__source__": None}}, "stream_maps.contacts.__source__ must be a string"),
        ({"contacts": {"__key_properties__": "a"}}, "stream_maps.contacts.__key_properties__ must"),
        ({"contacts": {"__filter__": {}}}, "stream_maps.contacts.__filter__ must be an expression"),
        ({"__else__": "very-secret"}, "stream_maps.__else__: the only option here is __else__"),
        ({"__other__": None}, "stream_maps.__other__: the only option here is __else__"),
        ({"people": {}}, "stream_maps references unknown stream 'people'"),
        ({"a": {"__source__": "people"}}, "stream_maps references unknown stream 'people'"),
        ({"a\n": None}, "stream_maps references unknown stream 'a\\n'"),
    ],
)
def test_malformed_setting_is_named(stream_maps: dict[str, Any], error: str) -> None:
    (found,) = find_malformed(stream_maps)
    assert found.startswith(error)
    assert "secret" not in found

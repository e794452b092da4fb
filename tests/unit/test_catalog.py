"""Catalogs and states as users and Meltano write them: right, or one clear error."""

from __future__ import annotations

import contextlib
import copy
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from singer_sdk.exceptions import ConfigurationError
from singer_sdk.singerlib import Catalog

from tap_sendgrid_contacts.api.client import FieldDefinition, SendGridClient
from tap_sendgrid_contacts.catalog.normalize import normalize_catalog, resolve_key
from tap_sendgrid_contacts.schema import build_schema
from tap_sendgrid_contacts.state_file import normalize_state
from tap_sendgrid_contacts.tap import TapSendGridContacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tap_sendgrid_contacts.stream import ContactsStream

FIELDS = [FieldDefinition("e1_T", "Plan", "Text"), FieldDefinition("e2_N", "seats", "Number")]
ROOT: dict[str, Any] = {
    "inclusion": "available",
    "valid-replication-keys": ["updated_at"],
    "selected": True,
}


def make_catalog(root: dict[str, Any] | None = None, **stream: Any) -> dict[str, Any]:
    """Return a catalog as `--discover` prints it, with some keys changed."""
    catalog = {
        "tap_stream_id": "contacts",
        "stream": "contacts",
        "replication_method": "FULL_TABLE",
        "key_properties": ["contact_id"],
        "schema": build_schema(FIELDS, separate_exports=False),
        "metadata": [
            {"breadcrumb": ["properties", "contact_id"], "metadata": {"inclusion": "automatic"}},
            {"breadcrumb": ["properties", "email"], "metadata": {"inclusion": "available"}},
            {"breadcrumb": [], "metadata": ROOT | (root or {})},
        ],
    } | stream
    return copy.deepcopy({"streams": [{k: v for k, v in catalog.items() if v != "absent"}]})


def normalize(catalog: object) -> dict[str, Any]:
    (stream,) = normalize_catalog(catalog)["streams"]
    return stream  # type: ignore[no-any-return]


def loaded(
    catalog: Any,  # noqa: ANN401 - any JSON
    state: Any = None,  # noqa: ANN401 - any JSON
    **config: Any,
) -> list[ContactsStream]:
    """Return the streams of a tap, as it is when it starts to sync them."""
    with (
        mock.patch.object(SendGridClient, "list_field_definitions", return_value=FIELDS),
        mock.patch.object(TapSendGridContacts, "_setup_signal_handlers"),
    ):
        tap = TapSendGridContacts(
            config={"api_key": "SG.x", **config},
            # A run changes its state.
            catalog=copy.deepcopy(catalog),
            state=copy.deepcopy(state),
        )
    tap._reset_state_progress_markers()  # noqa: SLF001 - as `sync_all` does
    return list(tap.streams.values())  # type: ignore[arg-type]


# --- replication ----------------------------------------------------------------------------

INCREMENTAL = ("INCREMENTAL", "updated_at")
FULL_TABLE = ("FULL_TABLE", None)


@pytest.mark.parametrize(
    ("root", "stream", "expected"),
    [
        ({}, {}, FULL_TABLE),
        ({}, {"replication_method": "absent"}, FULL_TABLE),
        ({}, {"replication_method": None}, FULL_TABLE),
        ({}, {"replication_method": "INCREMENTAL"}, INCREMENTAL),
        ({"replication-method": "INCREMENTAL"}, {}, INCREMENTAL),
        ({"replication-method": "FULL_TABLE"}, {"replication_method": "INCREMENTAL"}, FULL_TABLE),
        ({"forced-replication-method": "INCREMENTAL"}, {}, INCREMENTAL),
        (
            {"replication-method": "FULL_TABLE", "forced-replication-method": "INCREMENTAL"},
            {},
            FULL_TABLE,
        ),
        ({"replication-method": "INCREMENTAL", "replication-key": "updated_at"}, {}, INCREMENTAL),
        ({"replication-method": None}, {"replication_method": "INCREMENTAL"}, INCREMENTAL),
    ],
)
def test_replication_method(
    root: dict[str, Any],
    stream: dict[str, Any],
    expected: tuple[str, str | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    normalized = normalize(make_catalog(root, **stream))
    assert (normalized["replication_method"], normalized["replication_key"]) == expected
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("root", "stream"),
    [
        ({"replication-key": "updated_at"}, {}),
        ({}, {"replication_key": "updated_at"}),
        ({"replication-key": "updated_at"}, {"replication_method": None}),
        ({"replication-method": "FULL_TABLE", "replication-key": "created_at"}, {}),
        ({"replication-key": "a\x1b\nSG.secret.key"}, {"replication_method": None}),
    ],
)
def test_replication_key_alone_is_a_warning(
    root: dict[str, Any], stream: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    normalized = normalize(make_catalog(root, **stream))
    (warning,) = caplog.messages
    assert (normalized["replication_method"], normalized["replication_key"]) == FULL_TABLE
    assert "set replication-method to INCREMENTAL" in warning
    assert warning.isprintable()
    assert "secret" not in warning


@pytest.mark.parametrize("key", ["replication-method", "forced-replication-method"])
@pytest.mark.parametrize("method", ["LOG_BASED", "incremental", "FULL TABLE"])
def test_unknown_replication_method(key: str, method: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Unsupported replication method '{method}'"):
        normalize(make_catalog({key: method}))
    with pytest.raises(ConfigurationError, match=f"Unsupported replication method '{method}'"):
        normalize(make_catalog(replication_method=method))


def test_only_replication_key() -> None:
    error = "'updated_at' is the only valid replication key for stream 'contacts'"
    for root in ({"replication-key": "created_at"}, {}):
        catalog = make_catalog(root | {"replication-method": "INCREMENTAL"})
        if not root:
            del catalog["streams"][0]["schema"]["properties"]["updated_at"]
        with pytest.raises(ConfigurationError, match=error):
            normalize(catalog)


# --- key --------------------------------------------------------------------------------------


def key_of(catalog: dict[str, Any], *, separate_exports: bool = False) -> list[str]:
    if separate_exports:
        catalog["streams"][0]["schema"] = build_schema(FIELDS, separate_exports=True)
    stream = normalize(catalog)
    return resolve_key(
        stream["schema"]["properties"], stream["key_properties"], separate_exports=separate_exports
    )


@pytest.mark.parametrize("key", ["absent", None, []])
def test_catalog_without_a_key_has_that_of_the_stream(key: Any) -> None:  # noqa: ANN401 - any JSON
    assert key_of(make_catalog(key_properties=key)) == ["contact_id"]
    assert key_of(make_catalog(key_properties=key), separate_exports=True) == [
        "contact_id",
        "source_id",
    ]


def test_key_in_any_order_and_place() -> None:
    key = ["source_id", "contact_id"]
    for catalog in (
        make_catalog(key_properties=key),
        make_catalog({"table-key-properties": key}, key_properties=None),
        make_catalog({"table-key-properties": key}, key_properties=key[::-1]),
    ):
        assert key_of(catalog, separate_exports=True) == ["contact_id", "source_id"]


@pytest.mark.parametrize("separate_exports", [False, True])
@pytest.mark.parametrize("key", [["email"], ["contact_id", "email"], ["source_id"], [""]])
def test_another_key_is_an_error(key: list[str], *, separate_exports: bool) -> None:
    for catalog in (
        make_catalog(key_properties=key),
        make_catalog({"table-key-properties": key}, key_properties=None),
    ):
        with pytest.raises(ConfigurationError, match=r"key \('.* is not that of stream 'contacts'"):
            key_of(catalog, separate_exports=separate_exports)


def test_key_without_the_source_is_an_error() -> None:
    with pytest.raises(
        ConfigurationError, match=r"\('contact_id'\) .* \('contact_id', 'source_id'"
    ):
        key_of(make_catalog(), separate_exports=True)


@pytest.mark.parametrize("name", ["source_type", "source_id", "source_name"])
def test_columns_of_the_source_need_separate_exports(name: str) -> None:
    # Records would not have them.
    properties = build_schema(FIELDS, separate_exports=False)["properties"] | {
        name: {"type": "string"}
    }
    catalog = make_catalog(schema={"properties": properties}, key_properties=None)
    with pytest.raises(ConfigurationError, match="separate_exports does not fit the catalog"):
        key_of(catalog)


@pytest.mark.parametrize("name", ["source_type", "source_id", "source_name"])
def test_separate_exports_need_the_key_alone(name: str) -> None:
    columns = {"contact_id", "source_type", "source_id", "source_name"} - {name}
    if name == "source_id":
        with pytest.raises(ConfigurationError, match="separate_exports does not fit the catalog"):
            resolve_key(columns, None, separate_exports=True)
    else:
        assert resolve_key(columns, None, separate_exports=True) == ["contact_id", "source_id"]


def test_two_keys_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"two keys: 'contact_id' .* 'email' in table"):
        normalize(make_catalog({"table-key-properties": ["email"]}))


# --- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["tap_stream_id", "stream"])
def test_one_name_is_enough(missing: str, caplog: pytest.LogCaptureFixture) -> None:
    catalog = make_catalog()
    del catalog["streams"][0][missing]
    stream = normalize(catalog)
    assert stream["tap_stream_id"] == stream["stream"] == "contacts"
    assert caplog.messages == []


def test_catalog_as_an_object_of_the_sdk() -> None:
    catalog = make_catalog({"forced-replication-method": "INCREMENTAL"}, key_properties=None)
    (stream,) = loaded(Catalog.from_dict(catalog))
    assert stream.replication_method == "INCREMENTAL"
    assert stream.primary_keys == ["contact_id"]


@pytest.mark.parametrize("name", ["tap_stream_id", "stream"])
def test_renamed_stream_is_an_error(name: str) -> None:
    catalog = make_catalog()
    catalog["streams"][0][name] = "people"
    with pytest.raises(ConfigurationError, match=r"renames stream 'contacts'.*__alias__"):
        normalize(catalog)
    catalog = make_catalog(tap_stream_id="people", stream="people")
    with pytest.raises(ConfigurationError, match=r"no stream 'contacts', but 'people'.*renamed"):
        normalize(catalog)


def test_other_streams_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    catalog = make_catalog()
    catalog["streams"][:0] = [{"tap_stream_id": "orders"}, {"stream": "k\nc"}, {}]
    normalize(catalog)
    assert caplog.messages == [
        "Ignoring streams of the catalog that this tap does not have: 'orders', 'k c', 'None'"
    ]


def test_catalog_of_another_tap_is_an_error() -> None:
    catalog = {"streams": [{"tap_stream_id": "orders"}, {"tap_stream_id": "customers"}]}
    with pytest.raises(ConfigurationError, match="but 'orders', 'customers': it is of another tap"):
        normalize_catalog(catalog)


def test_catalog_without_streams_is_none() -> None:
    assert normalize_catalog({"streams": []}) == {"streams": []}


def test_stream_that_appears_twice_is_an_error() -> None:
    catalog = make_catalog()
    catalog["streams"] *= 2
    with pytest.raises(ConfigurationError, match="has stream 'contacts' 2 times"):
        normalize_catalog(catalog)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c, _: c.clear(), "streams"),
        (lambda c, _: c.update(streams=None), r"\$.streams"),
        (lambda c, _: c.update(streams={}), r"\$.streams"),
        (lambda c, _: c.update(streams=["contacts"]), r"\$.streams\[0\]"),
        (lambda _, s: s.update(schema=None), "schema"),
        (lambda _, s: s["schema"].update(properties=[]), "schema.properties"),
        (lambda _, s: s["schema"]["properties"].update(x=True), "schema.properties"),
        (lambda _, s: s.update(key_properties="contact_id"), "key_properties"),
        (lambda _, s: s.update(metadata={}), "metadata"),
        (lambda _, s: s["metadata"][0].update(breadcrumb="x"), r"metadata\[0\].breadcrumb"),
        (lambda _, s: s["metadata"][0].update(metadata=None), r"metadata\[0\].metadata"),
        (lambda _, s: s["metadata"][2]["metadata"].update(selected="no"), "selected"),
    ],
)
def test_catalog_of_the_wrong_shape_is_an_error(
    change: Callable[[dict[str, Any], dict[str, Any]], None], place: str
) -> None:
    catalog = make_catalog()
    change(catalog, catalog["streams"][0])
    with pytest.raises(ConfigurationError, match=f"^--catalog: .*{place}.*re-run discovery"):
        normalize_catalog(catalog)


def selected_columns(metadata: list[dict[str, Any]] | None) -> set[str]:
    (stream,) = loaded(make_catalog(metadata=metadata))
    return {each.name for each in stream.layout.selected}


@pytest.mark.parametrize("selected", [True, None])
def test_columns_without_metadata_of_their_stream_are_selected(*, selected: bool | None) -> None:
    everything = selected_columns(None)
    assert everything == selected_columns([]) >= {"email", "custom_plan"}
    email = {"breadcrumb": ["properties", "email"], "metadata": {"selected": selected}}
    assert selected_columns([email]) == everything
    email["metadata"] = {"selected": False}
    assert selected_columns([email]) == everything - {"email"}


# --- states -----------------------------------------------------------------------------------

STATE: dict[str, Any] = {
    "bookmarks": {
        "contacts": {
            "columns": [{"name": "custom_plan", "type": "text", "id": "e1_T"}],
            "exports": [],
            "partitions": [
                {"context": {"source_id": "a"}, "exports": []},
                {"context": {"source_id": "b"}, "progress_markers": {}},
            ],
            "replication_key": "updated_at",
            "replication_key_value": "2026-01-01T00:00:00Z",
        }
    }
}


@pytest.mark.parametrize("state", [{}, {"bookmarks": {}}, {"bookmarks": {"contacts": {}}}, STATE])
def test_state_of_this_tap_is_kept(state: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert normalize_state(copy.deepcopy(state)) == state
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ({"type": "STATE", "value": STATE}, "a whole STATE message; pass its value"),
        ({"singer_state": STATE}, "what `meltano state get` prints; pass its singer_state"),
        ({"completed": {"singer_state": STATE}}, "not one of this tap"),
        ({"updated_at": "2026-01-01"}, "not one of this tap"),
        ({"bookmark": {"contacts": {}}}, "not one of this tap"),
        ({"value": None}, "a whole STATE message"),
    ],
)
def test_state_without_bookmarks_is_none(
    state: dict[str, Any], hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert normalize_state(state) == {}
    (warning,) = caplog.messages
    assert warning.startswith("Ignoring --state, which has no bookmarks: ")
    assert hint in warning


def test_state_of_another_tap_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    state = {"bookmarks": {"orders": {"x": 1}, "customers": {}}}
    assert normalize_state(copy.deepcopy(state)) == state
    (warning,) = caplog.messages
    assert "no bookmark of stream 'contacts', but of 'orders', 'customers'" in warning


def test_partitions_that_the_sdk_would_not_survive_are_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = copy.deepcopy(STATE)
    partitions = state["bookmarks"]["contacts"]["partitions"]
    partitions += [{}, {"context": None}, {"context": []}, {"context": {"source_id": "a"}}]
    assert normalize_state(state) == STATE
    (warning,) = caplog.messages
    assert "Ignoring 4 partition(s)" in warning


# --- any catalog and state ------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3)
    ),
    max_leaves=6,
)
WORDS: list[Any] = [
    *("contacts", "contact_id", "custom_plan", "updated_at", "source_id", "INCREMENTAL", "string"),
    *("number", "null", "date-time", "bookmarks", "columns", "partitions", "context", "streams"),
    *([], {}, [[]], [{}], {"a": {}}, ["string", "null"], {"type": "string"}, [None], 0, "", None),
    {"anyOf": [{"type": "null"}, {"type": "number"}]},
    "Custom field seats (e2_N, Number)",
]


def places(value: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - any JSON
    """Return each place in a document: an object or array, and a key or index."""
    keys = value if isinstance(value, dict) else range(len(value))
    return [
        each
        for key in keys
        for each in [
            (value, key),
            *(places(value[key]) if isinstance(value[key], (dict, list)) else []),
        ]
    ]


@st.composite
def edited(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with a few edits at any place."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        if not (all_places := places(document)):
            break
        parent, key = draw(st.sampled_from(all_places))
        edit = draw(st.sampled_from(["replace", "word", "delete", "add", "copy"]))
        if edit == "delete":
            del parent[key]
        elif edit == "copy" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif edit == "add" and isinstance(parent, dict):
            word = draw(st.sampled_from([each for each in WORDS if isinstance(each, str)]))
            parent[word] = copy.deepcopy(draw(JSON | st.sampled_from(WORDS)))
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(WORDS) if edit == "word" else JSON))
    # As the SDK reads it.
    return json.loads(json.dumps(document), parse_float=Decimal)  # type: ignore[no-any-return]


def load(config: dict[str, Any], catalog: Any, state: Any) -> None:  # noqa: ANN401 - any JSON
    """Do all that a run does with its files before the first request of an export."""
    for stream in loaded(catalog, state, **config):
        columns = list(stream.layout.by_field.values())
        assert columns[0].name == "contact_id"
        names = [each.name for each in columns]
        assert len(set(names)) == len(names)
        # Every selected column is in every record.
        if stream.selected:
            in_records = stream.stream_maps[0].transformed_schema["properties"]
            assert set(stream.layout.names) == set(in_records)
        assert stream.primary_keys in (["contact_id"], ["contact_id", "source_id"])
        stream._write_schema_message()  # noqa: SLF001 - as `sync` does


SOURCES = make_catalog(schema=build_schema(FIELDS, separate_exports=True), key_properties=None)


@pytest.mark.parametrize(
    ("config", "valid"),
    [({}, make_catalog()), ({"separate_exports": True}, SOURCES)],
    ids=["one", "separate"],
)
@settings(max_examples=60)
@given(data=st.data())
def test_any_edit_is_right_or_one_clear_error(
    config: dict[str, Any], valid: dict[str, Any], data: st.DataObject
) -> None:
    catalog = data.draw(st.none() | st.just(valid) | edited(valid))
    state = data.draw(st.just(STATE) | edited(STATE))
    with contextlib.suppress(ConfigurationError):
        load(config, catalog, state)

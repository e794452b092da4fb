"""Read, normalize and validate settings.

Pure functions: they get settings and return settings or error messages. No message contains a
value, which may be a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from singer_sdk.plugin_base import JSONSchemaValidator

from tap_sendgrid_contacts.api.urls import is_safe_url
from tap_sendgrid_contacts.columns import PRIMARY_KEY
from tap_sendgrid_contacts.dates import parse_timestamp
from tap_sendgrid_contacts.maps import find_malformed
from tap_sendgrid_contacts.schema import SOURCE_KEY
from tap_sendgrid_contacts.settings import INSTEAD_OF

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jsonschema import ValidationError

_BOOLEANS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
    ("false", "0", "no", "off"), False
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

# Similarity of names by difflib, 1 for equal ones: `list_id` and `list_ids` have 0.93, `file_size`
# and `file_type` 0.67.
_IS_MISSPELLED = 0.85
_IS_SIMILAR = 0.6

# Other names are not logged: an API key or a hash key may have been entered as a name.
_MAX_NAME_LENGTH = 40
_PLAUSIBLE_NAME = re.compile(rf"[A-Za-z_-]{{1,{_MAX_NAME_LENGTH}}}\d?")

_DEFAULT_PORTS = {"https": 443, "http": 80}
# Parsers drop or interpret them differently.
_NOT_IN_URL = re.compile(r"[\s?#@\\]")

# What a value that breaks the schema's pattern or length should be.
_EXPECTED = {
    "api_key": "is empty or has characters that no API key has; copy the key again",
    "list_ids": "is empty. Run --test to list available ids",
    "segment_ids": "is empty. Run --test to list available ids",
    "on_behalf_of": "has characters that no subuser name has",
    "hash_columns": "is empty",
    "hash_key": "is empty",
}


def from_environment(
    environment: Mapping[str, str], schema: dict[str, Any], prefix: str
) -> dict[str, Any]:
    """Return the settings of environment variables, and of no `.env` file, as the SDK does.

    Invalid values are passed through, to be rejected by validation; so are unknown settings, to
    be warned of, except those with a second underscore, which orchestrators set, and the SDK's
    log level. An empty variable is unset.
    """
    config: dict[str, Any] = {}
    for name, text in environment.items():
        key = name.removeprefix(prefix)
        if key == name or key.startswith(("_", "LOGLEVEL")):
            continue
        key = key.lower() if key.isupper() else key
        definition = schema["properties"].get(key, {"type": []})
        if text or key == "api_key":
            config[key] = _parse_variable(text, definition["type"])
    return config


def _parse_variable(text: str, types: list[str]) -> Any:  # noqa: ANN401 - any JSON
    """Return the value of a variable, or its text if it is not of that type."""
    stripped = text.strip()
    if "integer" in types and re.fullmatch(r"-?[0-9]{1,18}", stripped):
        return int(stripped)
    if "boolean" in types:
        return _BOOLEANS.get(stripped.lower(), text)
    if "array" in types and not stripped.startswith("["):
        return text.split(",")
    if "array" in types or "object" in types:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def normalize(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in one form.

    Orchestrators write unset settings as null or as empty text; keys and ids that were read from
    a file often end in a line break; the form of `api_url` and ids is part of the bookmark.
    """
    normalized = {key: value for key, value in config.items() if value is not None}
    for key in ("api_key", "api_url", "hash_key", "on_behalf_of"):
        if isinstance(normalized.get(key), str):
            normalized[key] = normalized[key].strip()
    if isinstance(normalized.get("api_url"), str):
        normalized["api_url"] = _normalize_url(normalized["api_url"])
    for key in ("list_ids", "segment_ids"):
        ids = normalized.get(key)
        if isinstance(ids, list) and all(isinstance(each, str) for each in ids):
            normalized[key] = list(dict.fromkeys(map(_normalize_id, ids)))
    if isinstance(normalized.get("batch_config"), dict):
        normalized["batch_config"] = _with_root(_without_nulls(normalized["batch_config"]))
    for key in ("on_behalf_of", "hash_key", "batch_config"):
        if key in normalized and not normalized[key]:
            del normalized[key]
    return normalized


def _normalize_url(url: str) -> str:
    """Return a URL without what means nothing; one that is not valid as it is."""
    if _NOT_IN_URL.search(url):
        return url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return url
    if ":" in host:
        host = f"[{host}]"
    if port and port != _DEFAULT_PORTS.get(parts.scheme):
        host += f":{port}"
    path = re.sub(r"(/+(v3)?)*$", "", parts.path, flags=re.IGNORECASE)
    return f"{parts.scheme}://{host}{path}"


def _normalize_id(text: str) -> str:
    text = text.strip()
    return text.lower() if _UUID.fullmatch(text) else text


def _with_root(batch_config: dict[str, Any]) -> dict[str, Any]:
    """Return `batch_config` with an empty root if it has none; a run replaces it by a folder."""
    storage = batch_config.get("storage", {})
    if not batch_config or not isinstance(storage, dict):
        return batch_config
    return {**batch_config, "storage": {"root": "", **storage}}


def _without_nulls(settings: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings without those that are null, or objects of nothing but nulls."""
    kept = {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in settings.items()
    }
    return {
        key: value
        for key, value in kept.items()
        if value is not None and (value != {} or settings[key] == {})
    }


def check_names(config: Mapping[str, Any], schema: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return errors and warnings of settings that the schema does not declare.

    It is an error if one has almost the name of another, or no longer exists: ignored, a
    misspelled `list_ids` would export every contact.
    """
    errors, warnings = [], []
    for key in sorted(config.keys() - schema["properties"].keys()):
        name = key.lower().replace("-", "_")
        similar = difflib.get_close_matches(name, schema["properties"], n=1, cutoff=_IS_SIMILAR)
        misspelled = difflib.get_close_matches(name, similar, cutoff=_IS_MISSPELLED)
        if name in INSTEAD_OF or misspelled:
            instead = INSTEAD_OF.get(name) or misspelled[0]
            errors.append(f"{key[:_MAX_NAME_LENGTH]!a} is not a setting; use {instead}")
        elif _PLAUSIBLE_NAME.fullmatch(key):
            hint = f"; did you mean {similar[0]}?" if similar else ""
            warnings.append(f"Unknown setting '{key}' ignored{hint}")
        else:
            warnings.append("Unknown setting ignored; its name is not shown, it may be a secret")
    return errors, warnings


def validate(config: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Return what is wrong with normalized settings; add the defaults of those not set."""
    validator = JSONSchemaValidator(schema)
    # Several missing keys of an object are reported as several errors of that object.
    errors = dict.fromkeys(map(_format_validation_error, validator.iter_errors(config)))
    return list(errors) or list(_validate_values(config))


def find_invalid_ids(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error for each list id that is not a UUID, but for example a name.

    Not part of `validate`: `--test` shows the ids first.
    """
    for i, id_ in enumerate(config["list_ids"]):
        if not _UUID.fullmatch(id_):
            yield f"list_ids[{i}] is not a UUID. Run --test to list available ids"


def _validate_values(config: dict[str, Any]) -> Iterator[str]:
    """Validate what the schema cannot express."""
    for key, value in config.items():
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            # It could be sent to no API, and saved in no state.
            yield f"{key} has half of a surrogate pair"
    if not is_safe_url(config["api_url"]):
        yield "api_url must be an https URL, or http on localhost, without user name and password"
    elif _NOT_IN_URL.search(config["api_url"]):
        yield "api_url must not have a query, a fragment or blanks"
    if "start_date" in config and parse_timestamp(config["start_date"]) is None:
        yield "start_date is not a valid date; write it as 2024-01-31T00:00:00Z"
    if config["hash_columns"] and "hash_key" not in config:
        yield "hash_columns requires hash_key"
    for key in sorted({PRIMARY_KEY, SOURCE_KEY}.intersection(config["hash_columns"])):
        yield f"hash_columns must not contain {key}, which is part of the key"
    if config.get("flattening_enabled") and "flattening_max_depth" not in config:
        yield "flattening_enabled requires flattening_max_depth"
    stream_maps = config.get("stream_maps", {})
    uses_faker = re.search(r"\bfake\.\w+\(", json.dumps(stream_maps, default=str))
    if uses_faker and not find_spec("faker"):
        yield "stream_maps uses Faker: install the tap with the extra 'faker'"
    yield from find_malformed(stream_maps)


def _format_validation_error(error: ValidationError) -> str:
    """Format a validation error without its value, which the validator's own message quotes."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.path)
    path = path.removeprefix(".")
    allowed: Any = error.validator_value
    choices = allowed if isinstance(allowed, list) else [allowed]
    expected = ", ".join(str(item) for item in choices if item != "null")
    if error.validator == "required":
        instance: Any = error.instance
        missing = next(key for key in choices if key not in instance)
        setting = f"{path}.{missing}".removeprefix(".")
        hint = ": set it to a SendGrid API key" if setting == "api_key" else ""
        return f"{setting} is missing{hint}"
    messages = {
        "additionalProperties": "has a key that is none of its settings",
        "type": f"must be of type {expected}",
        "enum": f"must be one of {expected}",
        "minimum": f"must be at least {expected}",
        "maximum": f"must be at most {expected}",
        "pattern": _EXPECTED.get(str(next(iter(error.path), "")), "is not valid"),
    }
    return f"{path} {messages.get(str(error.validator), f'is not valid ({error.validator})')}"

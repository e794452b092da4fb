"""The files that describe the settings agree with the tap, and are valid for Meltano."""

from __future__ import annotations

import json
import re
from importlib.metadata import metadata
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tap_sendgrid_contacts.tap import TapSendGridContacts
from tests.harness import run_in_process
from tests.targets.meltano import NAME, read_definition, read_loaders, read_yaml
from tests.targets.targets import (
    MELTANO,
    ROOT,
    Csv,
    DuckDb,
    Jsonl,
    Postgres,
    Target,
    pipe_to,
    tool_venv,
)

PROJECT = read_yaml(ROOT / "meltano.yml")
(EXTRACTOR,) = PROJECT["plugins"]["extractors"]
DEFINITIONS: dict[str, dict[str, Any]] = {
    "meltano.yml": EXTRACTOR,
    "plugin.yaml": read_definition(ROOT / "plugin.yaml"),
}


@pytest.fixture(scope="module")
def about() -> dict[str, Any]:
    """The tap's description of itself."""
    run = run_in_process(["--about", "--format=json"], {}, parse=False)
    about: dict[str, Any] = json.loads(run.out)
    return about


def meltano_setting(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the definition of a setting in Meltano's terms."""
    definition = {
        "name": name,
        "label": schema["title"],
        "kind": next(each for each in schema["type"] if each != "null"),
        "description": schema["description"],
    }
    if schema.get("format") == "date-time":
        definition["kind"] = "date_iso8601"
    if "enum" in schema:
        definition["kind"] = "options"
        definition["options"] = [{"label": each.upper(), "value": each} for each in schema["enum"]]
    if schema.get("secret"):
        definition["sensitive"] = True
    if "default" in schema:
        definition["value"] = schema["default"]
    return definition


@pytest.mark.parametrize("file", DEFINITIONS)
def test_definitions_have_the_settings_of_the_tap(about: dict[str, Any], file: str) -> None:
    plugin = DEFINITIONS[file]
    settings = about["settings"]
    assert plugin["settings"] == [
        meltano_setting(name, schema) for name, schema in settings["properties"].items()
    ]
    assert plugin["settings_group_validation"] == [settings["required"]]
    assert plugin["capabilities"] == about["capabilities"]
    assert plugin["description"] == about["description"]


def test_definitions_differ_only_in_what_depends_on_their_use() -> None:
    project, plugin = DEFINITIONS.values()
    # `meltano add --from-ref` ignores extras.
    extras = {"use_cached_catalog": False, "select": ["contacts.*"]}
    assert project == plugin | extras | {"pip_url": "-e ."}
    assert plugin["pip_url"] == plugin["name"] == NAME


@pytest.mark.targets
@pytest.mark.xdist_group("meltano")
def test_files_are_valid_against_the_schema_of_meltano() -> None:
    packages = tool_venv(MELTANO).parent.glob("lib/python*/site-packages")
    schema = json.loads((next(packages) / "meltano/schemas/meltano.schema.json").read_text())
    plugin = {"$ref": "#/$defs/plugins/extractors", "$defs": schema["$defs"]}
    for content, rules in ((PROJECT, schema), (DEFINITIONS["plugin.yaml"], plugin)):
        Draft202012Validator(rules).validate(content)


def test_hub_entry_has_what_meltano_hub_requires() -> None:
    # Its schemas are in no package: github.com/meltano/hub, schemas/plugin_definitions.
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (added,) = re.findall(r"^ *```yaml\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    entry = read_yaml(ROOT / "plugin.yaml") | yaml.safe_load(added)
    required = {"name", "namespace", "variant", "quality"}
    optional = {"label", "description", "domain_url", "keywords", "logo_url", "maintenance_status"}
    optional |= {"repo", "pip_url", "executable", "supported_python_versions"}
    optional |= {"capabilities", "settings", "settings_group_validation"}
    assert entry.keys() == required | optional
    assert entry["maintenance_status"] in {"active", "beta", "development", "inactive", "unknown"}
    assert entry["quality"] in {"gold", "silver", "bronze", "unknown"}
    classifiers = metadata(NAME).get_all("Classifier") or []
    versions = re.findall(r"Python :: (3\.\d+)$", "\n".join(classifiers), re.MULTILINE)
    assert entry["supported_python_versions"] == versions


def test_project_needs_no_hub_and_sends_no_telemetry() -> None:
    # A plugin with a namespace needs neither Meltano's Hub nor a lock file.
    plugins = [plugin for plugins in PROJECT["plugins"].values() for plugin in plugins]
    assert all("namespace" in plugin for plugin in plugins)
    assert PROJECT["send_anonymous_usage_stats"] is False
    assert PROJECT["cli"]["disable_version_check"] is True


def test_loaders_are_those_that_are_tested() -> None:
    tested: list[type[Target]] = [Jsonl, Csv, DuckDb, Postgres]
    assert {name: loader["pip_url"] for name, loader in read_loaders().items()} == {
        target.command: " ".join(target.requirements) for target in tested
    }


@pytest.mark.targets
@pytest.mark.xdist_group("targets")
@pytest.mark.parametrize("target", [Csv, Postgres])
def test_settings_of_loaders_are_those_of_the_targets(target: type[Target]) -> None:
    # A target ignores settings that it does not know.
    program = tool_venv(*target.requirements) / target.command
    about = json.loads(pipe_to([program, "--about", "--format=json"], b""))
    names = {setting["name"] for setting in read_loaders()[target.command]["settings"]}
    assert names <= about["settings"]["properties"].keys()


def test_sample_config_is_valid_except_for_its_key(about: dict[str, Any]) -> None:
    sample = json.loads((ROOT / "sample_config.json").read_text())
    declared = about["settings"]["properties"]
    assert sample.keys() <= declared.keys()
    Draft202012Validator(about["settings"]).validate(sample)
    key = sample.pop("api_key")
    assert key == "YOUR-SENDGRID-API-KEY"
    assert sample == {name: declared[name]["default"] for name in sample}


def type_and_default(schema: dict[str, Any], *, required: bool) -> str:
    """Return type and default of a setting in the README's notation."""
    kind = next(each for each in schema["type"] if each != "null")
    kind = {"array": "array of strings"}.get(kind, schema.get("format", kind))
    words = [" or ".join(f"`{each}`" for each in schema.get("enum", ())) or kind]
    if required:
        words.append("required")
    if "default" in schema:
        default = schema["default"]
        words.append(f"`{default if isinstance(default, str) else json.dumps(default)}`")
    return ", ".join(words)


def test_readme_has_every_setting_with_type_and_default(about: dict[str, Any]) -> None:
    (section,) = re.findall(
        r"^## Settings$(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    table = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", section, re.MULTILINE))
    # The SDK's own are listed outside the table.
    builtin: dict[str, Any] = {}
    TapSendGridContacts.append_builtin_config(builtin)
    settings = about["settings"]
    assert table == {
        name: type_and_default(schema, required=name in settings["required"])
        for name, schema in settings["properties"].items()
        if name not in builtin["properties"]
    }

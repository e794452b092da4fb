"""The files that describe the settings agree with the tap."""

from __future__ import annotations

import json
import re
from importlib.metadata import metadata
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.definitions import FILES, ROOT, render, settings_schema, type_and_default

NAME = "tap-sendgrid-contacts"


def read_yaml(file: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())
    return content


@pytest.mark.parametrize("file", FILES)
def test_settings_are_those_of_the_tap(file: str) -> None:
    # If this fails: .ci/definitions
    assert (ROOT / file).read_text() == render(file)


def test_definitions_differ_only_in_what_depends_on_their_use() -> None:
    plugin = read_yaml("plugin.yaml")
    (project,) = read_yaml("meltano.yml")["plugins"]["extractors"]
    for setting in plugin["settings"]:
        del setting["label"]
    # Meltano Hub shows these; no project may have them.
    for key in ("maintenance_status", "domain_url", "keywords"):
        del plugin[key]
    # `meltano add --from-ref` ignores extras.
    extras = {"use_cached_catalog": False, "select": ["contacts.*"]}
    assert project == plugin | extras | {"pip_url": "-e ."}


def test_definition_installs_nothing_until_it_is_told_from_where() -> None:
    # Nobody owns the tap's name on PyPI.
    assert read_yaml("plugin.yaml")["pip_url"] == f"/path/to/{NAME}"


def test_hub_entry_has_what_meltano_hub_requires() -> None:
    # Its schemas are in no package: github.com/meltano/hub, schemas/plugin_definitions.
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (added,) = re.findall(r"^ *```yaml\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    entry = read_yaml("plugin.yaml") | yaml.safe_load(added)
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


@pytest.mark.parametrize("name", ["target-duckdb", "target-postgres"])
def test_loaders_to_add_are_those_of_the_project(name: str) -> None:
    loaders = {each["name"]: each for each in read_yaml("meltano.yml")["plugins"]["loaders"]}
    assert read_yaml(f"loaders/{name}.yaml") == loaders[name]


def test_project_needs_no_hub_and_sends_no_telemetry() -> None:
    project = read_yaml("meltano.yml")
    # A plugin with a namespace needs neither Meltano's Hub nor a lock file.
    plugins = [plugin for plugins in project["plugins"].values() for plugin in plugins]
    assert all("namespace" in plugin for plugin in plugins)
    assert project["send_anonymous_usage_stats"] is False
    assert project["cli"]["disable_version_check"] is True


def test_sample_config_is_valid_except_for_its_key() -> None:
    sample = json.loads((ROOT / "sample_config.json").read_text())
    schema = settings_schema()
    assert sample.keys() <= schema["properties"].keys()
    Draft202012Validator(schema).validate(sample)
    key = sample.pop("api_key")
    assert key == "YOUR-SENDGRID-API-KEY"
    assert sample == {name: schema["properties"][name]["default"] for name in sample}


def test_readme_has_type_and_default_of_the_settings_it_names() -> None:
    (section,) = re.findall(
        r"^## Configure$(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    table = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", section, re.MULTILINE))
    assert {"api_key", "list_ids"} <= table.keys()
    assert table == {name: type_and_default(name) for name in table}

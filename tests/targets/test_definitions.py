"""The files that describe the settings are valid for Meltano, and name the targets as tested."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from tests.targets.meltano import read_definition, read_loaders, read_yaml
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


@pytest.mark.targets
@pytest.mark.xdist_group("meltano")
def test_files_are_valid_against_the_schema_of_meltano() -> None:
    packages = tool_venv(MELTANO).parent.glob("lib/python*/site-packages")
    schema = json.loads((next(packages) / "meltano/schemas/meltano.schema.json").read_text())
    Draft202012Validator(schema).validate(read_yaml(ROOT / "meltano.yml"))
    plugins = {ROOT / "plugin.yaml": "extractors"}
    plugins |= dict.fromkeys((ROOT / "loaders").glob("*.yaml"), "loaders")
    assert len(plugins) == 3
    for file, kind in plugins.items():
        plugin = {"$ref": f"#/$defs/plugins/{kind}", "$defs": schema["$defs"]}
        Draft202012Validator(plugin).validate(read_definition(file))


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
    settings = read_loaders()[target.command]["settings"]
    # `timezone` is a variable of PostgreSQL's client library.
    names = {setting["name"] for setting in settings if "env" not in setting}
    assert names <= about["settings"]["properties"].keys()

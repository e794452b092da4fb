"""The plugin definition in a new Meltano project."""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sendgrid_sandbox.account import Account
from tests.harness import Sandbox, Tap, is_complete, run_sandbox
from tests.targets.meltano import NAME, Meltano, read_definition, read_yaml
from tests.targets.targets import (
    CUSTOM_FIELDS,
    ROOT,
    Jsonl,
    Row,
    column_types,
    expected_rows,
    tool_venv,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Not the group of the other project: it is the longest.
pytestmark = [pytest.mark.targets, pytest.mark.xdist_group("targets")]

CONTACTS = 100
ACCOUNT = Account(CONTACTS, CUSTOM_FIELDS)
LISTS = {f"tap-sendgrid-{each.name.lower()}": each.id for each in ACCOUNT.lists[:2]}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with run_sandbox("--contacts", str(CONTACTS), "--custom-fields", str(CUSTOM_FIELDS)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> dict[str, Any]:
    catalog = Tap(tmp_path_factory.mktemp("tap")).discover(sandbox)
    schema: dict[str, Any] = catalog["streams"][0]["schema"]
    return schema


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The plugin definition with the tap as a package that is not on a registry."""
    file = tmp_path_factory.mktemp("definition") / "plugin.yaml"
    text = (ROOT / "plugin.yaml").read_text()
    file.write_text(text.replace("pip_url: /path/to/tap-sendgrid-contacts", f"pip_url: {wheel}"))
    return file


@pytest.fixture(scope="module")
def meltano(
    tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox, definition: Path
) -> Meltano:
    """A project to which the tap was added as documented in the definition."""
    folder = tmp_path_factory.mktemp("project")
    loader = {
        "name": "target-jsonl",
        "namespace": "target_jsonl",
        "executable": str(tool_venv(*Jsonl.requirements) / "target-jsonl"),
        "settings": [{"name": "destination_path"}],
    }
    project: dict[str, Any] = {
        "send_anonymous_usage_stats": False,
        "cli": {"disable_version_check": True},
        "default_environment": "dev",
        "environments": [{"name": "dev"}],
        "plugins": {"loaders": [loader]},
    }
    (folder / "meltano.yml").write_text(yaml.dump(project))
    meltano = Meltano(folder, sandbox)
    meltano("add", "--plugin-type", "extractor", NAME, "--from-ref", str(definition))
    meltano("config", "set", NAME, "_use_cached_catalog", "false")
    return meltano


def test_meltano_adds_the_whole_definition(meltano: Meltano, definition: Path) -> None:
    added = read_yaml(meltano.file)["plugins"]["extractors"][0]
    assert added == read_definition(definition) | {"use_cached_catalog": False}


def test_empty_key_is_rejected_in_one_line(meltano: Meltano) -> None:
    log = meltano("run", NAME, "target-jsonl", env={"TAP_SENDGRID_CONTACTS_API_KEY": ""}, code=1)
    (error,) = re.findall(r"\[error *\] tap-sendgrid-contacts (.*)", log)
    assert error.startswith("api_key is empty")
    assert "Traceback" not in log


def test_incremental_with_a_deselected_column(
    tmp_path: Path, meltano: Meltano, schema: dict[str, Any]
) -> None:
    rows = expected_rows(ACCOUNT, schema)
    newest = max(row["updated_at"] for row in rows.values())
    settings = {
        "TAP_SENDGRID_CONTACTS__METADATA": '{"contacts": {"replication-method": "INCREMENTAL"}}',
        "TAP_SENDGRID_CONTACTS__SELECT": '["contacts.*", "!contacts.phone_number"]',
    }

    def run(folder: str) -> list[Row]:
        meltano(
            *("run", "--state-id-suffix=changes", NAME, "target-jsonl"),
            env=settings | {"TARGET_JSONL_DESTINATION_PATH": str(tmp_path / folder)},
        )
        return Jsonl(tmp_path / folder).raw_rows()

    everything = run("first")
    assert {row["contact_id"] for row in everything} == rows.keys()
    columns = next(iter(rows.values())).keys() - {"phone_number"}
    assert all(row.keys() == columns for row in everything)

    assert [row["updated_at"] for row in run("second")] == [newest]
    state = meltano.state(f"dev:{NAME}-to-target-jsonl:changes")
    assert state["replication_key_value"] == newest
    assert state["run"] == []


def test_plugins_that_inherit_from_it_run_in_parallel(
    tmp_path: Path, meltano: Meltano, sandbox: Sandbox, schema: dict[str, Any]
) -> None:
    project = read_yaml(meltano.file)
    project["plugins"]["extractors"] += [
        {"name": name, "inherit_from": NAME, "config": {"list_ids": [list_id]}}
        for name, list_id in LISTS.items()
    ]
    meltano.file.write_text(yaml.dump(project, sort_keys=False))
    before = sandbox.exports_created
    with ExitStack() as stack:
        runs = []
        for name in LISTS:
            env = {"TARGET_JSONL_DESTINATION_PATH": str(tmp_path / name)}
            run = meltano.start("run", name, "target-jsonl", env=env)
            runs.append(stack.enter_context(run))
        for run in runs:
            meltano.wait(run)

    assert sandbox.exports_created - before == len(LISTS)
    for name, list_id in LISTS.items():
        rows = Jsonl(tmp_path / name).rows(column_types(schema))
        assert rows == expected_rows(ACCOUNT, schema, [list_id])
        state = meltano.state(f"dev:{name}-to-target-jsonl")
        assert is_complete({"bookmarks": {"contacts": state}})

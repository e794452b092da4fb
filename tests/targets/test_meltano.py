"""The files that tell of the settings agree, and Meltano runs the project."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator

from tap_sendgrid_contacts.sandbox.account import Account
from tap_sendgrid_contacts.tap import TapSendGridContacts
from tests.conftest import Sandbox, Tap, serve
from tests.warehouse import (
    CUSTOM_FIELDS,
    MELTANO,
    Csv,
    Database,
    DuckDb,
    Jsonl,
    Postgres,
    Row,
    Target,
    installed,
    kinds,
    rows_of,
    uv,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# One Meltano project for all of them.
pytestmark = pytest.mark.xdist_group("meltano")

ROOT = Path(__file__).parent.parent
NAME = "tap-sendgrid-contacts"


def read_yaml(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content


def extractor(project: dict[str, Any]) -> dict[str, Any]:
    (plugin,) = project["plugins"]["extractors"]
    assert isinstance(plugin, dict)
    return plugin


PROJECT = read_yaml(ROOT / "meltano.yml")
DEFINITIONS = {"meltano.yml": extractor(PROJECT), "plugin.yaml": read_yaml(ROOT / "plugin.yaml")}


# --- the files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def about() -> dict[str, Any]:
    """What the tap says of itself."""
    command = [sys.executable, "-m", "tap_sendgrid_contacts.tap", "--about", "--format=json"]
    answer: dict[str, Any] = json.loads(subprocess.check_output(command))
    return answer


def as_meltano_has_it(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The definition of a setting in Meltano's words."""
    definition = {
        "name": name,
        "label": schema["title"],
        "kind": next(kind for kind in schema["type"] if kind != "null"),
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
def test_meltano_is_told_of_the_settings_as_they_are_in_the_tap(
    about: dict[str, Any], file: str
) -> None:
    plugin = DEFINITIONS[file]
    settings = about["settings"]
    assert plugin["settings"] == [
        as_meltano_has_it(name, schema) for name, schema in settings["properties"].items()
    ]
    assert plugin["settings_group_validation"] == [settings["required"]]
    assert plugin["capabilities"] == about["capabilities"]
    assert plugin["description"] == about["description"]


def test_the_two_definitions_differ_in_where_the_tap_comes_from_alone() -> None:
    project, plugin = DEFINITIONS.values()
    # `meltano add --from-ref` takes no extras.
    extras = {"use_cached_catalog": False, "select": ["contacts.*"]}
    assert project == plugin | extras | {"pip_url": "-e ."}
    assert plugin["pip_url"] == plugin["name"] == NAME


def test_meltano_finds_its_files_valid() -> None:
    packages = installed(MELTANO).parent.glob("lib/python*/site-packages")
    schema = json.loads((next(packages) / "meltano/schemas/meltano.schema.json").read_text())
    plugin = {"$ref": "#/$defs/plugins/extractors", "$defs": schema["$defs"]}
    for content, rules in ((PROJECT, schema), (DEFINITIONS["plugin.yaml"], plugin)):
        Draft202012Validator(rules).validate(content)


def test_the_project_works_offline_and_tells_nobody() -> None:
    # A plugin with a namespace needs neither Meltano's Hub nor a lock file.
    plugins = [plugin for kind in PROJECT["plugins"].values() for plugin in kind]
    assert all("namespace" in plugin for plugin in plugins)
    assert PROJECT["send_anonymous_usage_stats"] is False
    assert PROJECT["cli"]["disable_version_check"] is True


def test_the_loaders_are_those_that_loads_are_tested_with() -> None:
    loaders = {each["name"]: each for each in PROJECT["plugins"]["loaders"]}
    tested: list[type[Target]] = [Jsonl, Csv, DuckDb, Postgres]
    assert {name: each["pip_url"] for name, each in loaders.items()} == {
        each.command: " ".join(each.requirements) for each in tested
    }


def test_the_sample_config_is_valid_but_for_its_key(about: dict[str, Any]) -> None:
    sample = json.loads((ROOT / "sample_config.json").read_text())
    declared = about["settings"]["properties"]
    assert sample.keys() <= declared.keys()
    Draft202012Validator(about["settings"]).validate(sample)
    key = sample.pop("api_key")
    assert key == "YOUR-SENDGRID-API-KEY"
    assert sample == {name: declared[name]["default"] for name in sample}


def type_and_default(schema: dict[str, Any], *, required: bool) -> str:
    """What the README says of a setting."""
    kind = next(kind for kind in schema["type"] if kind != "null")
    kind = {"array": "array of strings"}.get(kind, schema.get("format", kind))
    words = [" or ".join(f"`{each}`" for each in schema.get("enum", ())) or kind]
    if required:
        words.append("required")
    if "default" in schema:
        default = schema["default"]
        words.append(f"`{default if isinstance(default, str) else json.dumps(default)}`")
    return ", ".join(words)


def test_the_readme_has_every_setting_with_type_and_default(about: dict[str, Any]) -> None:
    (section,) = re.findall(
        r"^## Settings$(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    table = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", section, re.MULTILINE))
    # The SDK's own are told of in prose.
    builtin: dict[str, Any] = {}
    TapSendGridContacts.append_builtin_config(builtin)
    settings = about["settings"]
    assert table == {
        name: type_and_default(schema, required=name in settings["required"])
        for name, schema in settings["properties"].items()
        if name not in builtin["properties"]
    }


# --- meltano run ----------------------------------------------------------------------------

CONTACTS = 200
SIZE = ("--contacts", str(CONTACTS), "--custom-fields", str(CUSTOM_FIELDS), "--pending-polls", "0")


class Meltano:
    """Runs Meltano in a project."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self._program = installed(MELTANO) / "meltano"
        # Nothing of the machine's own may steer Meltano or a plugin.
        foreign = re.compile("(MELTANO|TAP|TARGET)_|PYTHONDONTWRITEBYTECODE$")
        self._env = {
            **{name: value for name, value in os.environ.items() if not foreign.match(name)},
            "TAP_SENDGRID_CONTACTS_API_URL": sandbox.url,
            "TAP_SENDGRID_CONTACTS_API_KEY": sandbox.api_key,
        }

    def __call__(self, *arguments: str, env: dict[str, str] | None = None, code: int = 0) -> str:
        """Run a command; give back all that it prints."""
        return self.end(self.start(*arguments, env=env), code=code)

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command as a process group of its own."""
        return subprocess.Popen(
            [self._program, *arguments],
            cwd=self.folder,
            env=self._env | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def end(process: subprocess.Popen[str], *, code: int = 0) -> str:
        """Wait for a command's end; give back all that it printed."""
        with process:
            try:
                out, _ = process.communicate(timeout=300)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert process.returncode == code, out
        return out

    def state(self, state_id: str) -> dict[str, Any]:
        """The stream's state, as Meltano's state backend has it."""
        (line,) = re.findall("^{.*}$", self("state", "get", state_id), re.MULTILINE)
        bookmark: dict[str, Any] = json.loads(line)["singer_state"]["bookmarks"]["contacts"]
        return bookmark


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One SendGrid for all runs: the tap's state belongs to its address."""
    with serve(*SIZE) as running:
        yield running


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tap as a package: Meltano treats `-e .` in another way."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def meltano(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox, wheel: Path) -> Meltano:
    """A copy of the project with the tap as a package."""
    folder = tmp_path_factory.mktemp("project")
    text = (ROOT / "meltano.yml").read_text()
    (folder / "meltano.yml").write_text(text.replace("pip_url: -e .", f"pip_url: {wheel}"))
    return Meltano(folder, sandbox)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> dict[str, Any]:
    catalog = Tap(tmp_path_factory.mktemp("tap")).discover(sandbox)
    schema: dict[str, Any] = catalog["streams"][0]["schema"]
    return schema


@pytest.fixture(scope="module")
def rows(schema: dict[str, Any]) -> dict[str, Row]:
    """What ought to arrive."""
    return rows_of(Account(CONTACTS, CUSTOM_FIELDS), schema)


@pytest.mark.parametrize(
    ("kind", "file_type", "days"),
    [(Jsonl, "json", 1), (Csv, "csv", 1), (DuckDb, "csv", 2), (Postgres, "json", 2)],
)
def test_every_value_arrives_day_after_day(
    tmp_path: Path,
    meltano: Meltano,
    target: Callable[..., Any],
    kind: type[Target],
    file_type: str,
    days: int,
) -> None:
    there = target(kind)
    settings = there.env | {"TAP_SENDGRID_CONTACTS_FILE_TYPE": file_type}
    before: dict[str, Row] = {}
    port = 0
    for day in range(1, days + 1):
        with serve(*SIZE, "--day", str(day), "--port", str(port)) as sandbox:
            # A catalog of the day before is only in Meltano's way where the settings are the same.
            port = urlsplit(sandbox.url).port or 0
            schema = Tap(tmp_path).discover(sandbox)["streams"][0]["schema"]
            that_day = Meltano(meltano.folder, sandbox)
            that_day("run", "--state-id-suffix=days", NAME, kind.command, env=settings)
        assert meltano.state(f"dev:{NAME}-to-{kind.command}:days") == {"exports": []}
        rows = rows_of(Account(CONTACTS, CUSTOM_FIELDS, day=day), schema)
        if before:
            assert_each_kind_of_change(before, rows)
        columns = kinds(schema)
        assert there.rows(columns) == {
            key: {name: there.holds(row.get(name)) for name in columns}
            for key, row in (before | rows).items()
        }
        if isinstance(there, Database):
            assert there.columns() == {name: there.types[of] for name, of in columns.items()}
        before = rows


def assert_each_kind_of_change(before: dict[str, Row], after: dict[str, Row]) -> None:
    """There are contacts that came, went, changed and were cleared, and a new column's values."""
    kept = [(before[key], after[key]) for key in before.keys() & after.keys()]
    assert before.keys() - after.keys()
    assert after.keys() - before.keys()
    assert any(old["city"] is not None and new["city"] is None for old, new in kept)
    assert any(old["city"] != new["city"] is not None for old, new in kept)
    assert any(new[name] is not None for old, new in kept for name in new.keys() - old.keys())


def test_the_project_loads_files_and_a_database(
    meltano: Meltano, schema: dict[str, Any], rows: dict[str, Row]
) -> None:
    before = (meltano.folder / "meltano.yml").read_text()
    meltano("run", NAME, "target-jsonl", "load-contacts")

    assert Jsonl(meltano.folder / "output").rows(kinds(schema)) == rows
    database = DuckDb(meltano.folder)
    assert database.rows(kinds(schema)) == {
        key: {name: database.holds(value) for name, value in row.items()}
        for key, row in rows.items()
    }
    # No export is left in flight.
    assert meltano.state(f"dev:{NAME}-to-target-duckdb") == {"exports": []}
    assert (meltano.folder / "meltano.yml").read_text() == before


def test_incremental_with_a_column_left_out_and_a_full_refresh(
    meltano: Meltano, rows: dict[str, Row]
) -> None:
    newest = max(row["updated_at"] for row in rows.values())
    settings = {
        "TAP_SENDGRID_CONTACTS__METADATA": '{"contacts": {"replication-method": "INCREMENTAL"}}',
        "TAP_SENDGRID_CONTACTS__SELECT": '["contacts.*", "!contacts.phone_number"]',
    }

    def run(folder: str, *options: str) -> list[Row]:
        meltano(
            *("run", "--state-id-suffix=changes", *options, NAME, "target-jsonl"),
            env=settings | {"TARGET_JSONL_DESTINATION_PATH": folder},
        )
        return Jsonl(meltano.folder / folder).raw_rows()

    everything = run("first")
    assert {row["contact_id"] for row in everything} == rows.keys()
    columns = next(iter(rows.values())).keys() - {"phone_number"}
    assert all(row.keys() == columns for row in everything)

    assert [row["updated_at"] for row in run("second")] == [newest]
    assert {row["contact_id"] for row in run("third", "--full-refresh")} == rows.keys()
    state = meltano.state(f"dev:{NAME}-to-target-jsonl:changes")
    assert state["replication_key_value"] == newest
    assert state["exports"] == []


def kill_tap(group: int) -> None:
    """Kill the tap in a process group, as a machine does that is short of memory."""
    processes = subprocess.check_output(["ps", "-A", "-ww", "-o", "pid=,pgid=,args="], text=True)
    (tap,) = re.findall(rf"^ *(\d+) +{group} .*/bin/{NAME} ", processes, re.MULTILINE)
    os.kill(int(tap), signal.SIGKILL)


def test_a_scheduled_run_goes_on_with_the_export_of_one_that_was_killed(
    meltano: Meltano, schema: dict[str, Any], rows: dict[str, Row]
) -> None:
    folder = meltano.folder / "nightly"
    folder.mkdir()
    database = DuckDb(folder)
    night = {"TARGET_DUCKDB_FILEPATH": str(folder / "contacts.duckdb")}
    suffix = "--state-id-suffix=nightly"
    with serve(*SIZE, "--parts", "6", "--throttle", "0.01") as slow:
        production = Meltano(meltano.folder, slow)
        with production.start("run", suffix, "load-contacts", env=night) as killed:
            while killed.poll() is None and slow.count("GET /exports/") < 2:
                time.sleep(0.05)
            kill_tap(killed.pid)
            production.end(killed, code=1)
        assert 0 < len(database.rows(kinds(schema))) < len(rows)

        production("schedule", "run", "daily", suffix, env=night)
        assert slow.exports_asked_for == 1
    assert database.rows(kinds(schema)) == {
        key: {name: database.holds(value) for name, value in row.items()}
        for key, row in rows.items()
    }
    assert meltano.state(f"dev:{NAME}-to-target-duckdb:nightly") == {"exports": []}


def test_a_full_refresh_leaves_nothing_of_an_export_before(
    tmp_path: Path, meltano: Meltano, sandbox: Sandbox, rows: dict[str, Row]
) -> None:
    in_flight = Tap(tmp_path)(sandbox).of("STATE")[1]["value"]
    state_id = f"dev:{NAME}-to-target-jsonl:refreshed"
    meltano("state", "set", "--force", state_id, json.dumps({"singer_state": in_flight}))
    before = sandbox.exports_asked_for

    # It merges what it has kept with what the tap says now.
    for number, options in enumerate((["--full-refresh"], []), start=1):
        there = {"TARGET_JSONL_DESTINATION_PATH": f"refreshed-{number}"}
        meltano("run", "--state-id-suffix=refreshed", *options, NAME, "target-jsonl", env=there)
        assert len(Jsonl(meltano.folder / f"refreshed-{number}").raw_rows()) == len(rows)
        assert sandbox.exports_asked_for - before == number


def test_an_empty_key_is_refused_in_one_line(meltano: Meltano) -> None:
    log = meltano("run", NAME, "target-jsonl", env={"TAP_SENDGRID_CONTACTS_API_KEY": ""}, code=1)
    (error,) = re.findall(r"\[error *\] tap-sendgrid-contacts (.*)", log)
    assert error.startswith("`api_key` is empty")
    assert "Traceback" not in log


def test_a_new_project_takes_the_definition(
    tmp_path: Path, sandbox: Sandbox, wheel: Path, about: dict[str, Any]
) -> None:
    text = (ROOT / "plugin.yaml").read_text()
    plugin = tmp_path / "plugin.yaml"
    plugin.write_text(text.replace(f"pip_url: {NAME}", f"pip_url: {wheel}"))
    meltano = Meltano(tmp_path, sandbox)
    meltano("init", "new", "--no-usage-stats")
    meltano.folder /= "new"
    meltano("add", "--plugin-type", "extractor", NAME, "--from-ref", str(plugin))
    meltano("config", "set", NAME, "_use_cached_catalog", "false")

    added = extractor(read_yaml(meltano.folder / "meltano.yml"))
    assert added == DEFINITIONS["plugin.yaml"] | {
        "pip_url": str(wheel),
        "use_cached_catalog": False,
    }
    assert about["version"] in meltano("invoke", NAME, "--version")

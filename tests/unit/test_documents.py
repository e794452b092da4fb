"""What the documents refer to exists."""

from __future__ import annotations

import ast
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tap_sendgrid_contacts.output.formats import FORMATS
from tests.definitions import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = "tap_sendgrid_contacts"

FILES = [
    ROOT / name
    for name in subprocess.check_output(
        ["git", "-C", str(ROOT), "ls-files", "*.md"], text=True
    ).splitlines()
]

# Messages of Meltano, databases and targets in docs/troubleshooting.md.
OF_OTHERS = {
    "Another … pipeline is already running",
    "duplicate key value violates unique constraint",
    "Duplicate key … violates primary key constraint",
    "Altering columns is not supported",
    "Unknown message type BATCH",
    "Unsupported batch encoding format",
}


def without_code(file: Path) -> str:
    """Return the text of a document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(file: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(file), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def read_code(folder: str) -> str:
    """Return the code in a folder."""
    return "".join(file.read_text() for file in (ROOT / folder).rglob("*.py"))


def test_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "tap_sendgrid_contacts"
    names = {each.stem for each in package.rglob("*.py") if each.stem != "__init__"}
    assert not {name for name in names if not re.search(rf"[`/]{name}(\.py)?`", text)}


def test_imports_go_down_the_table_of_modules() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    cells = re.findall(r"^\| (`\w+(?:\.py|/).*?) \|", text, re.MULTILINE)
    rows = [re.findall(r"`([\w/]+?)(?:\.py|/)`", cell) for cell in cells]

    def level(module: str) -> int:
        names = {module, module.partition("/")[0]}
        (row,) = (i for i, modules in enumerate(rows) if not names.isdisjoint(modules))
        return row

    package = ROOT / "tap_sendgrid_contacts"
    for file in package.rglob("*.py"):
        module = str(file.relative_to(package).with_suffix("")).removesuffix("/__init__")
        # Those for types alone are in an `if`.
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{PACKAGE}."):
                path = (node.module or "").removeprefix(PACKAGE).lstrip(".").replace(".", "/")
                for imported in [path] if path else [each.name for each in node.names]:
                    assert level(module) <= level(imported), (module, imported)


def test_architecture_names_what_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    sections = [each for each in text.split("\n## ") if each.startswith(("One contact", "Where"))]
    assert len(sections) == 2
    names = {
        part
        for name in re.findall(r"`([\w.]+)`", "".join(sections))
        if not name.endswith((".py", ".md"))
        for part in name.split(".")
    }
    code = read_code("tap_sendgrid_contacts") + read_code("sandbox")
    assert not {name for name in names if not re.search(rf"\b{name}\b", code)}


def test_troubleshooting_quotes_what_the_tap_says() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text().replace("`", "")
    symptoms = " ".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE))
    code = read_code("tap_sendgrid_contacts")
    quoted = [each for each in re.findall('"(.*?)"', symptoms) if each not in OF_OTHERS]
    # What is in between is computed.
    pieces = [re.split("…|SIGTERM|10 s", each) for each in quoted]
    assert len(pieces) > 5
    assert not [each for each in pieces if not all(piece.strip() in code for piece in each)]


def test_batch_names_every_format() -> None:
    text = (ROOT / "docs" / "batch.md").read_text()
    _header, *rows = re.findall(r"^\| `(\w+)`.*?\| (`.+?) \|", text, re.MULTILINE)
    assert {name: re.findall(r"\w+", cell) for name, cell in rows} == {
        name: list(each.suffixes) for name, each in FORMATS.items()
    }


@pytest.mark.parametrize("file", FILES, ids=lambda each: str(each.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", without_code(file)):
        path, _, anchor = link.partition("#")
        linked = file.parent / path if path else file
        assert linked.exists(), link
        assert not anchor or anchor in anchors(linked), link


@pytest.mark.parametrize("file", FILES, ids=lambda each: str(each.relative_to(ROOT)))
def test_named_tests_exist(file: Path) -> None:
    names = set(re.findall(r"\b(test_\w+\.py)", file.read_text()))
    assert names <= {each.name for each in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("file", FILES, ids=lambda each: str(each.relative_to(ROOT)))
def test_commands_to_paste_have_no_comments(file: Path) -> None:
    # In zsh they are arguments: `meltano config set` would take the key for the name of a setting.
    blocks = re.findall(r"^ *```sh\n(.*?)```", file.read_text(), re.MULTILINE | re.DOTALL)
    commands = [each for each in blocks if "set -eo pipefail" not in each]
    assert not re.findall(r".* # .*", "\n".join(commands))

"""What the documents refer to exists."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tap_sendgrid_contacts.output.formats import FORMATS
from tests.definitions import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FILES = [
    ROOT / name
    for name in subprocess.check_output(
        ["git", "-C", str(ROOT), "ls-files", "*.md"], text=True
    ).splitlines()
]


def without_code(file: Path) -> str:
    """Return the text of a document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(file: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(file), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "tap_sendgrid_contacts"
    names = {each.stem for each in package.rglob("*.py") if each.stem != "__init__"}
    assert not {name for name in names if not re.search(rf"[`/]{name}(\.py)?`", text)}


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
    code = "".join(
        file.read_text()
        for folder in ("tap_sendgrid_contacts", "sandbox")
        for file in (ROOT / folder).rglob("*.py")
    )
    assert not {name for name in names if not re.search(rf"\b{name}\b", code)}


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

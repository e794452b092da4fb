"""What is in exported files, and the forms of values: never the values themselves."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.live.probe import Export

_BOM = "\ufeff"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_EMAIL = re.compile(r"""[^\s,;|"'\[\]<>{}]+@[^\s,;|"'\[\]<>{}]+""")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z][A-Za-z._-]{0,39}")
_PATH_WORDS = {"exports", "export", "contacts", "part", "csv", "json", "gzip", "gz", "zip"}
_TIME = r"\d{4}-\d\d-\d\d%s\d\d:\d\d:\d\d"
_DATE_FORMS = {
    "rfc3339": re.compile(_TIME % "T" + "Z"),
    "iso": re.compile(r"\d{4}-\d\d-\d\d"),
    # A month in the first place; the day there has another form.
    "us": re.compile(r"(?:0[1-9]|1[0-2])/\d\d/\d{4}"),
    "space": re.compile(_TIME % " "),
    "fraction": re.compile(_TIME % "T" + r"\.\d+Z"),
    "offset": re.compile(_TIME % "T" + r"[+-]\d\d:\d\d"),
    "go": re.compile(_TIME % " " + r" \+0000 UTC"),
    "epoch": re.compile(r"-?\d{1,12}"),
}


class Token(str):
    """A JSON number, as it is written."""

    __slots__ = ()


@dataclass
class CsvFile:
    """The parts of a CSV export.

    Attributes:
        header: Names in the first row of a part.
        has_header: For each part that has any row, whether it starts with this row.
        rows: All other rows.
        has_bom: For each part, whether it starts with a byte order mark.
    """

    header: list[str] = field(default_factory=list)
    has_header: list[bool] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    has_bom: list[bool] = field(default_factory=list)

    def values(self, indexes: Iterable[int]) -> list[str]:
        """Return the values of columns that are not empty."""
        columns = [*indexes]
        return [row[i] for row in self.rows for i in columns if i < len(row) and row[i]]


@dataclass
class JsonFile:
    """The parts of a JSON export.

    Attributes:
        contacts: One object per line, numbers as `Token`.
        has_bom: For each part, whether it starts with a byte order mark.
    """

    contacts: list[dict[str, Any]] = field(default_factory=list)
    has_bom: list[bool] = field(default_factory=list)

    def custom_values(self, names: Iterable[str]) -> list[object]:
        """Return the values of custom fields, named in upper case, that are not empty."""
        wanted = {*names}
        return [
            value
            for contact in self.contacts
            for name, value in (contact.get("custom_fields") or {}).items()
            if name.upper() in wanted and value not in (None, "")
        ]


def read_csv(export: Export) -> CsvFile:
    """Read the parts of a CSV export."""
    file = CsvFile()
    parts: list[list[list[str]]] = []
    for text in _texts(export):
        file.has_bom.append(text.startswith(_BOM))
        # Before Python 3.11 the module rejects NUL.
        source = io.StringIO(text.removeprefix(_BOM).replace("\0", ""), newline="")
        rows = [row for row in csv.reader(source) if row]
        if rows:
            parts.append(rows)
    # The only header may be in a part that is not listed first.
    first_rows = [rows[0] for rows in parts]
    headers = [row for row in first_rows if "EMAIL" in map(str.upper, row)]
    file.header = (headers or first_rows or [[]])[0]
    for rows in parts:
        file.has_header.append(rows[0] == file.header)
        file.rows += rows[file.has_header[-1] :]
    return file


def read_json(export: Export) -> JsonFile:
    """Read the parts of a JSON export."""
    file = JsonFile()
    for text in _texts(export):
        file.has_bom.append(text.startswith(_BOM))
        # Lines of another form are missing in the comparison with `contact_count`.
        lines = (line for line in text.removeprefix(_BOM).split("\n") if line)
        contacts = (json.loads(line, parse_int=Token, parse_float=Token) for line in lines)
        file.contacts += [contact for contact in contacts if isinstance(contact, dict)]
    return file


def _texts(export: Export) -> list[str]:
    texts = (part.data.decode(errors="replace") for part in export.parts)
    return [text for text in texts if text]


def mask(text: str) -> str:
    """Return the form of a text: `a` for letters, `9` for digits, `<uuid>` and `<email>`."""
    words = re.split(f"({_UUID.pattern}|{_EMAIL.pattern})", text[:200], flags=re.IGNORECASE)
    masked = "".join(
        re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", word))
        if index % 2 == 0
        else "<email>"
        if "@" in word
        else "<uuid>"
        for index, word in enumerate(words)
    )
    return masked[:40].encode("ascii", "replace").decode()


def word(text: str) -> str:
    """Return a text if it is a word of a protocol, such as a status, else its form."""
    return text if _WORD.fullmatch(text) else mask(text)


def mask_path(path: str) -> str:
    """Return the form of a URL's path; file extensions and the like are kept."""
    words = re.split(f"({_UUID.pattern}|[A-Za-z]+)", path, flags=re.IGNORECASE)
    return "".join(word if word.lower() in _PATH_WORDS else mask(word) for word in words)


def date_form(value: object) -> str:
    """Return the name of a date's form, or the form itself if it has no name."""
    text = str(value)
    names = (name for name, form in _DATE_FORMS.items() if form.fullmatch(text))
    return next(names, None) or mask(text)


def number_form(text: str) -> str:
    """Return the form of a number, with its exponent."""
    return re.sub(r"\d+", "9", text) if _NUMBER.fullmatch(text) else mask(text)


def addresses_form(cell: str) -> str:
    """Return how the first two of several addresses are written in a cell."""
    before, between, *_, after = _EMAIL.split(cell)
    return f"{mask(before)}<email>{mask(between)}<email>{mask(after)}"

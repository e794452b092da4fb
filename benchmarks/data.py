"""Exports to measure with, made once and kept: the same contacts as JSON and as CSV."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

EXPORT = "export.json"
FIELDS = "fields.json"

_TYPES = ("Text", "Number", "Date")
_FILLED_FIELDS = 10
_CONTACTS_AT_ONCE = 1000
_EPOCH = datetime(2019, 1, 1, tzinfo=timezone.utc)
_TIMES = [
    f"{_EPOCH + timedelta(days=day, seconds=day * 7919 % 86_400):%Y-%m-%dT%H:%M:%SZ}"
    for day in range(2400)
]
_LAST_NAMES = ("Andersson", "Dubois", "Fernández", "Kowalski", "Müller", "Okafor", "Tanaka")
_FIRST_NAMES = ("Amina", "Anders", "Chloé", "Dmitri", "Fatima", "Katarzyna", "Linus", "Søren")
_PLACES = (
    ("Aarhus", "Midtjylland", "8000", "Denmark"),
    ("Boston", "Massachusetts", "02108", "United States"),
    ("Leeds", "West Yorkshire", "LS1 1BA", "United Kingdom"),
    ("München", "Bayern", "80331", "Germany"),
)
_WORDS = ("blue circle", "early team", "gold trial", "new 'circle'", "public, team")
# As SendGrid orders them; the custom fields stand before the last three.
_CSV_COLUMNS = (
    *("email", "first_name", "last_name", "address_line_1", "address_line_2", "city"),
    *("state_province_region", "postal_code", "country", "alternate_emails", "phone_number"),
    *("whatsapp", "line", "facebook", "unique_name", "created_at", "updated_at", "contact_id"),
    *("phone_number_id", "external_id", "anonymous_id"),
)
_LAST_COLUMNS = 3


class Export(NamedTuple):
    """An export on disk.

    Attributes:
        folder: Where its parts and its description lie.
        contacts: How many it has.
        fields: How many custom fields the account has.
        parts: Its gzipped files.
        plain_bytes: Their size when gunzipped.
    """

    folder: Path
    contacts: int
    fields: int
    parts: list[Path]
    plain_bytes: int

    @property
    def gzip_bytes(self) -> int:
        """Their size as they are."""
        return sum(part.stat().st_size for part in self.parts)


def export(
    data: Path, contacts: int, *, fields: int = 5, file_type: str = "json", parts: int = 1
) -> Export:
    """Take an export from the folder of data, or make it.

    Args:
        data: The folder.
        contacts: How many contacts it is to have.
        fields: How many custom fields the account has; a contact fills ten of them at most.
        file_type: `json` or `csv`.
        parts: How many files it is to be in.

    Returns:
        The export.
    """
    folder = data / f"{file_type}-{contacts}-{fields}-{parts}"
    if not (folder / EXPORT).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"Making {folder.name} …", flush=True)
        _make(folder, contacts, fields, file_type, parts)
    about = json.loads((folder / EXPORT).read_text())
    return Export(folder, contacts, fields, sorted(folder.glob("*.gz")), about["plain_bytes"])


def _make(folder: Path, contacts: int, fields: int, file_type: str, parts: int) -> None:
    definitions = [
        {"id": f"e{number}_{_TYPES[number % 3][0]}", "name": name, "field_type": _TYPES[number % 3]}
        for number, name in enumerate(_field_names(fields))
    ]
    (folder / FIELDS).write_text(json.dumps({"custom_fields": definitions}))
    plain_bytes = 0
    for part in range(parts):
        numbers = range(contacts * part // parts, contacts * (part + 1) // parts)
        lines = _csv if file_type == "csv" else _json_lines
        gzip = zlib.compressobj(level=6, wbits=31)
        with (folder / f"part-{part:03}.gz").open("wb") as file:
            for block in lines(numbers, _field_names(fields)):
                plain_bytes += len(block)
                file.write(gzip.compress(block))
            file.write(gzip.flush())
    (folder / EXPORT).write_text(json.dumps({"contacts": contacts, "plain_bytes": plain_bytes}))


def _field_names(fields: int) -> list[str]:
    return [f"{_TYPES[number % 3]}_field_{number}" for number in range(fields)]


def _json_lines(numbers: range, names: list[str]) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder(order="sorted")
    contacts = _contacts(numbers, names)
    while block := list(islice(contacts, _CONTACTS_AT_ONCE)):
        yield encoder.encode_lines(block)


def _csv(numbers: range, names: list[str]) -> Iterator[bytes]:
    columns = [*_CSV_COLUMNS[:-_LAST_COLUMNS], *names, *_CSV_COLUMNS[-_LAST_COLUMNS:]]
    yield _row([name if name in names else name.upper() for name in columns])
    contacts = _contacts(numbers, names)
    while block := list(islice(contacts, _CONTACTS_AT_ONCE)):
        yield b"".join(
            _row(
                [
                    contact.get(name, "") or contact["custom_fields"].get(name, "")
                    for name in columns
                ]
            )
            for contact in block
        )


def _row(cells: Iterable[object]) -> bytes:
    """As SendGrid does it: quotes, but not around what is empty."""
    texts = (json.dumps(cell) if isinstance(cell, list) else str(cell) for cell in cells)
    quoted = ('"' + text.replace('"', '""') + '"' if text else "" for text in texts)
    return (",".join(quoted) + "\n").encode()


def _contacts(numbers: range, names: list[str]) -> Iterator[dict[str, Any]]:
    """Contacts that have most of what they can have: 650 bytes with five custom fields."""
    chance = random.Random(numbers.start)
    for number in numbers:
        known = chance.randbytes(24)
        name, days = known[:16].hex(), known[16] * 8 + known[17] % 8
        contact: dict[str, Any] = {
            "contact_id": f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}",
            "email": f"contact.{number}@news.mail.example.com",
            "first_name": _FIRST_NAMES[known[18] % 8],
            "last_name": _LAST_NAMES[known[19] % 7],
            "external_id": f"{number:010}",
            "unique_name": f"member.{number}",
            "phone_number": f"+45 {number:08}",
            "created_at": _TIMES[days],
            "updated_at": _TIMES[days + known[20]],
            "custom_fields": _custom(names, known),
        }
        if known[21] % 8:
            city, region, code, country = _PLACES[known[22] % 4]
            contact["address_line_1"] = f"{known[23]} Rue de la Paix"
            contact["city"] = city
            contact["state_province_region"] = region
            contact["postal_code"] = code
            contact["country"] = country
        if known[21] % 2:
            contact["whatsapp"] = f"+4530{number:08}"
            contact["address_line_2"] = f"{known[22]}. floor"
        if known[22] % 8 == 0:
            contact["alternate_emails"] = [f"{turn}.{number}@example.org" for turn in range(2)]
            contact["facebook"] = f"fb.{number}"
        yield contact


def _custom(names: list[str], known: bytes) -> dict[str, str | int]:
    """Values for ten of the fields, or for all of them if they are fewer."""
    turns = min(len(names), _FILLED_FIELDS)
    custom: dict[str, str | int] = {}
    for turn in range(turns):
        field = (known[0] << 8 | known[1]) + turn * (len(names) // turns)
        name, drawn = names[field % len(names)], known[2 + turn] << 3
        if name.startswith("Text"):
            custom[name] = _WORDS[drawn % 5]
        else:
            custom[name] = drawn if name.startswith("Number") else _TIMES[drawn]
    return custom

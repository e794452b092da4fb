"""Generated exports, cached on disk: the same contacts as JSON and as CSV."""

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

METADATA_FILE = "metadata.json"
FIELD_DEFINITIONS_FILE = "field_definitions.json"

_FIELD_TYPES = ("Text", "Number", "Date")
_MAX_FILLED_FIELDS = 10
_CONTACTS_PER_BLOCK = 1000
_EPOCH = datetime(2019, 1, 1, tzinfo=timezone.utc)
_TIMESTAMPS = [
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
_TEXT_VALUES = ("blue circle", "early team", "gold trial", "new 'circle'", "public, team")
# In SendGrid's order; custom fields precede the last three columns.
_CSV_COLUMNS = (
    *("email", "first_name", "last_name", "address_line_1", "address_line_2", "city"),
    *("state_province_region", "postal_code", "country", "alternate_emails", "phone_number"),
    *("whatsapp", "line", "facebook", "unique_name", "created_at", "updated_at", "contact_id"),
    *("phone_number_id", "external_id", "anonymous_id"),
)
_COLUMNS_AFTER_CUSTOM_FIELDS = 3


class CachedExport(NamedTuple):
    """An export on disk.

    Attributes:
        directory: Directory of its parts and metadata.
        file_type: `json` or `csv`.
        contacts: Number of contacts.
        custom_fields: Number of custom fields in the account.
        parts: The gzipped part files.
        uncompressed_bytes: Total size of the parts after gunzip.
    """

    directory: Path
    file_type: str
    contacts: int
    custom_fields: int
    parts: tuple[Path, ...]
    uncompressed_bytes: int

    @property
    def compressed_bytes(self) -> int:
        """Total size of the part files."""
        return sum(part.stat().st_size for part in self.parts)


def get_export(
    data_dir: Path,
    contacts: int,
    *,
    custom_fields: int = 5,
    file_type: str = "json",
    parts: int = 1,
) -> CachedExport:
    """Return a cached export, generating it first if necessary.

    Args:
        data_dir: Directory of the cached exports.
        contacts: Number of contacts.
        custom_fields: Number of custom fields in the account; a contact has values for at most
            ten of them.
        file_type: `json` or `csv`.
        parts: Number of part files.

    Returns:
        The export.
    """
    directory = data_dir / f"{file_type}-{contacts}-{custom_fields}-{parts}"
    metadata_file = directory / METADATA_FILE
    if not metadata_file.exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        print(f"Generating export {directory.name} ...", flush=True)
        _generate(directory, contacts, custom_fields, file_type, parts)
    metadata = json.loads(metadata_file.read_text())
    part_files = tuple(sorted(directory.glob("*.gz")))
    return CachedExport(
        directory, file_type, contacts, custom_fields, part_files, metadata["uncompressed_bytes"]
    )


def _generate(
    directory: Path, contacts: int, custom_fields: int, file_type: str, parts: int
) -> None:
    field_names = [f"{_field_type(index)}_field_{index}" for index in range(custom_fields)]
    definitions = [
        {"id": f"e{index}_{_field_type(index)[0]}", "name": name, "field_type": _field_type(index)}
        for index, name in enumerate(field_names)
    ]
    (directory / FIELD_DEFINITIONS_FILE).write_text(json.dumps({"custom_fields": definitions}))
    iter_blocks = _iter_csv_blocks if file_type == "csv" else _iter_json_blocks
    uncompressed_bytes = 0
    for part in range(parts):
        numbers = range(contacts * part // parts, contacts * (part + 1) // parts)
        gzip = zlib.compressobj(level=6, wbits=31)
        with (directory / f"part-{part:03}.gz").open("wb") as file:
            for block in iter_blocks(numbers, field_names):
                uncompressed_bytes += len(block)
                file.write(gzip.compress(block))
            file.write(gzip.flush())
    # Written last: it marks the export as complete.
    metadata = {"contacts": contacts, "uncompressed_bytes": uncompressed_bytes}
    (directory / METADATA_FILE).write_text(json.dumps(metadata))


def _field_type(index: int) -> str:
    return _FIELD_TYPES[index % len(_FIELD_TYPES)]


def _iter_json_blocks(numbers: range, field_names: list[str]) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder(order="sorted")
    contacts = _iter_contacts(numbers, field_names)
    while block := list(islice(contacts, _CONTACTS_PER_BLOCK)):
        yield encoder.encode_lines(block)


def _iter_csv_blocks(numbers: range, field_names: list[str]) -> Iterator[bytes]:
    columns = [
        *_CSV_COLUMNS[:-_COLUMNS_AFTER_CUSTOM_FIELDS],
        *field_names,
        *_CSV_COLUMNS[-_COLUMNS_AFTER_CUSTOM_FIELDS:],
    ]
    yield _csv_row([name if name in field_names else name.upper() for name in columns])
    contacts = _iter_contacts(numbers, field_names)
    while block := list(islice(contacts, _CONTACTS_PER_BLOCK)):
        yield b"".join(
            _csv_row(
                [
                    contact.get(name, "") or contact["custom_fields"].get(name, "")
                    for name in columns
                ]
            )
            for contact in block
        )


def _csv_row(cells: Iterable[object]) -> bytes:
    """Format a row as SendGrid does: every cell quoted, except empty ones."""
    texts = (json.dumps(cell) if isinstance(cell, list) else str(cell) for cell in cells)
    quoted = ('"' + text.replace('"', '""') + '"' if text else "" for text in texts)
    return (",".join(quoted) + "\n").encode()


def _iter_contacts(numbers: range, field_names: list[str]) -> Iterator[dict[str, Any]]:
    """Generate contacts with most fields filled: 650 bytes each with five custom fields."""
    generator = random.Random(numbers.start)
    for number in numbers:
        seed = generator.randbytes(24)
        digits, day = seed[:16].hex(), seed[16] * 8 + seed[17] % 8
        contact: dict[str, Any] = {
            "contact_id": "-".join(
                (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
            ),
            "email": f"contact.{number}@news.mail.example.com",
            "first_name": _FIRST_NAMES[seed[18] % 8],
            "last_name": _LAST_NAMES[seed[19] % 7],
            "external_id": f"{number:010}",
            "unique_name": f"member.{number}",
            "phone_number": f"+45 {number:08}",
            "created_at": _TIMESTAMPS[day],
            "updated_at": _TIMESTAMPS[day + seed[20]],
            "custom_fields": _custom_field_values(field_names, seed),
        }
        if seed[21] % 8:
            city, region, code, country = _PLACES[seed[22] % 4]
            contact["address_line_1"] = f"{seed[23]} Rue de la Paix"
            contact["city"] = city
            contact["state_province_region"] = region
            contact["postal_code"] = code
            contact["country"] = country
        if seed[21] % 2:
            contact["whatsapp"] = f"+4530{number:08}"
            contact["address_line_2"] = f"{seed[22]}. floor"
        if seed[22] % 8 == 0:
            contact["alternate_emails"] = [f"{index}.{number}@example.org" for index in range(2)]
            contact["facebook"] = f"fb.{number}"
        yield contact


def _custom_field_values(field_names: list[str], seed: bytes) -> dict[str, str | int]:
    """Return values for ten custom fields, or for all of them if there are fewer."""
    filled = min(len(field_names), _MAX_FILLED_FIELDS)
    values: dict[str, str | int] = {}
    for index in range(filled):
        field = (seed[0] << 8 | seed[1]) + index * (len(field_names) // filled)
        name, value = field_names[field % len(field_names)], seed[2 + index] << 3
        if name.startswith("Text"):
            values[name] = _TEXT_VALUES[value % 5]
        else:
            values[name] = value if name.startswith("Number") else _TIMESTAMPS[value]
    return values

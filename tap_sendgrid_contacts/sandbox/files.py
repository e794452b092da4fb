r"""The files of an export: the account's contacts, spelled as SendGrid spells them.

SEEN: the CSV header and its order, non-empty cells quoted and empty ones bare, `\n` ends,
no BOM; newline-delimited JSON with sorted lower-case keys and empty fields left out.
GUESS: the forms of numbers, dates and several alternate emails, and what an export without
contacts holds; so those are options here, or vary from contact to contact.
"""

from __future__ import annotations

import json
import zlib
from codecs import BOM_UTF8
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import md5
from itertools import islice, pairwise
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tap_sendgrid_contacts.sandbox.account import Account
    from tap_sendgrid_contacts.sandbox.contacts import Contact
    from tap_sendgrid_contacts.sandbox.fields import Field

_CSV_HEAD = (
    *("EMAIL", "FIRST_NAME", "LAST_NAME", "ADDRESS_LINE_1", "ADDRESS_LINE_2", "CITY"),
    *("STATE_PROVINCE_REGION", "POSTAL_CODE", "COUNTRY", "ALTERNATE_EMAILS", "PHONE_NUMBER"),
    *("WHATSAPP", "LINE", "FACEBOOK", "UNIQUE_NAME", "CREATED_AT", "UPDATED_AT", "CONTACT_ID"),
)
_CSV_TAIL = ("PHONE_NUMBER_ID", "EXTERNAL_ID", "ANONYMOUS_ID")
_GO_ESCAPES = "<>&\u2028\u2029"
_SEPARATORS = {"comma": ",", "semicolon": ";", "space": " "}
_UNLISTED_FIELD = "not_in_the_definitions"
_LINES_AT_ONCE = 500
_MB = 1_000_000


@dataclass(frozen=True)
class Form:
    """How an account's exports look, where SendGrid's ways are unknown or may change."""

    parts: int = 1
    gzip_members: int = 1
    compression: Literal["encoded", "plain-gzip", "none"] = "encoded"
    number_format: Literal["number", "text"] = "number"
    date_format: Literal["rfc3339", "iso", "us"] = "rfc3339"
    alternate_emails: Literal["json", "comma", "semicolon", "space"] = "json"
    header_case: Literal["original", "upper"] = "original"
    duplicates: Literal["drop", "keep"] = "drop"
    bom: bool = False


class Request(NamedTuple):
    """What a client may ask of an export."""

    file_type: str
    list_ids: tuple[str, ...]
    segment_ids: tuple[str, ...]
    max_file_size: int


class Part(NamedTuple):
    """A file on disk, to be served as it is."""

    path: Path
    size: int
    etag: str


class Files(NamedTuple):
    """The parts of an export, and how many contacts are in them."""

    parts: list[Part]
    contacts: int


class FileWriter:
    """Writes an account's exports.

    Args:
        account: whose contacts
        form: how to spell them
        folder: where the files go
    """

    def __init__(self, account: Account, form: Form, folder: Path) -> None:
        self._account = account
        self._form = form
        self._folder = folder
        self._stopped = Event()

    def stop(self) -> None:
        """Give up what is being written."""
        self._stopped.set()

    def write(self, request: Request, faults: frozenset[str], name: str) -> Files:
        """Write the files of an export.

        Args:
            request: what is asked for
            faults: what is to be wrong with the files
            name: what their names start with

        Returns:
            The files; their bytes depend on the request and the faults alone.
        """
        repeats = self._form.duplicates == "keep"
        groups = request.list_ids, request.segment_ids
        total = self._account.count(*groups, repeats=repeats)
        contacts = self._account.members(*groups, repeats=repeats)
        encoder = (
            CsvRows(self._form, self._account.fields, faults)
            if request.file_type == "csv"
            else JsonLines(self._form)
        )
        lines: Iterator[bytes] = map(encoder.line, contacts)
        if faults:
            lines = _spoilt(contacts, total // 2, encoder, self._account.fields, faults)

        parts: list[Part] = []
        bounds = [total * part // self._form.parts for part in range(self._form.parts + 1)]
        for start, end in pairwise(bounds):
            part = self._open(name, len(parts), encoder.header, end - start)
            for line in islice(lines, end - start):
                if self._stopped.is_set():
                    raise InterruptedError
                if part.size + len(line) > request.max_file_size * _MB and part.size:
                    parts.append(part.close())
                    part = self._open(name, len(parts), encoder.header, end - start)
                part.write(line)
            parts.append(part.close())
        if faults & {"truncated-gzip", "bad-crc"}:
            parts[-1] = _damaged(parts[-1], faults)
        return Files(parts, total)

    def _open(self, name: str, number: int, header: bytes, lines: int) -> _PartFile:
        members = self._form.gzip_members
        part = _PartFile(
            (self._folder / f"{name}_{number}").open("wb"),
            lines_a_member=-(-lines // members) if members > 1 else lines + 1,
            compressed=self._form.compression != "none",
        )
        part.write((BOM_UTF8 if self._form.bom else b"") + header)
        return part


class _PartFile:
    """A part being written: lines in, gzip members out."""

    def __init__(self, file: BinaryIO, *, lines_a_member: int, compressed: bool) -> None:
        self.size = 0
        self._file = file
        self._lines_a_member = lines_a_member
        self._lines = 0
        self._waiting: list[bytes] = []
        self._gzip = _gzip() if compressed else None

    def write(self, line: bytes) -> None:
        self.size += len(line)
        self._lines += 1
        if self._gzip and self._lines > self._lines_a_member:
            # A member may end anywhere, so it ends where it hurts: within a line.
            middle = len(line) // 2
            self._waiting.append(line[:middle])
            self._flush(last=True)
            self._gzip, self._lines, line = _gzip(), 0, line[middle:]
        self._waiting.append(line)
        if len(self._waiting) == _LINES_AT_ONCE:
            self._flush()

    def close(self) -> Part:
        self._flush(last=True)
        self._file.close()
        return _part(Path(self._file.name))

    def _flush(self, *, last: bool = False) -> None:
        data = b"".join(self._waiting)
        self._waiting.clear()
        if self._gzip:
            data = self._gzip.compress(data) + (self._gzip.flush() if last else b"")
        self._file.write(data)


def _gzip() -> zlib._Compress:
    return zlib.compressobj(level=1, wbits=31)


def _part(path: Path) -> Part:
    with path.open("rb") as file:
        digest = md5(usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
    return Part(path, path.stat().st_size, f'"{digest.hexdigest()}"')


class JsonLines:
    """One JSON object a line."""

    header = b""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._encode = _json_encoder(ensure_ascii=False)
        self._encode_ascii = _json_encoder(ensure_ascii=True)

    def line(self, contact: Contact) -> bytes:
        """One contact, with its line end."""
        values = contact.values
        document: dict[str, object] = {
            **values,
            "created_at": _time(values["created_at"]),
            "updated_at": _time(values["updated_at"]),
        }
        if contact.custom:
            document["custom_fields"] = {
                name: value if isinstance(value, str) else self._custom(value)
                for name, value in contact.custom.items()
            }
        if contact.edge_case is None:
            return self._encode(document).encode() + b"\n"
        return self._hard_line(document, contact.edge_case)

    def _hard_line(self, document: dict[str, object], case: int) -> bytes:
        """The same contact in one of the other ways that JSON and SendGrid leave open."""
        for column, empty in (
            ("custom_fields", ({}, None)),
            ("alternate_emails", ([], None)),
            ("line", ("", None)),
        ):
            if case % 3:
                document.setdefault(column, empty[case % 3 - 1])
        line = (self._encode if case % 4 else self._encode_ascii)(document)
        line = line.replace(":100000.0", ":1e5")
        if case % 4 == 1:
            for character in _GO_ESCAPES:
                line = line.replace(character, f"\\u{ord(character):04x}")
        # The escape of a lone surrogate happens to be the same in Python and in JSON.
        return line.encode(errors="backslashreplace") + b"\n"

    def _custom(self, value: float | datetime) -> str | float:
        if isinstance(value, datetime):
            return _date(value, self._form.date_format)
        return _number(value) if self._form.number_format == "text" else value


class CsvRows:
    """Rows as SendGrid writes them: cells in quotes, unless they are empty."""

    def __init__(self, form: Form, fields: list[Field], faults: frozenset[str]) -> None:
        self._form = form
        head, tail = list(_CSV_HEAD), list(_CSV_TAIL)
        custom = [field.name for field in fields]
        if "unknown-field" in faults:
            custom.append(_UNLISTED_FIELD)
        if "no-contact-id" in faults:
            head.remove("CONTACT_ID")
        if "duplicate-header" in faults:
            tail.append("Email")
        self._reserved = {
            name.lower(): number
            for number, name in enumerate(head + [""] * len(custom) + list(_CSV_TAIL))
        }
        self._custom = {name: number for number, name in enumerate(custom, len(head))}
        if form.header_case == "upper":
            custom = [name.upper() for name in custom]
        self._empty = [""] * len(head + custom + tail)
        self.header = (",".join(map(_quoted, head + custom + tail)) + "\n").encode()

    def line(self, contact: Contact) -> bytes:
        """One contact, with its line end."""
        cells = self._empty.copy()
        for column, value in contact.values.items():
            cells[self._reserved[column]] = _quoted(
                value if isinstance(value, str) else self._reserved_text(value)
            )
        for column, custom in contact.custom.items():
            cells[self._custom[column]] = _quoted(
                custom if isinstance(custom, str) else self._custom_text(custom)
            )
        return (",".join(cells) + "\n").encode(errors="ignore")

    def _reserved_text(self, value: list[str] | datetime) -> str:
        if isinstance(value, datetime):
            return _time(value)
        if self._form.alternate_emails == "json":
            return json.dumps(value, separators=(",", ":"))
        return _SEPARATORS[self._form.alternate_emails].join(value)

    def _custom_text(self, value: float | datetime) -> str:
        if isinstance(value, datetime):
            return _date(value, self._form.date_format)
        return _number(value)


def _json_encoder(*, ensure_ascii: bool) -> Callable[[object], str]:
    return json.JSONEncoder(ensure_ascii=ensure_ascii, sort_keys=True, separators=(",", ":")).encode


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _time(value: object) -> str:
    return str(value).replace(" ", "T", 1)[:19] + "Z"


@cache
def _date(value: datetime, form: str) -> str:
    day = value.date().isoformat()
    if form == "us":
        return f"{day[5:7]}/{day[8:]}/{day[:4]}"
    return day if form == "iso" else f"{day}T00:00:00Z"


def _number(value: float) -> str:
    return "1e5" if repr(value) == "100000.0" else repr(value)


def _spoilt(
    contacts: Iterator[Contact],
    middle: int,
    encoder: JsonLines | CsvRows,
    fields: list[Field],
    faults: frozenset[str],
) -> Iterator[bytes]:
    """The lines of the contacts, with what is to be wrong with them."""
    wrong = {field.type: field.name for field in reversed(fields)}
    for number, contact in enumerate(contacts):
        if "unknown-field" in faults:
            contact.custom[_UNLISTED_FIELD] = "surprise"
        if "no-contact-id" in faults:
            contact.values.pop("contact_id", None)
        if number != middle:
            yield encoder.line(contact)
            continue
        for fault, kind, text in (
            ("bad-number", "Number", "twelve"),
            ("bad-date", "Date", "some day"),
        ):
            if fault in faults and kind in wrong:
                contact.custom[wrong[kind]] = text
        line = encoder.line(contact)
        if "bad-line" in faults:
            line = b'"broken"line",' + line
        if "bad-width" in faults:
            line = line[:-1] + b',"one too many"\n'
        if "invalid-utf8" in faults:
            head, quote, tail = line.rpartition(b'"')
            line = head + "é".encode("latin-1") + quote + tail
        yield line


def _damaged(part: Part, faults: frozenset[str]) -> Part:
    """The part, with what is to be wrong with its gzip stream."""
    data = bytearray(part.path.read_bytes())
    if "truncated-gzip" in faults:
        del data[len(data) * 2 // 3 :]
    if "bad-crc" in faults:
        data[-8] ^= 1
    part.path.write_bytes(data)
    return _part(part.path)

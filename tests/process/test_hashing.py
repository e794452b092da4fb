"""`hash_columns`: no output has the plain text, and the hashes are those of any other HMAC."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tap_sendgrid_contacts.output.formats import FORMATS
from tests.batch_files import records_of
from tests.harness import both_file_types, incremental

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Sandbox, Tap, TapRun

KEY = "a key of some length, \N{GREEK SMALL LETTER ALPHA}"
COLUMNS = ["email", "alternate_emails", "phone_number", "unique_name", "custom_company_name"]
HASHING: dict[str, Any] = {"hash_columns": COLUMNS, "hash_key": KEY}


@pytest.fixture
def sandbox(start_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return start_sandbox("--contacts", "100")


def hashed(value: Any) -> Any:  # noqa: ANN401 - any value of a record
    if isinstance(value, list):
        return [hashed(each) for each in value]
    return value and hmac.new(KEY.encode(), value.encode(), hashlib.sha256).hexdigest()


def expected(plain: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: hashed(value) if name in COLUMNS else value for name, value in record.items()}
        for record in plain
    ]


def addresses_of(plain: list[dict[str, Any]]) -> set[str]:
    """Return all addresses, which no other column has."""
    values = [record[name] for record in plain for name in ("email", "alternate_emails")]
    lists = [value if isinstance(value, list) else [value] for value in values if value]
    return {text for texts in lists for text in texts}


def written_by(run: TapRun) -> bytes:
    """Return every byte that a run wrote."""
    files = [Path(urlsplit(url).path) for m in run.of_type("BATCH") for url in m["manifest"]]
    return b"".join([run.out, run.log.encode(), *(file.read_bytes() for file in files)])


@both_file_types
def test_records(sandbox: Sandbox, tap: Tap, file_type: str) -> None:
    plain = tap(sandbox, file_type=file_type).records
    run = tap(sandbox, file_type=file_type, **HASHING)
    assert run.records == expected(plain)
    assert any(record["alternate_emails"] for record in run.records)
    written = written_by(run)
    assert not [text for text in addresses_of(plain) if text.encode() in written]


@pytest.mark.parametrize(
    "settings",
    [
        {"stream_maps": {"contacts": {"seen": "email"}}},
        {"separate_exports": True},
        *(
            {"batch_config": {"encoding": {"format": name, "compression": "none"}}}
            for name in FORMATS
        ),
    ],
    ids=["stream maps", "separate exports", *FORMATS],
)
@both_file_types
def test_no_output_has_plain_text(
    sandbox: Sandbox, tap: Tap, file_type: str, settings: dict[str, Any]
) -> None:
    plain = tap(sandbox, file_type=file_type).records
    emails = {hashed(record["email"]) for record in plain if record["email"]}
    run = tap(sandbox, file_type=file_type, **HASHING, **settings)
    written = written_by(run)
    assert not [text for text in addresses_of(plain) if text.encode() in written]
    in_files = itertools.chain.from_iterable(map(records_of, run.of_type("BATCH")))
    records = [*run.records, *in_files]
    seen = {record["email"] for record in records} - {None}
    # Not every contact is on a list.
    assert seen and seen <= emails if "separate_exports" in settings else seen == emails
    if "stream_maps" in settings:
        assert all(record["seen"] == record["email"] for record in records)


def test_incremental(sandbox: Sandbox, tap: Tap) -> None:
    catalog = incremental(tap.discover(sandbox))
    plain = tap(sandbox, catalog=catalog).records
    assert tap(sandbox, catalog=catalog, **HASHING).records == expected(plain)


def test_column_that_cannot_be_hashed(sandbox: Sandbox, tap: Tap) -> None:
    # One of each kind: tests/unit has all of them.
    run = tap(sandbox, hash_columns=["created_at"], hash_key=KEY, code=1)
    assert "created_at is of type date" in run.error
    assert run.records == []
    assert sandbox.exports_created == 0


def test_another_key_needs_a_new_export(sandbox: Sandbox, tap: Tap) -> None:
    state = tap(sandbox, **HASHING).states[1]
    assert KEY not in json.dumps(state)
    run = tap(sandbox, state=state, hash_columns=COLUMNS, hash_key="another")
    assert "hash_columns changed since the last run; starting a new export" in run.log

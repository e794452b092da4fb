"""The sandbox over HTTP; its files are read with the standard library only."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

import pytest
import requests
from click.testing import CliRunner

from sendgrid_sandbox.account import Account
from sendgrid_sandbox.cli import main
from sendgrid_sandbox.contacts import GeneratedContact
from sendgrid_sandbox.encoders import CsvEncoder, JsonlEncoder
from sendgrid_sandbox.faults import BY_NAME
from sendgrid_sandbox.fields import Field
from sendgrid_sandbox.files import ExportWriter
from sendgrid_sandbox.formats import format_number
from sendgrid_sandbox.settings import FileFormat
from sendgrid_sandbox.spec import ExportSpec, parse_export_spec
from sendgrid_sandbox.values import EDGE_CASE_DATES, EDGE_CASE_NUMBERS, EDGE_CASE_TEXTS
from tests.harness import SANDBOX, wait_until
from tests.sandbox_client import (
    EXPORTS,
    TIMEOUT,
    SandboxClient,
    download,
    get_raw,
    serve,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sendgrid_sandbox.formats import DateFormat


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxClient]:
    with serve("--contacts", 2000, "--custom-fields", 17) as served:
        yield served


def expected_record(contact: GeneratedContact) -> dict[str, Any]:
    """Return the JSON record of a contact."""

    def to_json(value: object) -> object:
        return f"{value.isoformat()[:19]}Z" if isinstance(value, datetime) else value

    record: dict[str, Any] = {name: to_json(value) for name, value in contact.values.items()}
    record["custom_fields"] = {name: to_json(value) for name, value in contact.custom.items()}
    return record


def read_json(data: bytes) -> list[dict[str, Any]]:
    return [drop_empty(json.loads(line)) for line in data.split(b"\n")[:-1]]


def drop_empty(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record without empty values, however they are written."""
    values = {key: value for key, value in record.items() if value not in ("", None, [], {})}
    return {"custom_fields": {}, **values}


def parse_csv(data: bytes) -> list[list[str]]:
    # Before Python 3.11 the module rejects NUL.
    text = data.decode().replace("\0", "␀")
    return [
        [cell.replace("␀", "\0") for cell in row]
        for row in csv.reader(io.StringIO(text, newline=""), strict=True)
    ]


def read_csv(data: bytes, account: Account) -> list[dict[str, Any]]:
    head, *rows = parse_csv(data)
    types = {field.name: field.type for field in account.fields}
    records = []
    for row in rows:
        record: dict[str, Any] = {"custom_fields": {}}
        for name, text in zip(head, row, strict=True):
            is_json = name == "ALTERNATE_EMAILS" or types.get(name) == "Number"
            if text:
                values = record["custom_fields"] if name in types else record
                key = name if name in types else name.lower()
                values[key] = json.loads(text) if is_json else text
        records.append(record)
    return records


def expected_csv_record(contact: GeneratedContact) -> dict[str, Any]:
    """Return the CSV record of a contact: lone surrogates cannot be encoded in UTF-8."""

    def encodable(values: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value.encode(errors="ignore").decode() if isinstance(value, str) else value
            for key, value in values.items()
            if value != "\ud800"
        }

    record = encodable(expected_record(contact))
    return {**record, "custom_fields": encodable(record["custom_fields"])}


def test_serve(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*SANDBOX, "serve", "--contacts", "30"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout
        ready = re.fullmatch(
            r"sandbox ready: (http://127\.0\.0\.1:\d+) api_key=(SG\.\S+)\n",
            process.stdout.readline(),
        )
        assert ready
        groups = {process.stdout.readline().split(" ", 2)[1] for _ in range(8)}
        with SandboxClient(ready[1], ready[2], []) as sandbox:
            assert len(read_json(sandbox.parts(file_type="json")[0])) == 30
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=TIMEOUT)
    account = Account(30)
    assert groups == {each.id for each in (*account.lists, *account.segments)}
    assert process.returncode == 0
    assert "GET /exports/" in log
    assert "Traceback" not in log
    assert not list(tmp_path.iterdir())


def test_export_flow() -> None:
    with serve("--contacts", 600, "--custom-fields", 17, "--pending-polls", 2) as sandbox:
        response = sandbox.post(file_type="json")
        assert response.status_code == 202
        assert response.json()["_metadata"]["self"].endswith(response.json()["id"])
        pending = [sandbox.status(response.json()["id"]) for _ in range(2)]
        ready = sandbox.status(response.json()["id"])
        [exported] = sandbox.get(EXPORTS).json()["result"]
        [url] = ready["urls"]
        records = read_json(download(url))
        assert "X-Amz-Signature" not in sandbox.log
        assert f'POST {EXPORTS} 202 {len(response.content)} {{"file_type": "json"}}' in sandbox.log
        # A request is logged once its response is sent.
        wait_until(lambda: ".json.gzip?… 200 " in sandbox.log)

    assert [status["status"] for status in pending] == ["pending", "pending"]
    assert not any(status.get("urls") for status in pending)
    assert ready["status"] == "ready"
    assert ready["contact_count"] == 600
    created, expires = (
        datetime.strptime(ready[key], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        for key in ("created_at", "expires_at")
    )
    assert (expires - created).total_seconds() == 12 * 3600
    assert abs(datetime.now(timezone.utc) - created).total_seconds() < 60
    assert (exported["id"], exported["status"]) == (ready["id"], "ready")
    assert records == list(map(expected_record, Account(600, 17)))


def test_csv_matches_json(sandbox: SandboxClient) -> None:
    account = Account(2000, 17)
    [data] = sandbox.parts()
    header = data.partition(b"\n")[0].decode()
    assert header.startswith('"EMAIL","FIRST_NAME","LAST_NAME","ADDRESS_LINE_1",')
    assert header.endswith(',"PHONE_NUMBER_ID","EXTERNAL_ID","ANONYMOUS_ID"')
    assert '"CONTACT_ID","company_name","Num_Orders",' in header
    assert read_csv(data, account) == list(map(expected_csv_record, account))


def test_edge_case_values() -> None:
    account = Account(1000, 17)
    seen = {
        repr(value)
        for contact in account
        for value in (*contact.values.values(), *contact.custom.values())
    }
    pools = (*EDGE_CASE_TEXTS, *EDGE_CASE_NUMBERS, *EDGE_CASE_DATES)
    assert {repr(value) for value in pools} <= seen
    assert max(len(field.name) for field in account.fields) == 100
    assert len({field.name.lower() for field in Account(1, 500).fields}) == 500
    text = json.dumps([expected_record(contact) for contact in Account(1000, edge_cases=False)])
    assert "\\n" not in text
    assert all(
        "email" in contact.values or "phone_number_id" in contact.values for contact in account
    )


def test_edge_case_encodings(sandbox: SandboxClient) -> None:
    [data] = sandbox.parts(file_type="json")
    [rows] = sandbox.parts()
    for text in (
        *("\\u003c", "\\u2028", "\u2028", "\\ud83d\\ude00", "😀", "\\ud800", "\\u0000"),
        *('"line":""', '"line":null', '"custom_fields":{}', '"custom_fields":null'),
        *('"alternate_emails":[]', '"alternate_emails":null', ":1e5", ":18446744073709551617"),
    ):
        assert text.encode() in data, text
    for text in (',"1e5",', '""quoted""', "\0", "two\r\nlines", "\u2028", "two\rlines"):
        assert text.encode() in rows, text
    assert b"\xed" not in rows.replace("\ud7ff".encode(), b"")


def test_format_options() -> None:
    options = (
        "--contacts 50 --no-edge-cases --number-format text --date-format us "
        "--alternate-emails comma --header-case upper --bom"
    )
    with serve(*options.split()) as sandbox:
        [data] = sandbox.parts(file_type="json")
        [rows] = sandbox.parts()
    assert data.startswith(b"\xef\xbb\xbf{")
    custom = [json.loads(line).get("custom_fields", {}) for line in data[3:].splitlines()]
    assert {type(values.get("Num_Orders", "")) for values in custom} == {str}
    assert any(re.fullmatch(r"\d\d/\d\d/\d{4}", values.get("dob", "")) for values in custom)
    assert rows.startswith(b'\xef\xbb\xbf"EMAIL"')
    assert b'"COMPANY_NAME"' in rows
    assert re.search(rb'"0\.contact\.\d+@[^",]+,1\.contact', rows)


DATES = {
    "rfc3339": ("0987-06-05T07:08:09Z", "0987-06-05T07:08:09Z"),
    "iso": ("0987-06-05", "0987-06-05T07:08:09Z"),
    "us": ("06/05/0987", "0987-06-05T07:08:09Z"),
    "go": ("0987-06-05 07:08:09 +0000 UTC", "0987-06-05 07:08:09 +0000 UTC"),
    "epoch": (-31007033511, -31007033511),
}


@pytest.mark.parametrize(("date_format", "expected"), DATES.items())
def test_date_formats(date_format: DateFormat, expected: tuple[object, object]) -> None:
    value = datetime(987, 6, 5, 7, 8, 9, tzinfo=timezone.utc)
    times: dict[str, Any] = {"created_at": value, "updated_at": value}
    contact = GeneratedContact(0, None, {"contact_id": "a", **times}, {"dob": value})
    lines, rows = (
        encoder(FileFormat(date_format=date_format), [Field("e1_D", "dob", "Date")], frozenset())
        for encoder in (JsonlEncoder, CsvEncoder)
    )
    date, time = expected
    record = json.loads(lines.encode(contact))
    assert (record["custom_fields"]["dob"], record["updated_at"]) == expected
    [row] = parse_csv(rows.encode(contact))
    assert [cell for cell in row if cell] == [str(time)] * 2 + ["a", str(date)]


def test_numbers_as_text() -> None:
    values: list[float] = [5, 0.5, -1500000, 2**64 + 1, 0, 1e5, 1.5e300]
    texts = ["5", "0.5", "-1500000", "18446744073709551617", "0", "1e5", "1.5e+300"]
    assert list(map(format_number, values)) == texts


def test_options_in_docs() -> None:
    docs = (Path(__file__).parents[1] / "sandbox" / "README.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in docs.splitlines()]
    documented = {
        row[0].partition("`")[2].partition("`")[0]: row[1].strip("`")
        for row in rows
        if row and row[0].startswith("`--")
    }
    options = {}
    for option in main.commands["serve"].params:
        if option.name not in ("host", "port", "api_key", "faults", "quiet"):
            default = str(option.default)
            words = {"True": "on", "False": "off", "None": "off"}
            options[option.opts[0]] = words.get(default, default)
    assert documented == options
    _head, _rule, *sources = (row[3] for row in rows if len(row) == 4)
    assert len(sources) > 20
    assert all(re.match(r"(DOC|SEEN|GUESS)\b", source) for source in sources), sources


def test_files_are_deterministic(tmp_path: Path) -> None:
    with serve("--contacts", 300, "--parts", 3) as sandbox:
        first = [get_raw(url).content for url in sandbox.ready()["urls"]]
        again = [get_raw(url).content for url in sandbox.ready(file_type="csv")["urls"]]
    writer = ExportWriter(Account(300), FileFormat(parts=3), tmp_path)
    later = writer.write(ExportSpec("csv", (), (), 5000), frozenset(), "later").parts
    assert first == again == [part.path.read_bytes() for part in later]
    other, same, default = map(next, map(iter, (Account(seed=1), Account(seed=0), Account())))
    assert other != same == default
    heads = [gzip.decompress(part).partition(b"\n")[0] for part in first]
    assert len(heads) == 3
    assert len({*heads}) == 1


@pytest.mark.parametrize(("form", "lines"), [("header", [1, 1]), ("file", [0, 0]), ("none", [])])
def test_empty_export(
    tmp_path: Path, form: Literal["header", "file", "none"], lines: list[int]
) -> None:
    account = Account(30)
    writer = ExportWriter(account, FileFormat(parts=2, empty_export=form), tmp_path)
    spec = ExportSpec("csv", (account.lists[-1].id,), (), 5000)
    files = writer.write(spec, frozenset(), "csv")
    contents = [gzip.decompress(part.path.read_bytes()) for part in files.parts]
    assert [data.count(b"\n") for data in contents] == lines
    assert files.contact_count == 0


def test_empty_arrays() -> None:
    account = Account(30)
    empty: dict[str, object] = {"list_ids": [], "segment_ids": []}
    assert parse_export_spec(empty, account) == parse_export_spec({}, account)


def test_max_file_size() -> None:
    with serve("--contacts", 5000) as sandbox:
        parts = sandbox.parts(file_type="json", max_file_size=1)
    assert len(parts) > 2
    assert all(len(part) <= 1_000_000 for part in parts)
    assert [record for part in parts for record in read_json(part)] == list(
        map(expected_record, Account(5000))
    )


@pytest.mark.parametrize("compression", ["x-gzip", "gzip", "plain-gzip", "none"])
def test_compression(compression: str) -> None:
    with serve("--compression", compression, "--gzip-members", 3) as sandbox:
        response = get_raw(sandbox.ready(file_type="json")["urls"][0])
    encoding = response.headers.get("Content-Encoding")
    assert encoding == (compression if compression in ("x-gzip", "gzip") else None)
    data = response.content
    if compression != "none":
        member = zlib.decompressobj(wbits=31)
        assert not member.decompress(data).endswith(b"\n")
        assert member.unused_data.startswith(b"\x1f\x8b")
        data = gzip.decompress(data)
    assert read_json(data) == list(map(expected_record, Account()))


def test_days() -> None:
    one, two = ({each.number: each for each in Account(day=day)} for day in (1, 2))
    # These are in docs/sandbox.md.
    assert len(two) == 1010
    assert sum(one[number] != two[number] for number in one.keys() & two.keys()) == 70
    assert (len(one.keys() - two.keys()), len(two.keys() - one.keys())) == (10, 20)
    days = [Account(400, day=day) for day in (1, 2, 3)]
    assert [len(account.fields) for account in days] == [5, 6, 7]
    for before, after in pairwise(days):
        old, new = ({contact.number: contact for contact in account} for account in (before, after))
        kept = old.keys() & new.keys()
        changed = {number for number in kept if old[number] != new[number]}
        cleared = {
            number for number in changed if new[number].values.keys() < old[number].values.keys()
        }
        assert new.keys() - old.keys()
        assert old.keys() - new.keys()
        assert cleared
        assert changed - cleared
        moved = {number for number in kept if updated_at(old[number]) != updated_at(new[number])}
        assert changed == moved
        assert all(
            updated_at(new[number]) > max(map(updated_at, old.values())) for number in changed
        )
        assert all(
            old[number].values["contact_id"] == new[number].values["contact_id"] for number in kept
        )
        assert any(after.fields[-1].name in contact.custom for contact in new.values())
        assert any(
            before.segments[0].contains(number, before.day)
            != after.segments[0].contains(number, after.day)
            for number in kept - changed
        )


def test_field_changes() -> None:
    original, renamed, retyped = (
        Account(300, 500, field_changes=changes) for changes in ("none", "rename", "retype")
    )
    with serve("--custom-fields", 500, "--field-changes", "retype") as sandbox:
        fields = sandbox.get("/v3/marketing/field_definitions").json()["custom_fields"]
    assert [tuple(field.values()) for field in fields] == retyped.fields
    ids, names = (
        [{field[i] for field in each.fields} for each in (original, renamed, retyped)]
        for i in (0, 1)
    )
    assert ids[0] == ids[1]
    assert ids[0].isdisjoint(ids[2])
    assert names[0] == names[2]
    assert names[0].isdisjoint(names[1])
    assert len({name.lower() for name in names[1]}) == 500
    assert max(map(len, names[1])) == 100
    for old, name, new in zip(original.fields, renamed.fields, retyped.fields, strict=True):
        assert old.type == name.type != new.type
    values = {type(value) for contact in retyped for value in contact.custom.values()}
    assert values == {str, int, float, datetime}


def updated_at(contact: GeneratedContact) -> datetime:
    value = contact.values["updated_at"]
    assert isinstance(value, datetime)
    return value


def test_lists_and_segments() -> None:
    account = Account(300, day=2)
    customers, newsletter, *_, nobody = account.lists
    opened = account.segments[0]
    ids = [customers.id, newsletter.id], [opened.id]
    with serve("--contacts", 300, "--day", 2, "--duplicates", "keep") as sandbox:
        page = sandbox.get("/v3/marketing/lists?page_size=3").json()
        rest = sandbox.session.get(page["_metadata"]["next"], timeout=TIMEOUT).json()
        segments = sandbox.get("/v3/marketing/segments/2.0").json()["results"]
        fields = sandbox.get("/v3/marketing/field_definitions").json()
        ready = sandbox.ready(file_type="json", list_ids=ids[0], segment_ids=ids[1])
        records = read_json(download(ready["urls"][0]))
        [nothing] = sandbox.parts(file_type="json", list_ids=[nobody.id])
        [header] = sandbox.parts(list_ids=[nobody.id])
    assert [found["name"] for found in page["result"] + rest["result"]] == [
        group.name for group in account.lists
    ]
    assert "next" not in rest["_metadata"]
    assert segments[0]["contacts_count"] == account.count([], [opened.id])
    assert records == list(map(expected_record, account.members(*ids, repeats=True)))
    assert ready["contact_count"] == len(records) > account.count(*ids) > 100
    assert nothing == b""
    assert len(parse_csv(header)) == 1
    assert [tuple(field.values()) for field in fields["custom_fields"]] == account.fields
    assert {"email", "contact_id"} <= {field["name"] for field in fields["reserved_fields"]}


@pytest.mark.parametrize("options", [(), ("--null-collections",)])
def test_empty_collections(options: tuple[str, ...]) -> None:
    empty: list[object] | None = None if options else []
    with serve("--custom-fields", 0, "--no-audiences", *options) as sandbox:
        fields = sandbox.get("/v3/marketing/field_definitions").json()
        assert fields["custom_fields"] == empty
        assert fields["reserved_fields"]
        assert sandbox.get("/v3/marketing/lists").json()["result"] == empty
        assert sandbox.get("/v3/marketing/segments/2.0").json()["results"] == empty
        assert sandbox.get(EXPORTS).json()["result"] == empty
        assert sandbox.ready()["contact_count"] == 1000
        [export] = sandbox.get(EXPORTS).json()["result"]
        assert export["lists"] == export["segments"] == []


def test_invalid_requests(sandbox: SandboxClient) -> None:
    bare = requests.get(f"{sandbox.url}{EXPORTS}", timeout=TIMEOUT)
    assert (bare.status_code, list(bare.json()["errors"][0])) == (401, ["field", "message"])
    assert sandbox.get(f"{EXPORTS}/none").status_code == 404
    assert sandbox.get("/v3/elsewhere").json()["errors"]
    for body, status in (
        ({"file_type": "xml"}, 400),
        ({"list_ids": "all"}, 400),
        ({"list_ids": ["nobody-knows"]}, 404),
        ({"segment_ids": ["nobody-knows"]}, 404),
        ({"max_file_size": 0}, 400),
        ({"max_file_size": "5"}, 400),
        ({"notifications": {"email": "yes"}}, 400),
        ({"surprise": 1}, 400),
    ):
        response = sandbox.post(**body)
        assert (response.status_code, bool(response.json()["errors"])) == (status, True), body
    assert sandbox.post(notifications={"email": True}).status_code == 202
    sandbox.get(EXPORTS, headers={"on-behalf-of": "sub"})
    assert "on-behalf-of=sub" in sandbox.log


def test_signed_urls() -> None:
    with serve("--url-ttl", 60) as sandbox:
        ready = sandbox.ready()
        [url] = ready["urls"]
        [fresh] = sandbox.status(ready["id"])["urls"]
        assert fresh != url
        assert get_raw(url).status_code == 200
        assert sandbox.session.get(url, timeout=TIMEOUT).status_code == 400
        unsigned = get_raw(url.partition("?")[0])
        assert (unsigned.status_code, b"AccessDenied" in unsigned.content) == (403, True)
        assert get_raw(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 403
        assert get_raw(url.replace("X-Amz-Expires=60", "X-Amz-Expires=90")).status_code == 403
        with mock.patch("sendgrid_sandbox.storage.datetime", wraps=datetime) as clock:
            clock.now.return_value = datetime.now(timezone.utc) + timedelta(seconds=60)
            assert get_raw(url).status_code == 403
            assert get_raw(sandbox.status(ready["id"])["urls"][0]).status_code == 200


def test_ranges(sandbox: SandboxClient) -> None:
    [url] = sandbox.ready()["urls"]
    full = get_raw(url)
    size, etag = len(full.content), full.headers["ETag"]
    assert full.headers["Content-Length"] == str(size)
    assert full.headers["Accept-Ranges"] == "bytes"
    tail = get_raw(url, **{"Range": "bytes=100-", "If-Match": etag})
    assert (tail.status_code, tail.content) == (206, full.content[100:])
    assert tail.headers["Content-Range"] == f"bytes 100-{size - 1}/{size}"
    assert get_raw(url, Range="bytes=5-9").content == full.content[5:10]
    assert get_raw(url, Range=f"bytes={size}-").status_code == 416
    assert get_raw(url, **{"Range": "bytes=5-", "If-Match": '"x"'}).status_code == 412
    assert get_raw(url, **{"Range": "bytes=5-", "If-Range": '"x"'}).content == full.content


def test_run(tmp_path: Path) -> None:
    script = (
        "import os, urllib.request as u; e = os.environ; p = 'TAP_SENDGRID_CONTACTS_API_'; "
        f"r = u.Request(e[p + 'URL'] + '{EXPORTS}', "
        "headers={'Authorization': 'Bearer ' + e[p + 'KEY']}); "
        "print(u.urlopen(r).status); raise SystemExit(7)"
    )
    command = [*SANDBOX, "run", "--quiet", "--api-key", "SG.mine", "--"]
    done = subprocess.run(
        [*command, sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "200\n", "")
    assert subprocess.run([*command, "sh", "-c", "kill -9 $$"], check=False).returncode == 137
    missing = subprocess.run([*command, str(tmp_path / "no")], capture_output=True, check=False)
    assert missing.returncode == 127


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_forwards_signals(number: signal.Signals) -> None:
    script = (
        "import signal, sys, time\n"
        "for n in (2, 15): signal.signal(n, lambda n, _: sys.exit(40 + n))\n"
        "print('up', flush=True); time.sleep(9)"
    )
    with subprocess.Popen(
        [*SANDBOX, "run", "--", sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 40 + number


def test_sandbox_imports_nothing_of_the_tap() -> None:
    script = "import sys, sendgrid_sandbox.cli; print(*(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    modules = {*done.stdout.split()}
    assert "sendgrid_sandbox" in modules
    assert modules.isdisjoint({"tap_sendgrid_contacts", "singer_sdk", "tests"})


@pytest.mark.parametrize(
    ("host", "warns"),
    [("127.0.0.1", False), ("127.0.0.2", False), ("localhost", False), ("0.0.0.0", True)],  # noqa: S104
)
def test_host_that_others_can_reach(host: str, warns: bool) -> None:  # noqa: FBT001
    done = CliRunner().invoke(main, ["run", "--quiet", "--host", host, "--", "true"])
    assert (done.exit_code, f"warning: --host {host}: " in done.output) == (0, warns)


def test_version() -> None:
    done = CliRunner().invoke(main, ["--version"])
    assert done.output.strip().endswith(version("sendgrid-sandbox"))


def test_help_lists_faults() -> None:
    text = CliRunner().invoke(main, ["serve", "--help"]).output
    listed = re.findall(r"^ +([a-zCODE0-9-]+) +(?:\d+|always) ", text, re.MULTILINE)
    assert {*BY_NAME} <= {*listed}
    for name in ("oops", "oops-500", "post-CODE", "post-200", "post-500:x"):
        wrong = CliRunner().invoke(main, ["serve", "--fault", name])
        assert (wrong.exit_code, name in wrong.output) == (2, True)


def test_api_faults() -> None:
    rates = "rate-limit rate-limit-seconds rate-limit-date rate-limit-reset"
    errors = "error-500 error-502:2 error-503 error-404"
    with serve(faults=f"{rates} {errors} html slow reset hang") as sandbox:
        rate_limited = [sandbox.get(EXPORTS) for _ in range(4)]
        assert {response.status_code for response in rate_limited} == {429}
        assert "Retry-After" not in rate_limited[0].headers
        assert rate_limited[1].headers["Retry-After"] == "1"
        assert rate_limited[2].headers["Retry-After"].endswith("GMT")
        assert 0 < int(rate_limited[3].headers["X-RateLimit-Reset"]) - time.time() < 3
        codes = [sandbox.get(EXPORTS).status_code for _ in range(5)]
        assert codes == [500, 502, 502, 503, 404]
        assert sandbox.get(EXPORTS).text.startswith("<!DOCTYPE html>")
        started = time.monotonic()
        assert sandbox.get(EXPORTS).status_code == 200
        assert time.monotonic() - started >= 1
        with pytest.raises(requests.ConnectionError, match="reset by peer"):
            sandbox.get(EXPORTS)
        with pytest.raises(requests.ReadTimeout):
            sandbox.session.get(sandbox.url + EXPORTS, timeout=0.3)
        assert sandbox.get(EXPORTS).status_code == 200
        assert "fault hang" in sandbox.log


def test_status_faults() -> None:
    with serve(faults="status-429 status-503:2 status-html status-reset") as sandbox:
        export_id = sandbox.post().json()["id"]
        for path in (EXPORTS, "/v3/marketing/field_definitions", "/v3/marketing/lists"):
            assert sandbox.get(path).json()
        responses = [sandbox.get(f"{EXPORTS}/{export_id}") for _ in range(4)]
        assert [response.status_code for response in responses] == [429, 503, 503, 200]
        assert responses[3].text.startswith("<!DOCTYPE html>")
        with pytest.raises(requests.ConnectionError, match="reset by peer"):
            sandbox.status(export_id)
        assert sandbox.status(export_id)["status"] == "ready"


def test_post_faults() -> None:
    accepted = "post-accepted-reset post-accepted-hang post-accepted-500"
    with serve(faults=f"post-503 post-lost-reset {accepted}") as sandbox:
        outcomes = []
        for _ in range(5):
            try:
                code: object = sandbox.post(timeout=2).status_code
            except requests.RequestException as error:
                code = type(error)
            outcomes.append((code, len(sandbox.get(EXPORTS).json()["result"])))
        assert outcomes == [
            (503, 0),
            (requests.ConnectionError, 0),
            (requests.ConnectionError, 1),
            (requests.ReadTimeout, 2),
            (500, 3),
        ]


def test_forbidden_and_redirect_faults() -> None:
    with serve(faults="forbidden:1 forbidden-fields redirect-part no-etag:1") as sandbox:
        assert sandbox.post().status_code == 403
        assert sandbox.get("/v3/marketing/field_definitions").status_code == 403
        [url] = sandbox.ready()["urls"]
        response = get_raw(url)
        assert [step.status_code for step in response.history] == [307]
        assert gzip.decompress(response.content).startswith(b'"EMAIL"')
        assert "ETag" not in response.headers
        assert "LEAK" not in sandbox.log
    with serve(faults="redirect-api") as sandbox:
        moved = sandbox.get(EXPORTS, allow_redirects=False)
        assert moved.status_code == 307
        assert sandbox.get(EXPORTS).status_code == 401
        assert "LEAK" not in sandbox.log
        sandbox.session.get(moved.headers["Location"], timeout=TIMEOUT)
        assert "LEAK" in sandbox.log


def test_control_characters() -> None:
    with serve(faults="control-characters failure:1 renamed-parts:2 error-500:2") as sandbox:
        for path in ("/v3/marketing/field_definitions", "/v3/marketing/lists"):
            error = sandbox.get(path)
            assert error.status_code == 500
            assert "\x1b[31m" in error.json()["errors"][0]["message"]
        error = requests.get(sandbox.url + EXPORTS, timeout=TIMEOUT)
        assert error.status_code == 401
        assert "\x1b[31m" in error.json()["errors"][0]["message"]
        failed = sandbox.ready()
        assert "\u202e" in failed["message"]
        ready = sandbox.ready(list_ids=[Account().lists[0].id])
        assert "\n" in ready["id"]
        assert ready["status"] == "ready"
        assert download(ready["urls"][0])
        exports = sandbox.get(EXPORTS).json()["result"]
        assert [export["id"] for export in exports] == [failed["id"], ready["id"]]
        assert exports[1]["lists"][0]["Name"].startswith("Customers\x00")
        assert "\x9b" in sandbox.get("/v3/marketing/lists").json()["result"][0]["name"]
        [field, *_] = sandbox.get("/v3/marketing/field_definitions").json()["custom_fields"]
        assert field["name"] == "company_name"
        assert "\x1b" not in sandbox.log


def part_ids(status: dict[str, Any]) -> list[str]:
    """Return paths and queries without what changes with every signature."""
    return [re.sub(r"[?&](X-Amz-[^&]*)", "", url) for url in status["urls"]]


def test_part_identity_faults() -> None:
    def listings(*faults: str) -> list[tuple[list[str], list[bytes]]]:
        """Return the part ids and the contents of two status responses."""
        with serve("--parts", 3, faults=" ".join(faults)) as sandbox:
            first = sandbox.ready()
            contents = [list(map(download, first["urls"]))]
            second = sandbox.status(first["id"])
            contents.append(list(map(download, second["urls"])))
            assert second["contact_count"] == 1000
        return [(part_ids(first), contents[0]), (part_ids(second), contents[1])]

    for fault in ("shuffled-parts", "same-path"):
        (ids, parts), (later_ids, later_parts) = listings(fault)
        assert sorted(ids) == sorted(later_ids) != ids != later_ids
        assert dict(zip(ids, parts, strict=True)) == dict(zip(later_ids, later_parts, strict=True))
    assert len({each.partition("&partNumber=")[0] for each in ids}) == 1
    assert {each.partition("&partNumber=")[2] for each in ids} == {"1", "2", "3"}

    (ids, parts), (later_ids, later_parts) = listings("renamed-parts", "no-etag")
    assert len({*ids, *later_ids}) == 6
    assert sorted(parts) == sorted(later_parts)
    assert parts != later_parts


def test_changing_query() -> None:
    with serve(faults="changing-query") as sandbox:
        first = sandbox.ready()
        urls = [*first["urls"], *sandbox.status(first["id"])["urls"]]
        assert all("request=" in url and download(url) for url in urls)
    assert len({url.partition("?")[0] for url in urls}) == 1
    assert len({re.findall(r"request=\w+", url)[0] for url in urls}) == 2


def test_malformed_header_and_drip(caplog: pytest.LogCaptureFixture) -> None:
    with serve(faults="malformed-header") as sandbox:
        [url] = sandbox.ready()["urls"]
        assert download(url).startswith(b'"EMAIL"')
        assert get_raw(url, Range="bytes=7-").content == get_raw(url).content[7:]
    assert f"Failed to parse headers (url={url})" in caplog.text
    with serve(faults="drip") as sandbox:
        [url] = sandbox.ready()["urls"]
        with requests.get(url, stream=True, timeout=TIMEOUT) as response:
            assert len(response.raw.read1()) == 1
        assert download(url)


def test_message_faults() -> None:
    with serve(faults="leaky-messages failure status-503") as sandbox:
        failed = sandbox.post().json()["id"]
        error = sandbox.get(f"{EXPORTS}/{failed}").json()["errors"][0]["message"]
        messages = [error, sandbox.status(failed)["message"]]
        key = sandbox.api_key
    for message in messages:
        assert f"key {key} of ada.lovelace@example.com, {sandbox.url}/exports/" in message
        assert "?X-Amz-Signature=" in message


def test_download_faults() -> None:
    interrupted = ("part-reset", "part-truncated", "part-stall")
    rejected = ("part-expired", "part-500", "part-503")
    with serve("--contacts", 5000, faults=" ".join(rejected + interrupted)) as sandbox:
        [url] = sandbox.ready()["urls"]
        assert [get_raw(url).status_code for _ in rejected] == [403, 500, 503]
        for name in interrupted:
            with pytest.raises(requests.RequestException):
                requests.get(url, timeout=0.5)
            assert f"fault {name}" in sandbox.log
        assert get_raw(url, Range="bytes=7-").status_code == 206
    with serve(faults="no-range etag-changes chunked") as sandbox:
        [url] = sandbox.ready()["urls"]
        full = get_raw(url)
        assert "Content-Length" not in full.headers
        assert get_raw(url, Range="bytes=9-").content == full.content
        assert get_raw(url, **{"If-Match": full.headers["ETag"]}).status_code == 412

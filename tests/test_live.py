"""The facts that `python -m tests.live` prints, of the sandbox: forms, and no data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests import live

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Sandbox

KEY = "SG.very-secret.key-that-is-long-enough-to-be-one"


def test_table_has_facts_and_no_data(
    start_sandbox: Callable[..., Sandbox],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--contacts", "200", "--parts", "2", "--number-format", "text", "--bom")
    sandbox = start_sandbox("--api-key", KEY, "--compression", "gzip", *options)
    monkeypatch.setenv("SENDGRID_API_KEY", KEY)
    monkeypatch.setenv("SENDGRID_API_URL", sandbox.url)
    live.main()
    table = capsys.readouterr().out
    for fact in (
        *("| contacts | HTTP 200, 200;", "| lists | HTTP 200, 5; repeated ids: 0;"),
        *("contact_count: 200;", "Content-Encoding: `gzip`; gzip: True", "byte order mark: True"),
        *("_<uuid>_9.csv.gzip", "life: `300` s", "same queries: False"),
        *("header in 2 of 2", "JSON `str`: `9999-99-99T99:99:99Z`", '["<email>","<email>"]'),
        *("longest whole number: 31 digits; most decimals: 17", "200 lines; keys:"),
    ):
        assert fact in table

    api = live.LiveApi(sandbox.url, KEY)
    lists, _ = api.collect("/v3/marketing/lists", "result")
    fields, _ = api.collect("/v3/marketing/field_definitions", "custom_fields")
    contacts, _ = live.read_json(api.read(api.create({"file_type": "json"})[0], 0)[0])
    values = {str(value) for each in (*contacts, *lists, *fields) for value in each.values()}
    # Protocol words, and what is too short to be anybody's.
    personal = {value for value in values - {"Number"} if len(value) > 4}
    assert len(personal) > 1000
    assert not [value for value in personal if re.search(rf"\b{re.escape(value)}\b", table)]
    assert live.read_json(['{"name_of_ours": 1}'])[1] == "1 lines; keys: `<other>`"
    assert not re.search(r"very-secret|Signature=|[0-8a-f]{16}", table)


def test_errors_name_no_key(start_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = start_sandbox("--api-key", KEY)
    for url, key, message in (
        (sandbox.url, "another", "API key rejected"),
        (sandbox.url, "k\u20acy", "GET .*: UnicodeEncodeError$"),
        ("http://api.sendgrid.com", KEY, "SENDGRID_API_URL is not an https URL"),
    ):
        with pytest.raises(SystemExit, match=message):
            live.collect_facts(url, key)

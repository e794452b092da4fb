"""The check of a real account, and of sandboxes: it must recognize every variant of them."""

from __future__ import annotations

import ast
import copy
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from sendgrid_sandbox import cli
from sendgrid_sandbox.account import Account
from sendgrid_sandbox.encoders import UNDEFINED_FIELD
from tests.harness import run_sandbox
from tests.live import probe
from tests.live.__main__ import ask_account, main
from tests.live.probe import EXPORTS, Observation, ProbeError, observe
from tests.live.questions import NOT_SEEN, Answer, answer_all, format_table, options_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Sandbox

CONTACTS = 80
KEY = "SG.very-secret.key-that-is-long-enough-to-be-one"

# Options of the sandbox that are no open question: where it listens, its size, its tempo.
NOT_ASKED = {
    *("host", "port", "api_key", "quiet", "faults", "seed", "day", "edge_cases", "parts"),
    *("field_changes", "pending_polls", "throttle", "help"),
}
# Other values than the defaults, of options that are not a choice.
VALUES = {
    "contacts": "0",
    "custom_fields": "0",
    "limit_exports": "1",
    "url_ttl": "60",
    "gzip_members": "3",
    "audiences": None,
    "null_collections": None,
    "bom": None,
}
# Faults that may be how SendGrid works.
FAULTS = (
    *("forbidden-fields", "forbidden-post", "failure", "unknown-status", "no-urls"),
    *("count-high", "count-low", "count-missing"),
    *("shuffled-parts", "same-path", "renamed-parts"),
)


def asked() -> Iterator[click.Option]:
    for option in cli.main.commands["serve"].params:
        assert isinstance(option, click.Option)
        if option.name not in NOT_ASKED:
            yield option


def variants() -> Iterator[str]:
    """The variants that the sandbox itself declares, all but its defaults."""
    for option in asked():
        if isinstance(option.type, click.Choice):
            others = [choice for choice in option.type.choices if choice != option.default]
            yield from (f"{option.opts[0]} {choice}" for choice in others)
        else:
            # An option that is missing there is an open question that has no test yet.
            value = VALUES[str(option.name)]
            yield (option.secondary_opts or option.opts)[0] + (f" {value}" if value else "")
    yield from (f"--fault {fault}" for fault in FAULTS)


# Sizes of an account are no variants, and what is off needs no option.
DEFAULTS = {
    f"{option.opts[0]} {option.default}"
    for option in asked()
    if option.default and not option.is_flag and option.name not in ("contacts", "custom_fields")
}


def other_options(answers: dict[str, Answer]) -> list[str]:
    return [option for option in options_of(answers) if option not in DEFAULTS]


def ask(sandbox: Sandbox) -> tuple[Observation, dict[str, Answer]]:
    observation = observe(sandbox.url, sandbox.api_key, poll_interval=0)
    return observation, answer_all(observation)


def new_questions(answers: dict[str, Answer]) -> list[str]:
    """The questions with an answer that no sandbox gives."""
    return [question for question, answer in answers.items() if answer.is_new]


def start_options(*options: str) -> list[str]:
    given = " ".join(options).split()
    contacts = [] if "--contacts" in given else ["--contacts", str(CONTACTS)]
    return ["--parts", "2", "--api-key", KEY, *contacts, *given]


def values_of(account: Account) -> set[str]:
    """What a contact has, long enough not to be in the table by chance."""
    values = [v for c in account for v in (*c.values.values(), *c.custom.values())]
    texts = {str(v) for value in values for v in (value if isinstance(value, list) else [value])}
    return {text for text in texts if len(text) > 3}


ACCOUNT = Account(CONTACTS, edge_cases=False)
PERSONAL = values_of(ACCOUNT)
NAMES = [name for field in ACCOUNT.fields for name in (field.name, field.name.upper())]
NAMES += [audience.name for audience in (*ACCOUNT.lists, *ACCOUNT.segments)]
NAMES += [UNDEFINED_FIELD, UNDEFINED_FIELD.upper()]
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16}")


def assert_no_personal_data(text: str, observation: Observation) -> None:
    assert not [value for value in PERSONAL if value in text]
    assert not [name for name in NAMES if re.search(rf"\b{name}\b", text)]
    assert not ID.search(text)
    assert not re.search(r"\d{4}-\d\d|\d\d/\d{4}", text)
    assert "very-secret" not in text
    for export in observation.all_exports:
        for listing in export.listings:
            for url in listing:
                secrets = re.findall(r"X-Amz-(?:Signature|Security-Token|Credential)=([^&]+)", url)
                assert len(secrets) == 3
                assert not any(secret in text for secret in secrets)
                assert url.partition("?")[0] not in text


@pytest.mark.skipif(not os.environ.get("SENDGRID_API_KEY"), reason="SENDGRID_API_KEY is not set")
def test_account(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        answers = ask_account()
    except Exception as error:  # noqa: BLE001 - pytest's traceback would quote the API key
        reason = str(error) if isinstance(error, ProbeError) else type(error).__name__
        pytest.fail(reason, pytrace=False)
    with capsys.disabled():
        click.echo("\n" + format_table(answers))
    # The tap is tested with what a sandbox does. The rest a sandbox has to learn first.
    assert new_questions(answers) == []


@pytest.mark.parametrize("variant", ["", *variants()])
def test_variant(variant: str) -> None:
    with run_sandbox("--no-edge-cases", *start_options(variant)) as sandbox:
        observation, answers = ask(sandbox)
    table = format_table(answers)
    assert other_options(answers) == [variant] * bool(variant), table
    assert not new_questions(answers), table
    assert_no_personal_data(table, observation)
    # All it does to an account.
    assert not [line for line in sandbox.log if not line.startswith(("GET ", "POST ", "fault "))]
    assert sandbox.count("POST") == sandbox.count(f"POST {EXPORTS}")
    assert sandbox.exports_created <= 3 + (variant == "--empty-arrays nobody")


def test_defaults_are_seen() -> None:
    with run_sandbox(*start_options("--no-edge-cases")) as sandbox:
        _, answers = ask(sandbox)
    unjudged = [question for question, answer in answers.items() if answer.options is None]
    assert unjudged == ["host of the API", "names of the parts"]
    assert {*options_of(answers)} == DEFAULTS


def test_table_in_docs() -> None:
    with run_sandbox("--pending-polls", "1") as sandbox:
        _, answers = ask(sandbox)
    table = format_table(answers).partition("\n\n")[0]
    docs = (Path(__file__).parents[2] / "docs" / "unknowns.md").read_text()
    assert re.sub(r"\d s;", "2 s;", table) in docs


@pytest.mark.parametrize(
    "options",
    [
        "--number-format exponent --date-format go --compression gzip --bom",
        "--null-collections --no-audiences --custom-fields 0 --limit-exports 1",
        "--empty-arrays nobody --empty-export none --fault shuffled-parts --fault count-low",
        "--empty-arrays ignore --fault no-urls",
        "--part-headers first --fault shuffled-parts",
    ],
)
def test_several_variants(options: str) -> None:
    with run_sandbox("--no-edge-cases", *start_options(options)) as sandbox:
        _, answers = ask(sandbox)
    given = {option.strip() for option in re.findall(r"--[^-]+(?:-[^-]+)*?(?= --|$)", options)}
    assert {*other_options(answers)} == given - DEFAULTS, format_table(answers)


def test_edge_cases() -> None:
    with run_sandbox(*start_options("--custom-fields 17")) as sandbox:
        observation, answers = ask(sandbox)
    table = format_table(answers)
    assert other_options(answers) == [], table
    assert new_questions(answers) == [], table
    assert_no_personal_data(table, observation)


@pytest.fixture(scope="module")
def observation() -> Observation:
    with run_sandbox(*start_options("--no-edge-cases --parts 3")) as sandbox:
        return observe(sandbox.url, sandbox.api_key, poll_interval=0)


# What no sandbox does: bytes of the files are replaced.
NEW_FORMS = [
    (rb"(\d{4})-(\d\d)-(\d\d)T00:00:00Z", rb"\3.\2.\1", "dates", "`9.9.9`"),
    (rb"(\d{4})-(\d\d)-(\d\d)T00:00:00Z", rb"\3/\2/\1", "dates", "`9/9/9`, `us`"),
    (rb"T(?!00:00:00)(\d\d:\d\d:\d\d)Z", rb" \1", "dates", "`space`"),
    (rb"T00:00:00Z", b"T00:00:00.0000001+02", "dates", "`9-9-9a9:9:9.9+9`"),
    (rb'"(\d+)\.(\d+)"', rb'"\1,\2"', "numbers", "`9,9`"),
    (rb'"",""', b" | ", "alternate", '["<email> | <email>"]'),
    (rb"^\xef?\xbb?\xbf?", b"\xef\xbb\xbf", "byte order mark", "in some parts"),
    (rb'"EMAIL"', b'"Email"', "case of names", "others: another"),
    (rb"FACEBOOK", b"LAST_CLICKED", "CSV columns", "LAST_CLICKED"),
    (rb"FACEBOOK", UNDEFINED_FIELD.encode(), "CSV columns", ",<unknown>,"),
]


@pytest.mark.parametrize(("pattern", "replacement", "question", "seen"), NEW_FORMS)
def test_new_form(
    observation: Observation, pattern: bytes, replacement: bytes, question: str, seen: str
) -> None:
    changed = copy.deepcopy(observation)
    # A mark in the CSV parts alone.
    exports = [changed.csv] if question == "byte order mark" else [changed.csv, changed.json]
    for export in exports:
        for part in export.parts:
            part.data = re.sub(pattern, replacement, part.data)
    answers = answer_all(changed)
    table = format_table(answers)
    [name] = [each for each in new_questions(answers) if question in each]
    assert seen in answers[name].seen, table
    assert re.search(
        rf"^\| {re.escape(name)} \| ([^|]|\\\|)+ \| \*\*none\*\* \|$", table, re.MULTILINE
    )
    assert f"No sandbox does what {len(new_questions(answers))} answer(s) say." in table
    assert "None" not in table
    assert_no_personal_data(table, changed)


def change_parts(changed: Observation) -> None:
    assert changed.empty
    changed.empty.parts = changed.csv.parts


# What no sandbox does: other responses.
NEW_RESPONSES: dict[str, Callable[[Observation], object]] = {
    "empty collections": lambda seen: seen.lists.body.update(result={}),
    "`max_file_size` of 1 MB": lambda seen: setattr(seen.csv, "first_post", 400),
    "`list_ids` and `segment_ids` of `[]`": lambda seen: setattr(seen.json, "first_post", 500),
    "`expires_at` - `created_at`": lambda seen: seen.csv.end.update(
        expires_at="2099-01-01T00:00:00Z"
    ),
    "signed URLs": lambda seen: seen.csv.listings.append(seen.csv.listings[0]),
    "compression": lambda seen: seen.csv.parts[0].headers.pop("Content-Encoding"),
    "CSV header of each part": lambda seen: setattr(seen.csv.parts[2], "data", b'"A"\n"B"\n'),
    "export without contacts": change_parts,
}


@pytest.mark.parametrize("question", NEW_RESPONSES)
def test_new_response(observation: Observation, question: str) -> None:
    changed = copy.deepcopy(observation)
    NEW_RESPONSES[question](changed)
    answers = answer_all(changed)
    assert question in new_questions(answers), format_table(answers)
    assert "unexpected response" not in answers[question].seen


def test_parts_not_read(observation: Observation, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = copy.deepcopy(observation)
    changed.csv.parts[1].status = 500
    assert answer_all(changed)["`contact_count`"] == NOT_SEEN
    monkeypatch.setattr(probe, "MAX_PART_BYTES", 100)
    assert answer_all(observation)["`contact_count`"] == NOT_SEEN


def test_large_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_CONTACTS", 25)
    monkeypatch.setattr(probe, "MAX_PARTS", 1)
    with run_sandbox(*start_options("--no-edge-cases")) as sandbox:
        observation, answers = ask(sandbox)
    bodies = [export.body for export in observation.all_exports]
    ids = {
        "list_ids": [ACCOUNT.lists[3].id],
        "segment_ids": [s.id for s in ACCOUNT.segments[:0:-1]],
    }
    assert bodies[0] == {"file_type": "csv", "max_file_size": 1, **ids}
    assert bodies[1] == {"file_type": "json", **ids}
    assert bodies[2] == {"file_type": "csv", "list_ids": [ACCOUNT.lists[4].id]}
    assert sandbox.exports_created == len(bodies) == 3
    assert sum(line.startswith("GET /exports/") for line in sandbox.log) == 3
    assert answers["`contact_count`"] == NOT_SEEN
    assert answers["`list_ids` and `segment_ids` of `[]`"] == NOT_SEEN
    assert other_options(answers) == []


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SENDGRID_API_KEY", raising=False)
    with pytest.raises(SystemExit, match="SENDGRID_API_KEY is not set"):
        main()
    with run_sandbox(*start_options()) as sandbox:
        monkeypatch.setenv("SENDGRID_API_KEY", KEY)
        monkeypatch.setenv("SENDGRID_API_URL", sandbox.url)
        main()
        assert "The closest sandbox: `sendgrid-sandbox serve -" in capsys.readouterr().out
        monkeypatch.setenv("SENDGRID_API_KEY", "another")
        with pytest.raises(SystemExit, match="API key rejected"):
            main()
        with pytest.raises(pytest.fail.Exception, match="API key rejected") as failed:
            test_account(capsys)
        assert not failed.value.pytrace
    with pytest.raises(SystemExit, match=r"GET http://127.0.0.1:\d+: ConnectionError"):
        main()
    monkeypatch.setenv("SENDGRID_API_URL", "http://api.sendgrid.com")
    with pytest.raises(SystemExit, match="SENDGRID_API_URL is not an https URL"):
        main()


def test_needs_only_requests() -> None:
    imported = set()
    for file in Path(__file__).parent.glob("*.py"):
        if file.name != "test_live.py":
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(node.module or "")
    imported = {name for name in imported if not name.startswith("tests.live.")}
    packages = {name.partition(".")[0] for name in imported}
    assert packages - sys.stdlib_module_names == {"requests", "urllib3"}


def test_unexpected_responses(observation: Observation) -> None:
    changed = copy.deepcopy(observation)
    email = str(next(contact.values["email"] for contact in ACCOUNT))
    changed.scopes.body["scopes"] = [f"marketing.{email}"]
    for export in changed.all_exports:
        export.polls.append(dict.fromkeys(export.end, email) | {"status": "ready"})
        export.polls.insert(0, {"status": email, "urls": [email]})
        for part in export.parts:
            part.headers["Content-Encoding"] = email
        export.listings = [
            [f"{url}&{email}=1".replace("300", "soon") for url in listing]
            for listing in export.listings
        ]
    answers = answer_all(changed)
    table = format_table(answers)
    assert "unexpected response: ValueError" in table
    assert {"status", "signed URLs", "compression"} - {*new_questions(answers)} == {"status"}
    assert table.count("`<email>`") == 4
    assert_no_personal_data(table, changed)

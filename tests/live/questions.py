"""The open questions, and which variant of the sandbox does what an account did.

An answer has no personal data: forms, counts and names of headers, so that it can be published.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import cached_property
from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.live.contents import (
    CsvFile,
    JsonFile,
    Token,
    addresses_form,
    date_form,
    mask_path,
    number_form,
    read_csv,
    read_json,
    word,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.live.probe import Export, Observation, Part

_COLUMNS = (
    *("EMAIL", "FIRST_NAME", "LAST_NAME", "ADDRESS_LINE_1", "ADDRESS_LINE_2", "CITY"),
    *("STATE_PROVINCE_REGION", "POSTAL_CODE", "COUNTRY", "ALTERNATE_EMAILS", "PHONE_NUMBER"),
    *("WHATSAPP", "LINE", "FACEBOOK", "UNIQUE_NAME", "CREATED_AT", "UPDATED_AT", "CONTACT_ID"),
)
_LAST_COLUMNS = ("PHONE_NUMBER_ID", "EXTERNAL_ID", "ANONYMOUS_ID")
_RESERVED = frozenset(_COLUMNS + _LAST_COLUMNS)
_COMPRESSIONS = {
    ("x-gzip", True): "x-gzip",
    ("gzip", True): "gzip",
    (None, True): "plain-gzip",
    (None, False): "none",
}
_ADDRESSES = {
    '["<email>","<email>"]': "json",
    "<email>,<email>": "comma",
    "<email>;<email>": "semicolon",
    "<email> <email>": "space",
}
_PART_FAULTS = {
    "same path, another order": "same-path",
    "same names, another order": "shuffled-parts",
    "other names": "renamed-parts",
}
_DATES = ("rfc3339", "iso", "us", "space", "fraction", "offset", "go", "epoch")
_DATES_WITHOUT_TIME = ("iso", "us")
_SIGNING = re.compile("X-Amz-|AWSAccessKeyId|Expires|Key-Pair-Id|Policy|Signature", re.IGNORECASE)
_OK, _CREATED, _BAD_REQUEST, _FORBIDDEN = 200, 202, 400, 403


class Answer(NamedTuple):
    """What was seen.

    Attributes:
        seen: A description without personal data.
        options: The options of a sandbox that does the same, with their values also if these are
            the defaults; none for what needs no option; None if it was not seen, or if the
            sandbox has no part in it.
        is_new: Whether no sandbox does the same.
    """

    seen: str
    options: tuple[str, ...] | None = ()
    is_new: bool = False


NOT_SEEN = Answer("not seen", None)
_ONE_PART = Answer("not seen: one part", None)


def answer_all(observation: Observation) -> dict[str, Answer]:
    """Return the answers by question."""
    seen = _Seen(observation)
    answers = {}
    for text, function in _QUESTIONS:
        try:
            answers[text] = function(seen)
        except Exception as error:  # noqa: BLE001 - one surprise must not cost the other answers
            answers[text] = Answer(f"unexpected response: {type(error).__name__}", is_new=True)
    return answers


def options_of(answers: dict[str, Answer]) -> list[str]:
    """Return the options of a sandbox that gives these answers."""
    options = (answer.options or () for answer in answers.values() if not answer.is_new)
    return list(dict.fromkeys(chain.from_iterable(options)))


def format_table(answers: dict[str, Answer]) -> str:
    """Return the answers as a Markdown table, and the command of a sandbox that does the same."""
    lines = ["| question | seen | sandbox |", "|---|---|---|"]
    for text, answer in answers.items():
        variant = "-" if answer.options is None else " ".join(answer.options) or "default"
        seen = answer.seen.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {text} | {seen} | {'**none**' if answer.is_new else variant} |")
    command = " ".join(("sendgrid-sandbox serve", *options_of(answers)))
    lines += ["", f"The closest sandbox: `{command}`"]
    if new := sum(answer.is_new for answer in answers.values()):
        lines.append(f"No sandbox does what {new} answer(s) say.")
    return "\n".join(lines) + "\n"


class _Seen:
    """An observation, with the files read."""

    def __init__(self, observation: Observation) -> None:
        self.api = observation
        self.has_fields = observation.fields.status == _OK
        self.custom_names = [str(each["name"]) for each in observation.custom_fields()]
        self.custom = frozenset(map(str.upper, self.custom_names))

    @cached_property
    def csv(self) -> CsvFile:
        """The CSV export."""
        return read_csv(self.api.csv)

    @cached_property
    def json(self) -> JsonFile:
        """The JSON export."""
        return read_json(self.api.json)

    @cached_property
    def ready(self) -> list[Export]:
        """The two main exports, if they are ready."""
        return [export for export in (self.api.csv, self.api.json) if export.is_ready]

    @cached_property
    def parts(self) -> list[Part]:
        """The parts of these exports."""
        return [part for export in self.ready for part in export.parts]

    @property
    def is_complete(self) -> bool:
        """Whether all contacts in the parts were read."""
        return bool(self.parts) and all(export.is_read for export in self.ready)

    @cached_property
    def columns(self) -> list[str]:
        """The CSV header without a name from the account."""
        reserved = self.api.fields.body.get("reserved_fields") or []
        documented = {str(each["name"]).upper() for each in reserved}
        columns: list[str] = []
        customs = {*self.custom}
        for name in map(str.upper, self.csv.header):
            # A custom field may have the name of a column, which comes first.
            if name in _RESERVED and name not in columns:
                columns.append(name)
            elif name in customs:
                columns.append("<custom>")
                customs.discard(name)
            else:
                columns.append(name if name in documented - {*columns} else "<unknown>")
        return columns

    def column(self, name: str) -> list[str]:
        """Return the values of a column of the CSV export."""
        return self.csv.values(i for i, each in enumerate(self.columns) if each == name)

    def custom_values(self, field_type: str) -> tuple[list[str], list[object]]:
        """Return the values of custom fields of a type in the CSV and the JSON export."""
        fields = self.api.custom_fields()
        names = {str(each["name"]).upper() for each in fields if each["field_type"] == field_type}
        columns = zip(self.csv.header, self.columns, strict=True)
        indexes = (
            index
            for index, (name, column) in enumerate(columns)
            if column == "<custom>" and name.upper() in names
        )
        return self.csv.values(indexes), self.json.custom_values(names)


def _order_of_parts(export: Export) -> str:
    """Return how the parts are listed in several status responses."""
    first, *others = ([_identity(url) for url in listing] for listing in export.listings)
    if all(listing == first for listing in others):
        return "same names, same order"
    if len({path for path, _ in first}) == 1:
        return "same path, another order"
    if all({*listing} == {*first} for listing in others):
        return "same names, another order"
    return "other names" if all({*first}.isdisjoint(listing) for listing in others) else "changed"


def _identity(url: str) -> tuple[str, str]:
    """Return path and query of a URL without its signature, of S3 or CloudFront."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    return parts.path, str({key: query[key] for key in query if not _SIGNING.match(key)})


_QUESTIONS: list[tuple[str, Callable[[_Seen], Answer]]] = []


def _question(text: str) -> Callable[[Callable[[_Seen], Answer]], Callable[[_Seen], Answer]]:
    def register(function: Callable[[_Seen], Answer]) -> Callable[[_Seen], Answer]:
        _QUESTIONS.append((text, function))
        return function

    return register


def _code(forms: Iterable[str]) -> str:
    return ", ".join(f"`{form}`" for form in sorted(forms)) or "none"


# --- the account and the API --------------------------------------------------------------------


@_question("host of the API")
def _host(seen: _Seen) -> Answer:
    return Answer(f"`{urlsplit(seen.api.url).hostname}`", None)


@_question("size of the account")
def _size(seen: _Seen) -> Answer:
    api = seen.api
    lists, segments = (
        len(response.body.get(key) or [])
        for response, key in ((api.lists, "result"), (api.segments, "results"))
    )
    sizes = {
        "--contacts 0": api.contacts,
        "--no-audiences": lists + segments,
        "--custom-fields 0": len(seen.custom),
    }
    return Answer(
        f"{api.contacts} contacts, {lists} lists, {segments} segments, "
        f"{len(seen.custom)} custom fields",
        tuple(option for option, size in sizes.items() if not size)
        if api.count.status == api.lists.status == api.fields.status == _OK
        else None,
    )


@_question("empty collections")
def _empty_collections(seen: _Seen) -> Answer:
    collections = (
        (seen.api.lists, "result"),
        (seen.api.segments, "results"),
        (seen.api.exports, "result"),
        (seen.api.fields, "custom_fields"),
    )
    values = [
        response.body.get(key, "missing") for response, key in collections if response.status == _OK
    ]
    forms = {
        "null" if value is None else str(value)
        for value in values
        if not value or value == "missing"
    }
    if not forms:
        return NOT_SEEN
    if forms == {"null"}:
        return Answer(_code(forms), ("--null-collections",))
    return Answer(_code(forms), is_new=forms != {"[]"})


@_question("rights of the key")
def _rights(seen: _Seen) -> Answer:
    scopes = [str(scope) for scope in seen.api.scopes.body.get("scopes") or []]
    marketing = [word(scope) for scope in scopes if scope.startswith("marketing")]
    statuses = {"fields": seen.api.fields.status, "post": seen.api.csv.post}
    return Answer(
        f"scopes: HTTP {seen.api.scopes.status}, {_code(marketing)}, "
        f"{len(scopes) - len(marketing)} other(s); field definitions: HTTP {statuses['fields']}; "
        f"create request: HTTP {statuses['post']}",
        tuple(f"--fault forbidden-{on}" for on, code in statuses.items() if code == _FORBIDDEN),
    )


@_question("two exports at the same time")
def _concurrency(seen: _Seen) -> Answer:
    if seen.api.is_limited:
        return Answer("HTTP 429", ("--limit-exports 1",))
    return Answer("accepted") if seen.api.json.post == _CREATED else NOT_SEEN


@_question("`max_file_size` of 1 MB")
def _max_file_size(seen: _Seen) -> Answer:
    status = seen.api.csv.first_post
    if status == _CREATED:
        return Answer("accepted")
    return Answer(f"HTTP {status}", is_new=True) if seen.api.csv.post == _CREATED else NOT_SEEN


@_question("`list_ids` and `segment_ids` of `[]`")
def _empty_arrays(seen: _Seen) -> Answer:
    export = seen.api.nobody or seen.api.json
    if export.first_post != export.post:
        is_new = export.first_post != _BAD_REQUEST
        return Answer(f"HTTP {export.first_post}", ("--empty-arrays reject",), is_new)
    if export.body.get("list_ids") != [] or not seen.api.contacts or not export.is_ready:
        return NOT_SEEN
    if export is seen.api.nobody:
        return Answer("no contacts", ("--empty-arrays nobody",))
    return Answer("all contacts", ("--empty-arrays ignore",))


# --- the export ---------------------------------------------------------------------------------


@_question("status")
def _status(seen: _Seen) -> Answer:
    export = seen.api.csv
    if not export.polls:
        return NOT_SEEN
    statuses = [str(poll.get("status")) for poll in export.polls]
    urls = [poll.get("urls", "absent") for poll in export.polls if poll is not export.end]
    forms = {"null" if value is None else word(str(value)) for value in urls}
    text = f"{_code(map(word, {*statuses}))}: {len(statuses)} request(s), {export.seconds:.0f} s"
    text += f"; `urls` while pending: {_code(forms)}"
    if statuses[-1] in ("ready", "pending"):
        return Answer(text, () if export.is_ready else None)
    fault = "failure" if statuses[-1] == "failure" else "unknown-status"
    return Answer(text, (f"--fault {fault}",))


@_question("`expires_at` - `created_at`")
def _lifetime(seen: _Seen) -> Answer:
    times = [str(seen.api.csv.end.get(key)) for key in ("created_at", "expires_at")]
    if not seen.api.csv.polls:
        return NOT_SEEN
    created, expires = (datetime.fromisoformat(each.replace("Z", "+00:00")) for each in times)
    hours = (expires - created).total_seconds() / 3600
    forms = {date_form(each) for each in times}
    return Answer(f"{hours:.1f} h, {_code(forms)}", (), f"{hours:.1f}" != "12.0")


@_question("`contact_count`")
def _contact_count(seen: _Seen) -> Answer:
    if not seen.is_complete:
        return NOT_SEEN
    text, options = [], {}
    for export, rows in ((seen.api.csv, seen.csv.rows), (seen.api.json, seen.json.contacts)):
        if not export.is_ready:
            continue
        count = export.end.get("contact_count")
        text.append(f"{count} for {len(rows)} contacts in the {export.body['file_type']} files")
        if count is None:
            options["--fault count-missing"] = True
        elif count != len(rows):
            options[f"--fault count-{'high' if count > len(rows) else 'low'}"] = True
    return Answer(", ".join(text), tuple(options))


@_question("a contact in several lists and segments")
def _duplicates(seen: _Seen) -> Answer:
    ids = seen.column("CONTACT_ID")
    members = sum(size for _, _, size in seen.api.selection)
    text = f"{members} members, {len(ids)} rows, {len({*ids})} different contacts"
    if not ids or not seen.is_complete or not seen.api.selection:
        return NOT_SEEN
    if len({*ids}) < len(ids):
        return Answer(text, ("--duplicates keep",))
    return Answer(text, ("--duplicates drop",) if len(ids) < members else None)


# --- the parts ----------------------------------------------------------------------------------


@_question("names of the parts")
def _part_names(seen: _Seen) -> Answer:
    urls = [urlsplit(url) for export in seen.ready for url in export.listings[0]]
    if urls:
        hosts, paths = {f"{url.hostname}" for url in urls}, {mask_path(url.path) for url in urls}
        return Answer(f"{_code(hosts)}: {_code(paths)}", None)
    if any(export.end.get("contact_count") for export in seen.ready):
        return Answer("ready, without URLs", ("--fault no-urls",))
    return NOT_SEEN


@_question("parts in three status responses")
def _part_order(seen: _Seen) -> Answer:
    count = max((len(export.listings[0]) for export in seen.ready), default=0)
    if count < 2:
        return _ONE_PART
    orders = sorted({_order_of_parts(export) for export in seen.ready})
    text = f"{count} parts: {', '.join(orders)}"
    if orders == ["same names, same order"]:
        return Answer(text)
    fault = _PART_FAULTS.get(orders[0])
    return Answer(text, (f"--fault {fault}",), len(orders) > 1 or not fault)


@_question("signed URLs")
def _urls(seen: _Seen) -> Answer:
    urls = [url for export in seen.ready for listing in export.listings for url in listing]
    if not urls:
        return NOT_SEEN
    queries = [parse_qs(urlsplit(url).query) for url in urls]
    lifetimes = {query.get("X-Amz-Expires", [""])[0] for query in queries}
    is_new_each_time = len({*urls}) == len(urls)
    text = f"{'new' if is_new_each_time else 'the same'} in each status response; "
    text += f"query: {_code({word(name) for query in queries for name in query})}"
    lifetime = lifetimes.pop()
    if lifetimes or not lifetime.isdecimal():
        return Answer(text, is_new=True)
    text += f"; lifetime {lifetime} s"
    return Answer(text, (f"--url-ttl {lifetime}",), not is_new_each_time)


@_question("compression")
def _compression(seen: _Seen) -> Answer:
    forms = {
        (part.headers.get("Content-Encoding"), part.gzip_members > 0)
        for part in seen.parts
        if part.raw
    }
    if not forms:
        return NOT_SEEN
    text = [
        f"Content-Encoding `{word(encoding or 'absent')}`, {'gzip' if is_gzip else 'plain'} bytes"
        for encoding, is_gzip in sorted(forms, key=str)
    ]
    name = _COMPRESSIONS.get(forms.pop())
    return Answer("; ".join(text), (f"--compression {name}",), bool(forms) or not name)


@_question("gzip members of a part")
def _gzip_members(seen: _Seen) -> Answer:
    members = max((part.gzip_members for part in seen.parts), default=0)
    if not members:
        return NOT_SEEN
    return Answer(f"{members}", (f"--gzip-members {members}",))


# --- the contents -------------------------------------------------------------------------------


@_question("CSV header of each part")
def _part_headers(seen: _Seen) -> Answer:
    headers = seen.csv.has_header
    if len(headers) < 2:
        return _ONE_PART
    text = f"in {sum(headers)} of {len(headers)} parts"
    if sum(headers) == 1:
        return Answer(text, ("--part-headers first",))
    return Answer(text, ("--part-headers all",), not all(headers))


@_question("CSV columns")
def _columns(seen: _Seen) -> Answer:
    columns = seen.columns
    if not columns or not seen.has_fields:
        return NOT_SEEN
    expected = [*_COLUMNS, *["<custom>"] * len(seen.custom), *_LAST_COLUMNS]
    if columns == expected:
        return Answer("names and order as in the sandbox")
    runs = ((name, len([*run])) for name, run in groupby(columns))
    text = ",".join(name if size == 1 else f"{size} {name}" for name, size in runs)
    # The order has no effect on the tap.
    return Answer(f"`{text}`", (), not {*expected} <= {*columns})


@_question("case of names in the CSV header")
def _header_case(seen: _Seen) -> Answer:
    names = {name.upper(): name for name in seen.custom_names if name != name.upper()}
    found = [name for name in seen.csv.header if name.upper() in names.keys() - _RESERVED]
    if not found:
        return NOT_SEEN
    cases = {
        "original": all(name == names[name.upper()] for name in found),
        "upper": all(name == name.upper() for name in found),
        "another": True,
    }
    custom = next(case for case, is_shown in cases.items() if is_shown)
    first = "upper" if seen.csv.header[0].isupper() else "another"
    text = f"custom fields: {custom}, others: {first}"
    return Answer(text, (f"--header-case {custom}",), "another" in (custom, first))


@_question("byte order mark")
def _bom(seen: _Seen) -> Answer:
    has_bom = {*seen.csv.has_bom, *seen.json.has_bom}
    if not has_bom:
        return NOT_SEEN
    if len(has_bom) > 1:
        return Answer("in some parts", is_new=True)
    return Answer("in each part", ("--bom",)) if has_bom.pop() else Answer("none")


@_question("numbers in custom fields")
def _numbers(seen: _Seen) -> Answer:
    cells, values = seen.custom_values("Number")
    in_csv = {number_form(text) for text in cells}
    tokens = {number_form(value) for value in values if isinstance(value, Token)}
    texts = {number_form(str(value)) for value in values if not isinstance(value, Token)}
    if not in_csv or not values:
        return NOT_SEEN
    shown = f"CSV {_code(in_csv)}; JSON numbers {_code(tokens)}, JSON texts {_code(texts)}"
    style = _number_style(in_csv)
    if style == "text" and tokens and not texts:
        return Answer(shown, ("--number-format number",))
    is_new = not style or bool(tokens) or style != _number_style(texts)
    return Answer(shown, (f"--number-format {style}",), is_new)


def _number_style(forms: set[str]) -> str | None:
    """Return the style of numbers as text; None if some are no numbers."""
    if any({*form} - {*"+-9.eE"} for form in forms):
        return None
    if all("e" in form.lower() for form in forms):
        return "exponent"
    return "text" if {form.lstrip("+-") for form in forms} & {"9"} else "decimal"


@_question("dates in custom fields")
def _dates(seen: _Seen) -> Answer:
    cells, values = seen.custom_values("Date")
    forms = {date_form(value) for value in (*cells, *values)}
    times = {date_form(cell) for cell in seen.column("CREATED_AT") + seen.column("UPDATED_AT")}
    times |= {
        date_form(contact[name])
        for contact in seen.json.contacts
        for name in ("created_at", "updated_at")
        if contact.get(name)
    }
    if not times:
        return NOT_SEEN
    shown = f"{_code(forms)}; `created_at` and `updated_at`: {_code(times)}"
    form = min(forms or times)
    expected = "rfc3339" if form in _DATES_WITHOUT_TIME else form
    if len(forms) > 1 or times != {expected} or form not in _DATES:
        return Answer(shown, is_new=True)
    # Without custom dates, two more variants look like this one.
    is_known = bool(forms) or form != "rfc3339"
    return Answer(shown, (f"--date-format {form}",) if is_known else None)


@_question("several alternate emails")
def _alternate_emails(seen: _Seen) -> Answer:
    cells = [cell for cell in seen.column("ALTERNATE_EMAILS") if cell.count("@") > 1]
    values = [contact.get("alternate_emails") for contact in seen.json.contacts]
    types = {type(value).__name__ for value in values if value}
    forms = {addresses_form(cell) for cell in cells}
    if not forms:
        return NOT_SEEN
    shown = f"CSV {_code(forms)}; JSON {_code(types)}"
    variant = _ADDRESSES.get(min(forms))
    is_new = len(forms) > 1 or not variant or types != {"list"}
    return Answer(shown, (f"--alternate-emails {variant}",), is_new)


@_question("export without contacts")
def _empty_export(seen: _Seen) -> Answer:
    export = seen.api.empty if seen.api.contacts else seen.api.csv
    if not export or not export.is_ready or "--fault no-urls" in (_part_names(seen).options or ()):
        return NOT_SEEN
    file = read_csv(export)
    text = f"{len(export.parts)} part(s), {len(file.has_header)} with a header"
    if file.rows:
        return Answer(f"{text}, {len(file.rows)} row(s)", is_new=True)
    variant = "header" if file.has_header else "file" if export.parts else "none"
    return Answer(text, (f"--empty-export {variant}",))

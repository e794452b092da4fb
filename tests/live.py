"""Print the raw facts of a SendGrid account, to paste into an issue: `python -m tests.live`.

It needs only `requests` and shares no code with the tap. It creates two exports, and one of an
empty list if there is one; all else is read. Of values, it prints nothing but their form.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import time
import zlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import requests
import urllib3

if TYPE_CHECKING:
    from collections.abc import Iterable

EXPORTS = "/v3/marketing/contacts/exports"
# Of a larger account, three lists up to this size are exported, if it has such lists.
MAX_CONTACTS = 5000
# Of a larger export, only so much is read.
MAX_PARTS, MAX_PART_BYTES, MAX_TEXT_BYTES = 5, 10_000_000, 50_000_000
_MAX_WAIT, _TIMEOUT = 600, 60
# All other names in files are of the account.
_NAMES = {
    *("email", "first_name", "last_name", "address_line_1", "address_line_2", "city", "country"),
    *("state_province_region", "postal_code", "alternate_emails", "phone_number", "whatsapp"),
    *("line", "facebook", "unique_name", "created_at", "updated_at", "contact_id", "custom_fields"),
    *("phone_number_id", "external_id", "anonymous_id", "list_ids", "segment_ids"),
}
_FORMS = {
    "<uuid>": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "<email>": r"""[^\s,;|"'\[\]<>{}]+@[^\s,;|"'\[\]<>{}]+""",
    "9": r"\d",
    "a": r"[^\W\d_]{2,}|(?![TZeE])[^\W\d_]",
}
_FORM = re.compile("|".join(f"({form})" for form in _FORMS.values()), re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z_][\w./-]{0,60}", re.ASCII)
_FILE_WORD = re.compile(r"(?<![a-z])(exports?|contacts|part|csv|json|gzip|gz|zip)(?![a-z])")
_NUMBER = re.compile(r"[+-]?(\d+)(?:\.(\d+))?")
_BOM = "\ufeff"


def mask(text: object) -> str:
    """Return the form of a text: `9` for digits, `a` for letters, `<uuid>`, `<email>`."""
    forms = [*_FORMS]
    masked = _FORM.sub(lambda match: forms[(match.lastindex or 1) - 1], str(text)[:200])
    return masked[:60].encode("ascii", "replace").decode()


def word(text: object) -> str:
    """Return a word of a protocol, such as a status or a header's name; else its form."""
    return str(text) if _WORD.fullmatch(str(text)) else mask(text)


def show(texts: Iterable[object]) -> str:
    return ", ".join(f"`{text}`" for text in sorted({*map(str, texts)})[:40]) or "none"


def keys(*objects: dict[str, Any]) -> str:
    return f"keys: {show(word(key) for each in objects for key in each)}"


class LiveApi:
    """The API and the storage of an account."""

    def __init__(self, url: str, api_key: str) -> None:
        parts = urlsplit(url)
        self._is_local = parts.hostname in ("127.0.0.1", "localhost")
        if parts.scheme != "https" and not self._is_local:
            raise SystemExit("SENDGRID_API_URL is not an https URL")

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {api_key}"
            return request

        self._url, self._auth = url.rstrip("/"), authorize
        self.header_names: set[str] = set()

    def request(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of a response."""
        options: Any = {"json": body, "auth": self._auth, "allow_redirects": False}
        try:
            response = requests.request(method, self._url + path, timeout=_TIMEOUT, **options)
            content = response.json() if response.text.startswith("{") else {}
        except (requests.RequestException, ValueError) as error:
            # The chain of exceptions has the URL, or the key.
            raise SystemExit(f"{method} {self._url}: {type(error).__name__}") from None
        if response.status_code == requests.codes.unauthorized:
            raise SystemExit("API key rejected (HTTP 401)")
        self.header_names |= {*response.headers}
        return response.status_code, content

    def collect(self, path: str, key: str) -> tuple[list[dict[str, Any]], str]:
        """Return the items of a collection, and its facts."""
        status, body = self.request("GET", path)
        items: list[dict[str, Any]] = body.get(key) or []
        size = len(items) or f"`{json.dumps(body.get(key, 'absent'))}`"
        repeated = len(items) - len({item.get("id") for item in items})
        return items, f"HTTP {status}, {size}; repeated ids: {repeated}; {keys(*items)}"

    def create(self, body: dict[str, Any]) -> tuple[str, str]:
        """Return the path of a new export, and the facts of the request."""
        facts = []
        # Small parts, so that there are several; without the limit if it is rejected.
        for options in ({"max_file_size": 1}, {}):
            status, created = self.request("POST", EXPORTS, body | options)
            facts.append(f"with {show(body | options)}: HTTP {status}, {keys(created)}")
            if status != requests.codes.bad_request:
                break
        return f"{EXPORTS}/{created['id']}" if created.get("id") else "", "; ".join(facts)

    def read(self, path: str, poll_interval: float) -> tuple[list[str], dict[str, str]]:
        """Return the texts of an export's parts, and the facts of the export."""
        polls = [self.request("GET", path)[1]]
        start = time.monotonic()
        while polls[-1].get("status") == "pending" and time.monotonic() < start + _MAX_WAIT:
            time.sleep(poll_interval)
            polls.append(self.request("GET", path)[1])
        seconds, end = time.monotonic() - start, polls[-1]
        urls = [str(url) for url in end.get("urls") or []]
        downloads = [self._download(url) for url in urls[:MAX_PARTS]]
        later = [str(url) for url in self.request("GET", path)[1].get("urls") or []]
        times = (f"{key} {end[key]}" for key in ("created_at", "expires_at") if key in end)
        return [text for text, _ in downloads], {
            "status": f"{show(word(poll.get('status')) for poll in polls)} in {seconds:.0f} s; "
            f"{', '.join(times)}; contact_count: {end.get('contact_count')}; {keys(*polls)}; "
            f"`urls` at first: {word(type(polls[0].get('urls')).__name__)}",
            "URLs": describe_urls(urls, later),
            "downloads": " // ".join(sorted({facts for _, facts in downloads})),
        }

    def _download(self, url: str) -> tuple[str, str]:
        """Return text and facts of a part: never why it failed, which has the signed URL."""
        if not self._is_local and not url.startswith("https://"):
            return "", "not an https URL"
        # A function as `auth` keeps requests from sending a password from .netrc.
        options: Any = {"auth": lambda request: request, "stream": True, "allow_redirects": False}
        options["headers"] = {"Accept-Encoding": "identity"}
        try:
            with requests.get(url, timeout=_TIMEOUT, **options) as response:
                raw = response.raw.read(MAX_PART_BYTES, decode_content=False)
                member = zlib.decompressobj(wbits=31)
                is_gzip = raw.startswith(b"\x1f\x8b")
                data = member.decompress(raw, MAX_TEXT_BYTES) if is_gzip else raw
        except (requests.RequestException, urllib3.exceptions.HTTPError, zlib.error) as error:
            return "", type(error).__name__
        text = data.decode(errors="replace")
        encoding = word(response.headers.get("Content-Encoding", "absent"))
        return text.removeprefix(_BOM), (
            f"HTTP {response.status_code}; Content-Encoding: `{encoding}`; gzip: {is_gzip}; more "
            f"gzip members: {bool(member.unused_data)}; byte order mark: {text.startswith(_BOM)}; "
            f"headers: {show(map(word, response.headers))}"
        )


def describe_urls(urls: list[str], later: list[str]) -> str:
    """Return the facts of signed URLs, and whether the next status response has the same."""
    parts, paths = [urlsplit(url) for url in urls], [urlsplit(url).path for url in later]
    query = [pair for part in parts for pair in parse_qsl(part.query)]
    lives = (value for name, value in query if name == "X-Amz-Expires" and value.isdecimal())
    pieces = ([*enumerate(_FILE_WORD.split(part.path))] for part in parts)
    forms = ("".join(text if i % 2 else mask(text) for i, text in each) for each in pieces)
    return (
        f"{len(urls)} at {show(word(part.hostname) for part in parts)}: {show(forms)}; query: "
        f"{show(word(name) for name, _ in query)}; life: {show(lives)} s; in the next response: "
        f"same paths: {paths == [part.path for part in parts]}, same queries: {later == urls}"
    )


def read_csv(texts: list[str]) -> tuple[list[dict[str, str]], str]:
    """Return the rows by lower-case column name, and the facts of the files."""
    # Before Python 3.11 the module rejects NUL.
    sources = (io.StringIO(text.replace("\0", ""), newline="") for text in texts)
    parts = [[row for row in csv.reader(source) if row] for source in sources]
    first_rows = [part[0] for part in parts if part]
    header = next((row for row in first_rows if "EMAIL" in map(str.upper, row)), [])
    rows = [row for part in parts for row in part if row != header]
    contacts = [dict(zip(map(str.lower, header), row, strict=False)) for row in rows]
    return contacts, (
        f"{len(rows)} rows, {len({c.get('contact_id') for c in contacts})} different; header in "
        f"{first_rows.count(header)} of {len(parts)}; widths: {show(map(len, [header, *rows]))}; "
        f"columns: {', '.join(name if name.lower() in _NAMES else '<other>' for name in header)}"
    )


def read_json(texts: list[str]) -> tuple[list[dict[str, Any]], str]:
    """Return the contacts, custom fields among their keys, and the facts of the files."""
    contacts: list[dict[str, Any]] = []
    names: set[str] = set()
    for line in filter(None, (line for text in texts for line in text.split("\n"))):
        try:
            contact = json.loads(line, parse_int=Decimal, parse_float=Decimal)
            values = {**contact, **(contact.get("custom_fields") or {})}
        except (AttributeError, TypeError, ValueError):
            contact, values = {"": "an invalid line"}, {}
        names |= {name if name in _NAMES else "<other>" for name in contact}
        contacts.append({name.lower(): value for name, value in values.items()})
    return contacts, f"{len(contacts)} lines; keys: {show(names)}"


def describe_values(cells: list[str], values: list[object]) -> str:
    """Return the forms of values in both files; of numbers, how long and how exact they are."""
    plain = [match for text in (*cells, *map(str, values)) if (match := _NUMBER.fullmatch(text))]
    whole = max((len(match[1]) for match in plain if not match[2]), default=0)
    decimals = max((len(match[2] or "") for match in plain), default=0)
    kinds = show(type(value).__name__ for value in values)
    shown = f"CSV {show(map(mask, cells))}; JSON {kinds}: {show(map(mask, values))}"
    longest = f"; longest whole number: {whole} digits; most decimals: {decimals}"
    return shown + longest if plain else shown


def collect_facts(url: str, api_key: str, *, poll_interval: float = 2) -> dict[str, str]:
    """Return the facts of an account by topic; exit with the reason if there are none."""
    api = LiveApi(url, api_key)
    status, body = api.request("GET", "/v3/scopes")
    scopes = [word(each) for each in body.get("scopes") or [] if str(each).startswith("marketing")]
    facts = {"API": f"`{word(urlsplit(url).hostname)}`", "scopes": f"HTTP {status}, {show(scopes)}"}
    status, body = api.request("GET", "/v3/marketing/contacts/count")
    facts["contacts"] = f"HTTP {status}, {body.get('contact_count')}; {keys(body)}"
    fields, facts["fields"] = api.collect("/v3/marketing/field_definitions", "custom_fields")
    lists, facts["lists"] = api.collect("/v3/marketing/lists?page_size=1000", "result")
    _, facts["segments"] = api.collect("/v3/marketing/segments/2.0", "results")
    _, facts["earlier exports"] = api.collect(EXPORTS, "result")

    sizes = {str(each.get("id")): each.get("contact_count") or 0 for each in lists}
    selected = [each for each, size in sizes.items() if 0 < size <= MAX_CONTACTS][:3]
    is_small = (body.get("contact_count") or 0) <= MAX_CONTACTS
    selection = {"list_ids": selected} if selected else {}
    bodies = {
        "CSV": {"file_type": "csv", **selection},
        "JSON": {"file_type": "json", **({} if is_small else selection)},
    }
    if empty := [each for each, size in sizes.items() if not size]:
        bodies["empty list"] = {"file_type": "csv", "list_ids": empty[:1]}
    facts["members of the lists"] = str([sizes[each] for each in selected])
    texts: dict[str, list[str]] = {}
    for name, (path, created) in {name: api.create(bodies[name]) for name in bodies}.items():
        facts[f"{name}: request"] = created
        texts[name], seen = api.read(path, poll_interval) if path else ([], {})
        facts |= {f"{name}: {topic}": fact for topic, fact in seen.items()}
    rows, facts["CSV: files"] = read_csv(texts["CSV"])
    contacts, facts["JSON: files"] = read_json(texts["JSON"])
    facts["empty list: files"] = read_csv(texts.get("empty list", []))[1]

    columns = {name: [name] for name in ("created_at", "updated_at", "alternate_emails")}
    for field in fields:
        columns.setdefault(f"{word(field['field_type'])} fields", []).append(field["name"].lower())
    # A text is of any form.
    columns.pop("Text fields", None)
    for topic, names in columns.items():
        facts[topic] = describe_values(
            [row[name] for row in rows for name in names if row.get(name)],
            [each[name] for each in contacts for name in names if each.get(name)],
        )
    return facts | {"headers of the API": show(map(word, api.header_names))}


def main() -> None:
    """Print the table of the account of SENDGRID_API_KEY."""
    key = os.environ.get("SENDGRID_API_KEY") or sys.exit("SENDGRID_API_KEY is not set")
    facts = collect_facts(os.environ.get("SENDGRID_API_URL", "https://api.sendgrid.com"), key)
    rows = [f"| {topic} | {fact.replace('|', '/')} |" for topic, fact in facts.items()]
    sys.stdout.write("\n".join(["| topic | seen |", "|---|---|", *rows]) + "\n")


if __name__ == "__main__":
    main()

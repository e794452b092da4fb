"""Asks a SendGrid account what the documentation leaves open, and keeps the raw responses.

It shares no code with the tap: it judges the service, not the tap. It creates two exports, and up
to two more if the account can show what an empty one looks like; all else is read.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from requests.structures import CaseInsensitiveDict

if TYPE_CHECKING:
    from collections.abc import Callable

EXPORTS = "/v3/marketing/contacts/exports"
MAX_CONTACTS = 5000
MAX_PARTS = 10
MAX_PART_BYTES = 50_000_000
_MAX_WAIT = 600.0
_TIMEOUT = 60
# A request without optional keys may be accepted. After a 5xx, there may be an export already.
_REJECTED = {*range(400, 500)} - {requests.codes.forbidden, requests.codes.too_many_requests}
_GZIP_MAGIC = b"\x1f\x8b"


class ProbeError(Exception):
    """The API cannot be asked."""


class Response(NamedTuple):
    """A response of the API: its body is empty unless it is a JSON object."""

    status: int
    body: dict[str, Any]


@dataclass
class Part:
    """A downloaded part.

    Attributes:
        status: HTTP status, 0 if there was no response.
        headers: Headers of the response.
        raw: The bytes as they came.
        data: The bytes decompressed.
        gzip_members: How many gzip members there are, 0 if it is not gzip.
    """

    status: int = 0
    headers: CaseInsensitiveDict[str] = field(default_factory=CaseInsensitiveDict)
    raw: bytes = b""
    data: bytes = b""
    gzip_members: int = 0


@dataclass
class Export:
    """An export, from the create request to its parts.

    Attributes:
        body: Body of the last create request.
        first_post: HTTP status of the first create request, with the optional keys.
        post: HTTP status of the last one.
        id: Id of the export, empty if there is none.
        polls: Status responses, the first ready one included.
        listings: URLs of each ready status response; the parts are those of the first.
        seconds: Time until it was no longer pending.
        parts: Downloaded parts.
    """

    body: dict[str, Any]
    first_post: int = 0
    post: int = 0
    id: str = ""
    polls: list[dict[str, Any]] = field(default_factory=list)
    listings: list[list[str]] = field(default_factory=list)
    seconds: float = 0
    parts: list[Part] = field(default_factory=list)

    @property
    def end(self) -> dict[str, Any]:
        """The last status response."""
        return self.polls[-1] if self.polls else {}

    @property
    def is_ready(self) -> bool:
        """Whether it became ready."""
        return self.end.get("status") == "ready"

    @property
    def has_no_contacts(self) -> bool:
        """Whether it is a JSON export without contacts."""
        if not self.parts:
            return self.is_ready and (self.end.get("contact_count") or 0) <= 0
        return not any(b"{" in part.data for part in self.parts)

    @property
    def is_read(self) -> bool:
        """Whether all its parts were downloaded to their end."""
        return (
            self.is_ready
            and len(self.parts) == len(self.listings[0])
            and all(part.status == requests.codes.ok for part in self.parts)
            and all(len(part.raw) < MAX_PART_BYTES for part in self.parts)
        )


@dataclass
class Observation:
    """What the account responded.

    Attributes:
        url: URL of the API.
        scopes: Response to `GET /v3/scopes`; likewise the next five.
        selection: The lists and segments in the CSV export, smallest first; empty for all contacts.
        csv: Export of the selection.
        json: Export of all contacts; of the selection, if there are too many contacts.
        is_limited: Whether the JSON export was rejected until the CSV export was ready.
        nobody: JSON export whose empty arrays selected no contacts.
        empty: CSV export of an empty list.
    """

    url: str
    scopes: Response
    fields: Response
    lists: Response
    segments: Response
    count: Response
    exports: Response
    selection: list[tuple[str, str, int]] = field(default_factory=list)
    csv: Export = field(default_factory=lambda: Export({}))
    json: Export = field(default_factory=lambda: Export({}))
    is_limited: bool = False
    nobody: Export | None = None
    empty: Export | None = None

    @property
    def contacts(self) -> int:
        """Number of contacts in the account."""
        return self.count.body.get("contact_count") or 0

    @property
    def all_exports(self) -> list[Export]:
        """The exports that were requested."""
        return [export for export in (self.csv, self.json, self.nobody, self.empty) if export]

    def custom_fields(self) -> list[dict[str, Any]]:
        """Return the definitions of the custom fields."""
        return self.fields.body.get("custom_fields") or []

    def audiences(self) -> list[tuple[str, str, int]]:
        """Return key in the request, id and size of each list and segment, smallest first."""
        sizes = [
            *(
                ("list_ids", each["id"], each.get("contact_count") or 0)
                for each in self.lists.body.get("result") or []
            ),
            *(
                ("segment_ids", each["id"], each.get("contacts_count") or 0)
                for each in self.segments.body.get("results") or []
            ),
        ]
        return sorted(sizes, key=lambda audience: audience[2])


def observe(url: str, api_key: str, *, poll_interval: float = 2) -> Observation:
    """Ask an account.

    Args:
        url: URL of the API.
        api_key: API key of the account.
        poll_interval: Seconds between two status requests.

    Raises:
        ProbeError: The API does not respond, or rejects the API key.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost"):
        raise ProbeError("SENDGRID_API_URL is not an https URL")
    api = _Api(url, api_key, poll_interval)
    seen = Observation(
        url=url,
        scopes=api.get("/v3/scopes"),
        fields=api.get("/v3/marketing/field_definitions"),
        lists=api.get("/v3/marketing/lists?page_size=1000"),
        segments=api.get("/v3/marketing/segments/2.0"),
        count=api.get("/v3/marketing/contacts/count"),
        exports=api.get(EXPORTS),
    )
    seen.selection = _select(seen.audiences())
    selected = {
        key: [id_ for key_, id_, _ in seen.selection if key_ == key] for key, _, _ in seen.selection
    }
    is_small = seen.contacts <= MAX_CONTACTS
    everyone = {"file_type": "json", **({} if is_small else selected)}
    empty_arrays: dict[str, Any] = {"list_ids": [], "segment_ids": []} if is_small else {}

    seen.csv = api.create({"file_type": "csv", **selected}, {"max_file_size": 1})
    seen.json = api.create(everyone, empty_arrays)
    seen.is_limited = seen.json.post == requests.codes.too_many_requests
    api.finish(seen.csv)
    if seen.is_limited:
        seen.json = api.create(everyone, empty_arrays)
    api.finish(seen.json)
    if seen.contacts and "list_ids" in seen.json.body and seen.json.has_no_contacts:
        seen.nobody = seen.json
        seen.json = api.create(everyone)
        api.finish(seen.json)
    empty_lists = [id_ for key, id_, size in seen.audiences() if key == "list_ids" and not size]
    if seen.contacts and empty_lists:
        seen.empty = api.create({"file_type": "csv", "list_ids": empty_lists[:1]})
        api.finish(seen.empty)
    return seen


def _select(audiences: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Return the smallest lists and segments that have contacts, up to a total."""
    selection: list[tuple[str, str, int]] = []
    total = 0
    for audience in audiences:
        total += audience[2]
        if audience[2] and (total <= MAX_CONTACTS or not selection):
            selection.append(audience)
    return selection


class _Api:
    def __init__(self, url: str, api_key: str, poll_interval: float) -> None:
        self._url = url.rstrip("/")
        self._poll_interval = poll_interval

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {api_key}"
            return request

        # A function as `auth` keeps requests from sending a password from .netrc instead.
        self._api = _session(authorize)
        self._storage = _session(lambda request: request)

    def get(self, path: str) -> Response:
        return self._request("GET", path)

    def create(self, body: dict[str, Any], optional: dict[str, Any] | None = None) -> Export:
        """Create an export, without the optional keys if they are rejected."""
        export = Export({**body, **(optional or {})})
        export.first_post, created = self._request("POST", EXPORTS, export.body)
        export.post = export.first_post
        if optional and export.post in _REJECTED:
            export.body = body
            export.post, created = self._request("POST", EXPORTS, body)
        export.id = str(created.get("id") or "")
        return export

    def finish(self, export: Export) -> None:
        """Wait for an export, download its parts, and list them twice more."""
        if not export.id:
            return
        start = time.monotonic()
        while export.end.get("status", "pending") == "pending":
            if export.polls:
                time.sleep(self._poll_interval)
            export.seconds = time.monotonic() - start
            if export.seconds > _MAX_WAIT:
                return
            export.polls.append(self.get(f"{EXPORTS}/{export.id}").body)
        if not export.is_ready:
            return
        export.listings.append(export.end.get("urls") or [])
        for url in export.listings[0][:MAX_PARTS]:
            export.parts.append(self._download(url))
        for _ in range(2):
            export.listings.append(self.get(f"{EXPORTS}/{export.id}").body.get("urls") or [])

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Response:
        try:
            response = self._api.request(
                method, self._url + path, json=body, timeout=_TIMEOUT, allow_redirects=False
            )
        except requests.RequestException as error:
            # The chain of exceptions has the URL.
            raise ProbeError(f"{method} {self._url}: {type(error).__name__}") from None
        if response.status_code == requests.codes.unauthorized:
            raise ProbeError("API key rejected (HTTP 401)")
        try:
            data = response.json()
        except ValueError:
            data = None
        return Response(response.status_code, data if isinstance(data, dict) else {})

    def _download(self, url: str) -> Part:
        """Download a part, without a word of why it failed: that has the signed URL."""
        part = Part()
        headers = {"Accept-Encoding": "identity"}
        try:
            with self._storage.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                part.status, part.headers = response.status_code, response.headers
                part.raw = response.raw.read(MAX_PART_BYTES, decode_content=False)
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            return part
        part.data, part.gzip_members = _decompress(part.raw)
        return part


def _session(
    auth: Callable[[requests.PreparedRequest], requests.PreparedRequest],
) -> requests.Session:
    session = requests.Session()
    session.auth = auth
    # Not the POST: it could create a second export.
    retries = urllib3.Retry(2, redirect=None, allowed_methods=["GET"])
    session.mount("https://", requests.adapters.HTTPAdapter(max_retries=retries))
    return session


def _decompress(raw: bytes) -> tuple[bytes, int]:
    """Return the contents, and the number of gzip members; what is damaged is left out."""
    if not raw.startswith(_GZIP_MAGIC):
        return raw, 0
    data, members = b"", 0
    while raw.startswith(_GZIP_MAGIC):
        member = zlib.decompressobj(wbits=31)
        try:
            data += member.decompress(raw)
        except zlib.error:
            break
        members += 1
        raw = member.unused_data
    return data, members

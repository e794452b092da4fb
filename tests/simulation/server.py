"""The API and the storage of a simulated account, with faults.

Everything is drawn from the seed and from what it is drawn for, never from one sequence: the
threads of the tap may interleave in any way without changing what happens to a request.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.simulation.account import MAIL_DOMAIN, SimulatedAccount, iso
from tests.simulation.exports import DAMAGES, LIFETIME, SimulatedExport, find_exports, source_key

API_KEY = "SG.simulated.key-that-no-log-may-quote"
SIGNATURE = "c0ffeesignature"

_URL_LIFETIME = 300


class SimulatedReply(NamedTuple):
    """A response; with `error`, there is none."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    error: str = ""


@dataclass
class SimulatedServer:
    """The API and the storage of one account.

    Attributes:
        calm: Whether faults have ended.
        damages: What can be wrong with an export.
        run: Number of the run, for what is drawn.
        config: Identifies the tap's settings.
        state: The state that the run was started with.
        ready: By source, the export that this run was told is ready.
        fresh: By source, all such exports since the last complete run.
        finished: The sources that an interrupted run has read to their end.
        unfinished_since: When the first export after that was created.
        violations: What the tap must not do to a server.
    """

    seed: str
    now: float
    story: list[str]
    invalid_values: bool
    damages: tuple[str, ...] = DAMAGES
    calm: bool = False
    run: int = 0
    config: str = ""
    state: str = ""
    rejected: str = ""
    exports: dict[str, SimulatedExport] = field(default_factory=dict)
    ready: dict[str, SimulatedExport] = field(default_factory=dict)
    fresh: dict[str, dict[str, SimulatedExport]] = field(default_factory=dict)
    created_by_run: dict[str, SimulatedExport] = field(default_factory=dict)
    downloads_before_creation: int = 0
    finished: set[str] = field(default_factory=set)
    unfinished_since: float | None = None
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng("account")
        self.skew = rng.choice((0, 0, 0, -70, 45))
        self.fault_rate = rng.choice((0.0, 0.02, 0.1, 0.3))
        self.damage_rate = rng.choice((0.0, 0.1, 0.3, 0.6))
        self.change_rate = rng.choice((0.0, 0.05, 0.3))
        self.nonce = rng.choice(("", "", "X-Request-Token", "generation"))
        self.etag = rng.choice(('"%s"', 'W/"%s"', ""))
        self.account = SimulatedAccount(rng, self.now, invalid_values=self.invalid_values)
        self._issued: dict[str, tuple[str, int, float]] = {}
        self._requests: Counter[Any] = Counter()
        self._outage = (0.0, 0.0)

    def rng(self, *what: object) -> random.Random:
        return random.Random(f"{self.seed} {what}")

    def start_run(self, config: str, state: str) -> None:
        """Start the next run of the tap."""
        self.run += 1
        if config != self.config and config:
            # With other columns, what was finished is read again. A discovery has none.
            self.finished.clear()
        self.config, self.state = config or self.config, state
        self.ready, self.created_by_run = {}, {}
        self.downloads_before_creation = 0
        rng = self.rng("run", self.run)
        self._requests.clear()
        self._outage = (0.0, 0.0)
        if rng.random() < self.fault_rate / 2:
            start = self.now + rng.choice((0, 1, 5, 20))
            self._outage = (start, start + rng.choice((2, 30, 400)))
        sources = sorted(self.account.audiences)
        self.rejected = rng.choice(sources) if rng.random() < self.fault_rate / 4 else ""
        if self.calm:
            self.rejected, self._outage = "", (0.0, 0.0)

    # --- requests ---------------------------------------------------------------------------

    def respond(
        self, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> SimulatedReply:
        """Respond to a request, or not."""
        parts = urlsplit(url)
        is_storage = parts.hostname == "storage.example"
        key = (method, parts.path)
        self._requests[key] += 1
        rng = self.rng(self.run, *key, self._requests[key])
        if sum(self._requests.values()) > 1500:
            self.violations.append("livelock: more than 1,500 requests in a run")
            return SimulatedReply(401)
        if rng.random() < self.change_rate and not self.calm:
            self.account.change(rng, self.now + self.skew)
        if is_storage:
            reply = self._download(url, headers, rng)
        elif headers.get("Authorization") != f"Bearer {API_KEY}":
            self.violations.append(f"{method} {parts.path} without the API key")
            reply = SimulatedReply(401)
        else:
            reply = self._api(method, parts.path, body, rng)
            date = {"Date": formatdate(self.now + self.skew, usegmt=True)}
            reply = reply._replace(headers=date | reply.headers)
        outcome = reply.error or f"{reply.status} {_brief(reply.body)}"
        self.story.append(f"    {self.now:.1f} {method} {parts.path[-44:]} -> {outcome}")
        return reply

    def _api(self, method: str, path: str, body: bytes, rng: random.Random) -> SimulatedReply:
        fault = rng.choice(("429", "500", "503", "reset", "timeout", "garbage"))
        is_out = self._outage[0] <= self.now < self._outage[1]
        is_faulty = (is_out or rng.random() < self.fault_rate) and not self.calm
        if method == "POST":
            if not is_faulty:
                return self._create(json.loads(body), rng, delivered=True)
            if fault in {"500", "reset", "garbage"} and rng.random() < 0.5 and not is_out:
                self._create(json.loads(body), rng, delivered=False)
        if is_faulty:
            return _fault("reset" if is_out else fault, rng)
        if path == "/v3/marketing/contacts/exports":
            return self._list_exports()
        if path.startswith("/v3/marketing/contacts/exports/"):
            return self._status(self.exports[path.rpartition("/")[2]], rng)
        collections: dict[str, Any] = {
            "/v3/marketing/field_definitions": {
                "custom_fields": [
                    {"id": key, "name": name, "field_type": type_}
                    for key, (name, type_) in self.account.fields.items()
                ]
            },
            "/v3/marketing/lists": {"result": self._audiences("list", "contact_count")},
            "/v3/marketing/segments/2.0": {"results": self._audiences("segment", "contacts_count")},
        }
        return _json(collections[path])

    def _audiences(self, type_: str, count: str) -> list[dict[str, Any]]:
        return [
            {"id": key, "name": name, count: len(members)}
            for key, (kind, name, members) in self.account.audiences.items()
            if kind == type_
        ]

    def _create(
        self, body: dict[str, Any], rng: random.Random, *, delivered: bool
    ) -> SimulatedReply:
        source = source_key(body)
        if self.rejected and self.rejected in source:
            return _json({"errors": [{"message": f"invalid list {self.rejected}"}]}, 400)
        self._judge_creation(source)
        damage = ""
        if rng.random() < self.damage_rate and not self.calm:
            damage = rng.choice(self.damages)
        export = SimulatedExport(
            f"export-{len(self.exports) + 1}",
            body,
            self.config,
            self.now,
            self.now + rng.choice((0, 0, 1, 8, 1 if self.calm else 70)),
            self.now + (rng.choice((0, 0, 0, 3, 20)) if not self.calm else 0),
            damage,
            truth=self.account.members(body),
            delivered=delivered,
        )
        if damage == "failed":
            export.reasons.append(damage)
        self.exports[export.id] = self.created_by_run[source] = export
        return _json({"id": export.id}, 202)

    def _judge_creation(self, source: str) -> None:
        """An export that could still be read must be resumed, not replaced."""
        self.unfinished_since = self.unfinished_since or self.now
        if self.now - self.unfinished_since > LIFETIME - 3600:
            return
        for export in self.exports.values():
            if export.source != source or export.reasons or export.config != self.config:
                continue
            known = (
                export.source in self.finished
                or export.id in find_exports(self.state)
                or (
                    self.created_by_run.get(source) is export
                    and (export.delivered or export.listed or self.now - export.visible_at > 1)
                )
            )
            if known:
                self.violations.append(f"needless export: {export.id} could have been resumed")

    def _list_exports(self) -> SimulatedReply:
        result = []
        for export in self.exports.values():
            if self.now < export.visible_at:
                continue
            export.listed = True
            lists, segments = (
                [{"ID": each, "Name": "x"} for each in export.body.get(key, ())]
                for key in ("list_ids", "segment_ids")
            )
            status = "ready" if self.now >= export.ready_at else "pending"
            if export.damage == "failed" and status == "ready":
                status = "failure"
            created = iso(export.created + self.skew)
            result.append(
                {"id": export.id, "status": status, "created_at": created}
                | {"lists": lists, "segments": segments, "urls": []}
            )
        return _json({"result": result})

    def _status(self, export: SimulatedExport, rng: random.Random) -> SimulatedReply:
        created = export.created + self.skew
        expires = created + (60 if export.damage == "expired" else LIFETIME)
        status: dict[str, Any] = {"id": export.id, "status": "pending"}
        status |= {"created_at": iso(created), "expires_at": iso(expires)}
        if self.now < export.visible_at:
            return _json({"errors": [{"message": "not found"}]}, 404)
        is_gone = export.damage == "gone" and self.now > export.ready_at + 30
        if is_gone or self.now > export.created + LIFETIME + 600:
            export.reasons.append("gone")
            return _json({"errors": [{"message": f"no export {export.id}"}]}, 404)
        if self.now < export.ready_at:
            return _json(status)
        if export.damage == "failed":
            message = f"failed for somebody@{MAIL_DOMAIN}"
            return _json(status | {"status": "failure", "message": message})
        if self.now + self.skew >= expires:
            export.reasons.append("expired")
        if not export.is_built:
            export.build(self.rng("build", export.id), self.account)
        self.ready[export.source] = self.fresh.setdefault(export.source, {})[export.id] = export
        count = {} if export.count is None else {"contact_count": export.count}
        return _json(status | {"status": "ready", "urls": self._urls(export, rng)} | count)

    def _urls(self, export: SimulatedExport, rng: random.Random) -> list[str]:
        numbers = list(range(len(export.parts)))
        if export.damage == "repeated url" and len(numbers) > 1:
            numbers[-1] = numbers[0]
        if export.damage == "vanished" and len(numbers) > 1 and "vanished" in export.reasons:
            export.damage = ""
            for files in (numbers, export.rows, export.parts):
                del files[-1:]
        rng.shuffle(numbers)
        urls = []
        for number in numbers:
            token = f"{SIGNATURE}{len(self._issued)}"
            self._issued[token] = (export.id, number, self.now)
            query = f"X-Amz-Date={int(self.now)}&X-Amz-Expires={_URL_LIFETIME}"
            if self.nonce:
                query += f"&{self.nonce}={rng.getrandbits(32)}"
            path = f"{export.id}-{number}.gzip"
            urls.append(f"https://storage.example/1/{path}?{query}&X-Amz-Signature={token}")
        return urls

    def _download(self, url: str, headers: dict[str, str], rng: random.Random) -> SimulatedReply:
        query = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
        export_id, number, issued = self._issued.get(query.get("X-Amz-Signature", ""), ("", 0, 0))
        if "Authorization" in headers:
            self.violations.append("the storage was sent the API key")
        if not export_id or self.now - issued > _URL_LIFETIME:
            return SimulatedReply(403, b"<Error>expired</Error>")
        fault = ""
        if rng.random() < self.fault_rate and not self.calm:
            fault = rng.choice(("403", "429", "500", "reset", "cut", "cut", "cut silently"))
        if fault and not fault.startswith("cut"):
            return _fault(fault, rng)
        self.downloads_before_creation += not self.created_by_run
        export = self.exports[export_id]
        if number >= len(export.parts):
            return SimulatedReply(404)
        if export.damage == "vanished":
            # From the next status on, a part is missing.
            export.reasons.append("vanished")
        if export.damage == "rewritten" and rng.random() < 0.5:
            export.reasons.append("rewritten")
            export.rows[number].reverse()
            export.parts[number] = export.encode(export.rows[number], self.account.fields)
        if fault == "cut silently":
            export.reasons.append(fault)
        return self._send(export.parts[number], headers, fault, rng)

    def _send(
        self, content: bytes, headers: dict[str, str], fault: str, rng: random.Random
    ) -> SimulatedReply:
        """Send a part or the rest of it, whole or cut."""
        etag = self.etag % _hash(content) if self.etag else ""
        reply_headers = {"ETag": etag} if etag else {}
        start, status = 0, 200
        if match := headers.get("If-Match"):
            if match != etag:
                return SimulatedReply(412)
            start, status = int(headers["Range"].removeprefix("bytes=").rstrip("-")), 206
            size = len(content)
            reply_headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        rest = content[start:]
        if fault != "cut silently":
            reply_headers["Content-Length"] = str(len(rest))
        if fault:
            rest = rest[: rng.randrange(len(rest) + 1)]
        return SimulatedReply(status, rest, reply_headers)


def _hash(content: bytes) -> str:
    return f"{random.Random(content).getrandbits(64):x}"


def _json(value: Any, status: int = 200) -> SimulatedReply:  # noqa: ANN401 - any JSON
    return SimulatedReply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _fault(fault: str, rng: random.Random) -> SimulatedReply:
    if fault == "garbage":
        return SimulatedReply(200, b"<html>")
    if not fault.isdecimal():
        return SimulatedReply(error=fault)
    headers = {"Retry-After": str(rng.choice((0, 1, 40)))} if fault in {"429", "503"} else {}
    message = f"error for somebody@{MAIL_DOMAIN}"
    return _json({"errors": [{"message": message}]}, int(fault))._replace(headers=headers)


def _brief(body: bytes) -> str:
    text = body[:160].decode(errors="replace")
    return text if text.startswith("{") else f"({len(body)} bytes)"

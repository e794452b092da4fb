"""Table of injectable faults, and the count of how often each still has to occur."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sendgrid_sandbox import responses
from sendgrid_sandbox.responses import after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sendgrid_sandbox.responses import Action

ALWAYS = 0

# What faults affect.
STAGE_TITLES = {
    "api": "Any API request",
    "text": "Text in API responses",
    "get": "Any GET request of the API",
    "post": "POST that creates an export",
    "fields": "Field definitions",
    "status": "Status requests",
    "lookup": "Status requests, per export",
    "export": "Export and its parts",
    "data": "Contents of the files",
    "part": "Download of a part",
    "storage": "Any download",
}


class Fault(NamedTuple):
    """A fault.

    Attributes:
        name: Name on the command line; `CODE` in it stands for an HTTP status.
        times: How often it occurs by default.
        help: Description for --help.
        action: Response to a request, if that is all the fault does.
    """

    name: str
    times: int
    help: str
    action: Action | None = None


FAULTS = {
    "api": (
        Fault("rate-limit", 1, "429 without any delay header", responses.rate_limit),
        Fault("rate-limit-seconds", 1, "429 with Retry-After: 1", responses.rate_limit_seconds),
        Fault("rate-limit-date", 1, "429, Retry-After in 2 s as a date", responses.rate_limit_date),
        Fault("rate-limit-reset", 1, "429, X-RateLimit-Reset in 2 s", responses.rate_limit_reset),
        Fault("html", 1, "200 with an HTML page instead of JSON", responses.html),
        Fault("reset", 1, "connection reset (TCP RST) instead of a response", responses.reset),
        Fault("hang", 1, "no response", responses.hang),
        Fault("slow", 1, "response after 1 s", responses.slow),
        Fault("forbidden", ALWAYS, "403 for every request", responses.forbidden),
        Fault("redirect-api", ALWAYS, "307 to where the API key logs LEAK", responses.redirect),
    ),
    "text": (
        Fault("control-characters", ALWAYS, "control characters in messages, names, export ids"),
        Fault("leaky-messages", ALWAYS, "API key, e-mail address and signed URL in messages"),
    ),
    "get": (Fault("error-CODE", 1, "this status for a GET"),),
    "post": (
        Fault("forbidden-post", ALWAYS, "403: the key may only read", responses.forbidden),
        Fault("post-CODE", 1, "this status for the POST, no export created"),
        Fault("post-lost-reset", 1, "POST reset, no export created", responses.reset),
        Fault("post-accepted-reset", 1, "POST reset, export created", after(responses.reset)),
        Fault("post-accepted-hang", 1, "no response, export created", after(responses.hang)),
        Fault("post-accepted-500", 1, "500, export created", after(responses.respond(500))),
    ),
    "fields": (Fault("forbidden-fields", ALWAYS, "403 for them", responses.forbidden),),
    "status": (
        Fault("status-CODE", 1, "this status for a status request"),
        Fault("status-html", 1, "200 with an HTML page for a status request", responses.html),
        Fault("status-reset", 1, "connection reset for a status request", responses.reset),
    ),
    "lookup": (Fault("export-not-found", 1, "404 for the export from its next status request on"),),
    "export": (
        Fault("failure", 1, "export ends in status `failure`, with a message"),
        Fault("expired", 1, "export is ready but expired; its URLs return 403"),
        Fault("unknown-status", ALWAYS, "export ends in an unknown status"),
        Fault("never-ready", ALWAYS, "export stays pending"),
        Fault("no-urls", ALWAYS, "export is ready and has contacts but no URLs"),
        Fault("count-high", ALWAYS, "contact_count is one more than the files hold"),
        Fault("count-low", ALWAYS, "contact_count is one less than the files hold"),
        Fault("count-missing", ALWAYS, "no contact_count"),
        Fault("part-missing", ALWAYS, "a URL is missing from the second ready status on"),
        Fault("vanished-part", ALWAYS, "likewise, the last part becomes a copy of the first"),
        Fault("repeated-part", ALWAYS, "the first part is listed twice, the last part never"),
        Fault("copied-part", ALWAYS, "the last part has the contents of the first"),
        Fault("shuffled-parts", ALWAYS, "order of the URLs changes with every ready status"),
        Fault("same-path", ALWAYS, "likewise, and URLs differ only in partNumber=N"),
        Fault("renamed-parts", ALWAYS, "likewise, and the paths change as well"),
        Fault("changing-query", ALWAYS, "URLs have a parameter that changes with every status"),
    ),
    "data": (
        Fault("empty-once", 1, "export without contacts: contact_count 0 and empty files"),
        Fault("truncated-gzip", ALWAYS, "gzip stream of the last part is truncated"),
        Fault("bad-crc", ALWAYS, "gzip checksum of the last part is wrong"),
        Fault("bad-line", ALWAYS, "a malformed line in the middle"),
        Fault("bad-width", ALWAYS, "a CSV row with an extra cell (JSON: trailing data)"),
        Fault("no-contact-id", ALWAYS, "no contact has a contact_id"),
        Fault("duplicate-header", ALWAYS, "two CSV headers that differ only in case"),
        Fault("bad-number", ALWAYS, "a Number field with text that is not a number"),
        Fault("bad-date", ALWAYS, "a Date field with text that is not a date"),
        Fault("invalid-utf8", ALWAYS, "an invalid UTF-8 byte"),
    ),
    "part": (
        Fault("part-reset", 1, "connection reset (TCP RST) in the middle of a part"),
        Fault("part-truncated", 1, "connection closed in the middle of a part"),
        Fault("part-stall", 1, "transfer stalls in the middle of a part"),
        Fault("part-expired", 1, "403: the signed URL has already expired"),
        Fault("part-CODE", 1, "this status for a part"),
        Fault("drip", 1, "a part that comes byte by byte, one per second"),
        Fault("redirect-part", 1, "307, to another port", responses.redirect),
        Fault("redirect-loop-part", ALWAYS, "302, to the same URL", responses.redirect_loop),
        Fault("redirect-empty-part", ALWAYS, "302, without Location", responses.redirect_empty),
        Fault("redirect-relative-part", ALWAYS, "302, to //host:port/...", responses.redirect_host),
    ),
    "storage": (
        Fault("no-range", ALWAYS, "Range is ignored: 200 and the complete part"),
        Fault("etag-changes", ALWAYS, "another ETag in every response"),
        Fault("no-etag", ALWAYS, "no ETag"),
        Fault("chunked", ALWAYS, "chunked transfer encoding, no Content-Length"),
        Fault("malformed-header", ALWAYS, "the last header line has no colon"),
    ),
}
BY_NAME = {fault.name: fault for faults in FAULTS.values() for fault in faults}


def find_fault(name: str) -> Fault:
    """Return a fault by its name: `post-503` is `post-CODE` with this status.

    Raises:
        KeyError: There is no such fault.
    """
    if name in BY_NAME and not name.endswith("-CODE"):
        return BY_NAME[name]
    kind, _, code = name.rpartition("-")
    if not re.fullmatch(r"[45]\d\d", code):
        raise KeyError(name)
    return BY_NAME[f"{kind}-CODE"]._replace(action=responses.respond(int(code)))


def parse_fault(text: str) -> tuple[str, int]:
    """Return name and number of times of a fault written as `NAME[:TIMES]`.

    Raises:
        ValueError: There is no such fault, or TIMES is not a number.
    """
    name, colon, times = text.partition(":")
    try:
        default = find_fault(name).times
    except KeyError:
        raise ValueError(f"unknown fault {name!r}; see --help") from None
    if colon and not times.isdecimal():
        raise ValueError(f"{text!r}: TIMES must be a number")
    return name, int(times) if colon else default


class Faults:
    """The faults of one server.

    Args:
        requested: How often each fault is to occur, in order of occurrence.
        log: Called with a line whenever a fault occurs.
    """

    def __init__(self, requested: Mapping[str, int], log: Callable[[str], None]) -> None:
        self._remaining: dict[str, float] = {}
        self._log = log
        for name, times in requested.items():
            self.inject(name, times)

    def inject(self, name: str, times: int) -> None:
        """Have a fault occur from now on, so many times or, if 0, every time."""
        self._remaining[name] = times or float("inf")

    def end(self) -> None:
        """Have no more faults occur; what an export has of them remains."""
        self._remaining.clear()

    def consume(self, name: str) -> bool:
        """Return whether a fault occurs now, and count it if so."""
        if not self.is_active(name):
            return False
        self._remaining[name] -= 1
        self._log(f"fault {name}")
        return True

    def is_active(self, name: str) -> bool:
        """Return whether a fault would occur now, without counting it."""
        return bool(self._remaining.get(name))

    def next_fault(self, *stages: str) -> Fault | None:
        """Return the fault that occurs now, if any; only one at a time does."""
        candidates = {fault.name for stage in stages for fault in FAULTS[stage]}
        for name in self._remaining:
            fault = find_fault(name)
            if fault.name in candidates and self.consume(name):
                return fault
        return None

    def active_faults(self, *stages: str) -> frozenset[str]:
        """Return the names of all faults that occur now."""
        candidates = [fault.name for stage in stages for fault in FAULTS[stage]]
        return frozenset(name for name in candidates if self.consume(name))

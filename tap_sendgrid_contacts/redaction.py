"""Keep secrets, contacts' data and control characters out of logs and error messages.

Texts of a server pass `sanitize` wherever they are shown. What libraries log is not shown at all.
"""

from __future__ import annotations

import logging
import re
from typing import Any

_MAX_LENGTH = 300

# Longer than what is shown, since it shrinks; short enough for any expression below.
_CUT_LENGTH = 1000

# API keys have 69 characters, and what is before the @ of an address up to 64.
_MAX_SECRET_LENGTH = 100

# A secret of a few characters would be found in any text.
_MIN_SECRET_LENGTH = 8

# As in a URL, encoded once or more, as JSON escapes them for HTML, and as HTML does.
_EQUALS = r"(?:=|%(?:25)*3D|\\u003d|&\#(?:61|x3d);)"
_AT = "(?:[@\uff20\ufe6b]|%(?:25)*40|\\\\u0040|&#(?:64|x40);)"

_REDACTIONS = (
    # Query, fragment and user info of a URL; the query of one without a scheme.
    (re.compile(r"(://)[^\s/?#@]*@"), r"\1"),
    (re.compile(r"(://[^\s?#]*)[?#]\S*"), r"\1"),
    (re.compile(r"\?[^\s?=]*=\S*"), ""),
    # What signs a URL or a request, quoted alone: `X-Amz-Signature=…`, `Authorization: Bearer …`.
    (
        re.compile(
            rf"""((?:\bx-(?:amz|goog)-[\w-]+|signature|token|secret|password|credential|policy
            |key-pair-id|access-?key-?id|accessid|api[_-]?key|\bsig)
            ["']?\s*(?:{_EQUALS}|:\s?(?=["']))\s*["']?|\bx-(?:amz|goog|api)-[\w-]+:\s*)
            [^\s&,;"']+""",
            re.IGNORECASE | re.VERBOSE,
        ),
        r"\1***",
    ),
    (re.compile(r"(\bbearer|authorization\W{1,3}basic)\s+[^\s,;\"']+", re.IGNORECASE), r"\1 ***"),
    # API keys, JSON web tokens, and e-mail addresses, whose first half can be quoted.
    (re.compile(r"SG\.[\w.-]+|\beyJ[\w-]+\.[\w.-]+"), "***"),
    (
        re.compile(
            rf"""(?:"[^"]{{1,64}}"|[^\s<>()",;:=/]+){_AT}[^\s<>()"',;:/&]+""", re.IGNORECASE
        ),
        "***",
    ),
)

# Loggers of the tap and the SDK. Libraries log URLs with their signatures, headers and
# credentials, and nobody knows all their loggers.
_SHOWN_LOGGERS = {"tap_sendgrid_contacts", "tap-sendgrid-contacts", "singer_sdk", "py.warnings"}

_secrets: set[str] = set()


def hide(secret: str) -> None:
    """Have `sanitize` replace a secret from now on."""
    if len(secret) >= _MIN_SECRET_LENGTH:
        _secrets.add(secret)


def one_line(text: str) -> str:
    """Return a text on one line, without characters that could forge another one."""
    return " ".join(_drop_hidden(text).split())


def sanitize(text: str) -> str:
    """Return a server's text as it may be logged: short, on one line, without secrets.

    Secrets are API keys and what signs URLs; contacts' e-mail addresses are replaced as well. The
    time it takes is linear in the length of the text.
    """
    is_cut = len(text) > _CUT_LENGTH
    text = _drop_hidden(text[:_CUT_LENGTH])
    if is_cut:
        # The end may be the start of a secret that no longer looks like one. A word may have no
        # end, in languages that are written without blanks.
        text = text[: max(text.rfind(" "), len(text) - _MAX_SECRET_LENGTH, 0)]
    for secret in _secrets:
        text = text.replace(secret, "***")
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())[:_MAX_LENGTH].rstrip()


def _drop_hidden(text: str) -> str:
    # Controls, and formats that hide or reorder text: a line of the log could be forged with them.
    return "".join(
        " " if char.isspace() else char for char in text if char.isspace() or char.isprintable()
    )


def silence_libraries() -> None:
    """Drop what libraries log, at any level.

    A logging configuration can replace handlers, filters and levels, but not the factory of
    records. Loggers that are created later are covered, too.
    """
    logging.setLogRecordFactory(_make_record)


def _make_record(name: str | None, *args: Any, **options: Any) -> logging.LogRecord:
    # `logging.makeLogRecord` has no name yet: it copies a record.
    if not name or name.partition(".")[0] in _SHOWN_LOGGERS:
        return logging.LogRecord(name or "", *args, **options)
    # No handler has a level so low; if one had, there would be nothing to show.
    return logging.LogRecord(name, -1, "", 0, "", (), None)

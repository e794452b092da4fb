"""What of a server's text, and of the log of libraries, may be shown."""

from __future__ import annotations

import json
import logging
import logging.config
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_sendgrid_contacts import redaction
from tap_sendgrid_contacts.redaction import hide, sanitize, silence_libraries

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "no-sendgrid-key-but-secret"
HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_secrets", set())
    hide(SECRET)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("two\nlines\r\nand\ttabs\u2028  ", "two lines and tabs"),
        (
            "is it? page_size=1000 is. 50 % of basic plans",
            "is it? page_size=1000 is. 50 % of basic plans",
        ),
        ("Ünïcödé 😀 名前", "Ünïcödé 😀 名前"),
        ("x" * 1000, "x" * 300),
        ("名前" * 1000, "名前" * 150),
        ("bad " + "://" * 30_000, "bad " + "://" * 98 + ":/"),
        ("word " * 100_000, ("word " * 60).strip()),
        # URLs
        ("see https://x/1?signature=secret, sorry", "see https://x/1 sorry"),
        ("https://x/1?a=secret https://x/2#b=secret", "https://x/1 https://x/2"),
        ("at https://user:secret@host/path", "at https://host/path"),
        ("not found: /part/1?X-Amz-Date=1&sig=secret", "not found: /part/1"),
        # signatures
        ("X-Amz-Signature=secret&x=1", "X-Amz-Signature=***&x=1"),
        ("x-goog-credential = secret, sig=secret", "x-goog-credential = ***, sig=***"),
        ("X-Amz-Security-Token%3Dsecret", "X-Amz-Security-Token%3D***"),
        (
            "token = 'secret', x-amz-date: secret",
            "token = '***', x-amz-date: ***",
        ),
        ("api_key: wrong; the token: none", "api_key: wrong; the token: none"),
        (
            '{"AWSAccessKeyId": "secret", "token":"secret"}',
            '{"AWSAccessKeyId": "***", "token":"***"}',
        ),
        (r"X-Amz-Signature%253Dsecret sig\u003dsecret", r"X-Amz-Signature%253D*** sig\u003d***"),
        ("sig&#61;secret x-api-key: secret", "sig&#61;*** x-api-key: ***"),
        ("token eyJhbGciOi.eyJzdWIi.secret, wrong", "token ***, wrong"),
        ("Authorization: Bearer secret", "Authorization: Bearer ***"),
        ("authorization: basic secret", "authorization: basic ***"),
        # keys
        ("key SG.secret-1.secret_2 is", "key *** is"),
        (f"key {SECRET} is", "key *** is"),
        ("key SG.\u200bsec\u00adret is", "key *** is"),
        (f"key {SECRET[:5]}\u202e{SECRET[5:]} is", "key *** is"),
        # addresses
        ("contact secret@example.com is", "contact *** is"),
        ("<first.last+secret@sub.example.com>, secret%40example.com", "<***>, ***"),
        ('"first last"@example.com, o\'secret@example.com', "***, ***"),
        ("secret%2540example.com a&secret&#64;example.com", "*** ***"),
        ("secret\\u0040example.com secret\uff20example.com", "*** ***"),
        # characters
        ("\x1b[31mred", "[31mred"),
        ("a\0b\x7f\x9b\u202e\u200b\ufeff\u061c\u180e\u00ad\U000e0041\ue000\ud800c", "abc"),
    ],
)
def test_text_is_sanitized(text: str, shown: str) -> None:
    assert sanitize(text) == shown


@pytest.mark.parametrize("length", range(980, 1020))
def test_secret_at_the_cut_is_not_shown(length: int) -> None:
    addresses = "; ".join(["somebody-with-a-long-name@example.com"] * 30)
    assert SECRET[:3] not in sanitize(f"{addresses[:length]} {SECRET}")


@given(st.text() | st.text("/:?@=&. SG", max_size=2000))
def test_sanitized_text_is_one_short_line_without_hidden_characters(text: str) -> None:
    shown = sanitize(text)
    assert len(shown) <= 300
    assert len(shown.splitlines()) <= 1
    assert not [char for char in shown if unicodedata.category(char) in HIDDEN]


def test_only_the_start_of_a_long_text_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    class Pattern:
        def sub(self, _replacement: str, text: str) -> str:
            lengths.append(len(text))
            return text

    monkeypatch.setattr(redaction, "_REDACTIONS", [(Pattern(), "")])
    sanitize(":// " * 1_000_000)
    assert lengths == [len(":// " * 250) - 1]


def test_copied_record_is_kept() -> None:
    silence_libraries()
    assert logging.makeLogRecord({"msg": "copied"}).getMessage() == "copied"


def test_short_secret_is_not_hidden() -> None:
    hide("a")
    assert sanitize("a cat") == "a cat"


# --- log ------------------------------------------------------------------------------------

LIBRARIES = [
    *("urllib3", "urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry"),
    *("requests", "requests.sessions", "backoff", "asyncio", "aiohttp.client"),
    *("botocore", "botocore.auth", "botocore.endpoint", "botocore.hooks", "boto3.resources"),
    *("aiobotocore", "aiobotocore.httpsession", "s3transfer", "s3fs", "fsspec", "gcsfs"),
    *("azure.core.pipeline.policies.http_logging_policy", "root"),
]


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("level", ["NOTSET", "DEBUG"])
def test_libraries_log_nothing_whatever_the_configuration(
    name: str, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    silence_libraries()
    handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "level": level}
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"all": handler},
        "loggers": {} if name == "root" else {name: {"level": "DEBUG", "handlers": ["all"]}},
        "root": {"level": "DEBUG", "handlers": ["all"]},
    }
    root = logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    logging.config.dictConfig(json.loads(json.dumps(config)))
    try:
        for logger in (
            root if name == "root" else logging.getLogger(name),
            logging.getLogger(f"{name}.new"),
        ):
            logger.debug("GET %s", "/part?X-Amz-Signature=secret")
            logger.critical("failed", exc_info=ValueError("secret"), stack_info=True)
        for shown in ("tap-sendgrid-contacts", "tap_sendgrid_contacts.api", "singer_sdk.metrics"):
            logging.getLogger(shown).error("shown by %s", shown)
    finally:
        root.handlers[:] = handlers
        root.setLevel(root_level)
        logging.getLogger(name).handlers.clear()
    log = capsys.readouterr().err
    assert log.count("shown by") == 3
    assert "secret" not in log
    assert "failed" not in log

"""Fixtures of the unit tests: no waits, no credentials of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tap_sendgrid_contacts.api.client import SendGridClient
from tap_sendgrid_contacts.api.http import RetryPolicy
from tap_sendgrid_contacts.api.request import ExportRequest
from tap_sendgrid_contacts.columns import ColumnLayout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tap_sendgrid_contacts.columns import Column, Hasher, OnInvalidValue

# On a busy machine any example may be slow.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")

API_KEY = "SG.the-secret.key"
NO_WAIT = RetryPolicy((0.0,) * 5)


class Clock:
    """A clock that only sleeping advances.

    Attributes:
        now: The monotonic time.
        sleeps: The seconds of each sleep.
    """

    def __init__(self) -> None:
        self.now = 50_000.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        # backoff itself sleeps 0 seconds after each wait of ours.
        if seconds:
            self.sleeps.append(seconds)
            self.now += seconds

    def wait(self, seconds: float, _reason: str) -> None:
        """Sleep, with the signature of `ProgressReporter.wait`."""
        self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock.monotonic)
    monkeypatch.setattr("time.sleep", clock.sleep)
    monkeypatch.setattr("tap_sendgrid_contacts.stopping.sleep", clock.sleep)
    return clock


def make_client(**options: Any) -> SendGridClient:
    """Return a client whose callers retry without waits, or one with other options."""
    usual = {
        "api_url": "https://api.sendgrid.com",
        "on_behalf_of": None,
        "request_timeout": 300,
        "retry": NO_WAIT,
    }
    return SendGridClient(API_KEY, **usual | options)


@pytest.fixture
def client() -> SendGridClient:
    return make_client()


def make_request(
    list_ids: tuple[str, ...] = (),
    segment_ids: tuple[str, ...] = (),
    file_type: str = "json",
    max_file_size: int | None = None,
    *,
    notify_email: bool = False,
) -> ExportRequest:
    """Return the parameters of an export of all contacts, or others."""
    return ExportRequest(list_ids, segment_ids, file_type, max_file_size, notify_email)


def make_layout(
    columns: Sequence[Column],
    on_invalid_value: OnInvalidValue = "fail",
    stamp: Mapping[str, str | None] | None = None,
    hasher: Hasher | None = None,
) -> ColumnLayout:
    """Return a layout without a stamp and hashes, or with them."""
    return ColumnLayout(columns, on_invalid_value, stamp or {}, hasher)


@pytest.fixture
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials for every host, which must not be sent to any."""
    file = tmp_path / "netrc"
    file.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(file))


def causes(error: BaseException | None) -> list[BaseException]:
    """Return the error and all that a traceback would show with it."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


def log_of_package(caplog: pytest.LogCaptureFixture) -> str:
    """Return what the package logged: it is the program that silences the log of urllib3."""
    return "\n".join(
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("tap_sendgrid_contacts")
    )

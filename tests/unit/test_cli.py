"""What the program changes in its process."""

from __future__ import annotations

import csv
import logging
import warnings
from typing import TYPE_CHECKING

import pytest
from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts import cli
from tap_sendgrid_contacts.cli import configure_process
from tap_sendgrid_contacts.decode.lines import MAX_ROW_BYTES
from tap_sendgrid_contacts.tap import TapSendGridContacts

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def configured() -> Iterator[None]:
    """Configure this process, and restore what that changes."""
    limit = csv.field_size_limit()
    logger = logging.getLogger("tap-sendgrid-contacts.contacts")
    filters, factory = logger.filters[:], logging.getLogRecordFactory()
    with warnings.catch_warnings():
        configure_process()
        yield
    csv.field_size_limit(limit)
    logger.filters[:] = filters
    logging.setLogRecordFactory(factory)


@pytest.mark.usefixtures("configured")
def test_error_that_the_sdk_logs_before_raising_it_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("tap-sendgrid-contacts.contacts")
    logger.error("An unhandled error occurred while syncing 'contacts'")
    logger.error("something else")
    assert caplog.messages == ["something else"]


@pytest.mark.usefixtures("configured")
def test_csv_cells_may_be_as_long_as_a_row() -> None:
    assert csv.field_size_limit() == MAX_ROW_BYTES


def test_unexpected_error_is_one_line_without_its_message(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise KeyError("ada@example.com")

    monkeypatch.setattr(TapSendGridContacts, "cli", fail)
    assert cli._run() == 1  # noqa: SLF001 - `main` would change this process for good
    (message,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert message.startswith("Unexpected error: KeyError (test_cli.py:")
    assert "LOGLEVEL=DEBUG" in message
    assert "meltano --log-level=debug" in message
    assert "ada" not in caplog.text


def test_error_cannot_forge_another_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ConfigurationError("column a\x1b[2K\r\u202e b\n\u2028INFO all is well")

    monkeypatch.setattr(TapSendGridContacts, "cli", fail)
    assert cli._run() == 1  # noqa: SLF001 - `main` would change this process for good
    assert caplog.messages == ["column a[2K b INFO all is well"]

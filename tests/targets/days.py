"""The sandbox's account on several days, and the tap's runs on it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any
from unittest import mock

from sendgrid_sandbox.account import Account
from tests.harness import Run, Tap, run_sandbox
from tests.targets.targets import CUSTOM_FIELDS, Row, expected_rows

if TYPE_CHECKING:
    import pytest

# As many as it takes for every edge case of the sandbox.
CONTACTS = 500
SIZE = ("--contacts", str(CONTACTS), "--custom-fields", str(CUSTOM_FIELDS))

# Versions of a table count seconds, and a run in the test process takes less than that.
_starts = (datetime.fromtimestamp(start, timezone.utc) for start in itertools.count(1_800_000_000))


@dataclass
class Day:
    """A day of the account, and the tap's run on it."""

    account: Account
    run: Run

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The schema of the stream."""
        schema: dict[str, Any] = self.run.of_type("SCHEMA")[0]["schema"]
        return schema

    @cached_property
    def rows(self) -> dict[str, Row]:
        """The rows that a target should hold."""
        return expected_rows(self.account, self.schema)

    @property
    def messages(self) -> bytes:
        """The messages of the run."""
        return self.run.out


class Days:
    """Runs the tap on a day, once for the same options and settings."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._ran: dict[tuple[object, ...], Day] = {}

    def __call__(self, number: int, *options: str, **config: Any) -> Day:
        """Run the tap.

        Args:
            number: The day.
            options: Options of the sandbox.
            config: Settings of the tap, and the exit code if it is not 0.
        """
        key = (number, options, repr(config))
        if key not in self._ran:
            tap = Tap(self._folders.mktemp("tap"))
            start = mock.patch(
                "tap_sendgrid_contacts.run.state.utc_now", return_value=next(_starts)
            )
            with start, run_sandbox(*SIZE, "--day", str(number), *options) as sandbox:
                account = Account(CONTACTS, CUSTOM_FIELDS, day=number)
                self._ran[key] = Day(account, tap(sandbox, **config))
        return self._ran[key]

"""The sandbox's account on several days, and the tap's runs on it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any
from unittest import mock

from sendgrid_sandbox.account import Account
from tests.harness import Tap, TapRun, run_sandbox
from tests.targets.targets import CUSTOM_FIELDS, Row, expected_rows

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pytest

# As many as it takes for every edge case of the sandbox.
CONTACTS = 500
SIZE = ("--contacts", str(CONTACTS), "--custom-fields", str(CUSTOM_FIELDS))

_starts = itertools.count(1_800_000_000)


def starting_at(seconds: int) -> AbstractContextManager[object]:
    """Start runs at a time: table versions count seconds, and runs take less than that here."""
    start = datetime.fromtimestamp(seconds, timezone.utc)
    return mock.patch("tap_sendgrid_contacts.run.saved.utc_now", return_value=start)


@dataclass
class Day:
    """A day of the account, and the tap's run on it."""

    account: Account
    run: TapRun

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
            day = ("--day", str(number), *options)
            with starting_at(next(_starts)), run_sandbox(*SIZE, *day) as sandbox:
                account = Account(CONTACTS, CUSTOM_FIELDS, day=number)
                self._ran[key] = Day(account, tap(sandbox, **config))
        return self._ran[key]

"""Emit STATE. The only module that knows the SDK's private names for it."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

import msgspec
from singer_sdk.singerlib import StateMessage

from tap_sendgrid_contacts.stopping import Stopped

if TYPE_CHECKING:
    from collections.abc import Generator

    from tap_sendgrid_contacts.tap import TapSendGridContacts


class StateEmitter:
    """Emits the state of a tap as STATE messages.

    Args:
        tap: The tap.
    """

    def __init__(self, tap: TapSendGridContacts) -> None:
        self._tap = tap

    def emit(self) -> None:
        """Emit the state, unless it is the one that was emitted last.

        As the SDK's `write_state` does, whose deep copy takes milliseconds with a thousand lists.
        """
        writer = self._tap.state_writer
        state = self._tap.state
        if state != writer._last_emitted_state:  # noqa: SLF001
            self._tap.write_message(StateMessage(state))
            writer._last_emitted_state = msgspec.json.decode(msgspec.json.encode(state))  # noqa: SLF001

    @contextlib.contextmanager
    def emit_if_stopped(self) -> Generator[None, None, None]:
        """Emit the state as the last message if the block is stopped, even if it was emitted."""
        try:
            yield
        except Stopped:
            writer = self._tap.message_writer
            writer.write_lines(writer.format_message(StateMessage(self._tap.state)))
            raise

    def suppress_initial(self) -> None:
        """Keep the SDK from starting the run with the STATE that it was given.

        target-duckdb keeps the first STATE of a load without records: it must be that of the new
        export.
        """
        self._tap.state_writer._last_emitted_state = copy.deepcopy(self._tap.state)  # noqa: SLF001

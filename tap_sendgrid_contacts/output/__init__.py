"""Outputs: RECORD lines, records for the SDK's stream maps, or BATCH files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tap_sendgrid_contacts.checkpoint import Block, Checkpoint

T_co = TypeVar("T_co", covariant=True)


class Output(Protocol[T_co]):
    """Writes contacts, or hands them to the SDK."""

    @property
    def records_emitted(self) -> int:
        """Number of records so far, in messages or in files."""

    def write(
        self, blocks: Iterable[Block], version: int | None
    ) -> Iterator[tuple[Iterable[T_co], Checkpoint | None]]:
        """Write the contacts of an export.

        Args:
            blocks: The contacts.
            version: Table version of the records, for ACTIVATE_VERSION.

        Yields:
            What the SDK is to write, and the checkpoint that is valid once it has done so; None
            if that is the one before.
        """

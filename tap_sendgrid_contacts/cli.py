"""Command line: one-line errors, exit codes, and what only a process of its own may change."""

from __future__ import annotations

import csv
import logging
import signal
import sys
import traceback
import warnings
from pathlib import Path

from singer_sdk.exceptions import SingerSDKError
from typing_extensions import override

from tap_sendgrid_contacts.api.export import ExportUnavailableError
from tap_sendgrid_contacts.decode.lines import MAX_ROW_BYTES
from tap_sendgrid_contacts.streams import ContactsStream
from tap_sendgrid_contacts.tap import TapSendGridContacts


class _SdkErrorFilter(logging.Filter):
    """Drops the line that the SDK logs before it raises the error again."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("An unhandled error occurred")


def configure_process() -> None:
    """Set what is global to a Python process."""
    # Python's limit of 128 KiB is less than a text can have.
    csv.field_size_limit(MAX_ROW_BYTES)
    # urllib3 logs whole signed URLs. A filter, since a logging configuration can reset the level.
    logging.getLogger("urllib3.connectionpool").addFilter(lambda _: False)
    TapSendGridContacts.logger.getChild(ContactsStream.name).addFilter(_SdkErrorFilter())
    # Meltano sets PYTHONWARNINGS=once; Click closes the files of its options at exit only.
    warnings.simplefilter("ignore", ResourceWarning)


def main() -> None:
    """Run the tap. Errors are logged in one line, with exit code 1."""
    # Until the tap has installed its own handler, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    configure_process()
    logger = TapSendGridContacts.logger
    try:
        TapSendGridContacts.cli()
    except SingerSDKError as error:
        hint = ""
        if isinstance(error, ExportUnavailableError):
            hint = ". The next run starts a new export"
        logger.error(" ".join(str(error).split()) + hint)  # noqa: TRY400, G003 - no traceback for users
    except Exception as error:  # noqa: BLE001 - its message may quote a contact
        frames = traceback.extract_tb(error.__traceback__)
        logger.error(  # noqa: TRY400 - the traceback contains the message
            "Unexpected error: %s (%s:%d). Run with LOGLEVEL=DEBUG for the traceback (Meltano: "
            "meltano --log-level=debug)",
            type(error).__name__,
            Path(frames[-1].filename).name,
            frames[-1].lineno,
        )
        logger.debug("".join(traceback.format_list(frames)))
    sys.exit(1)

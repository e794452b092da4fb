"""Command line: one-line errors, exit codes, and what only a process of its own may change."""

from __future__ import annotations

import contextlib
import csv
import errno
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from singer_sdk.exceptions import ConfigurationError, SingerSDKError
from typing_extensions import override

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.decode.lines import MAX_ROW_BYTES
from tap_sendgrid_contacts.redaction import one_line, sanitize, silence_libraries
from tap_sendgrid_contacts.stream import ContactsStream
from tap_sendgrid_contacts.tap import TapSendGridContacts

if TYPE_CHECKING:
    import click

# Temp and BATCH files have errors of their own: what is left is standard output.
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


class _SdkErrorFilter(logging.Filter):
    """Drops the line that the SDK logs before it raises the error again."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("An unhandled error occurred")


def configure_process() -> None:
    """Set what is global to a Python process."""
    # Python's limit of 128 KiB is less than a text can have.
    csv.field_size_limit(MAX_ROW_BYTES)
    _disable_core_dumps()
    silence_libraries()
    TapSendGridContacts.logger.getChild(ContactsStream.name).addFilter(_SdkErrorFilter())
    # Meltano sets PYTHONWARNINGS=once; Click leaves the files of its options open on an error.
    warnings.simplefilter("ignore", ResourceWarning)
    stderr: TextIO | None = sys.stderr
    if stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for good
    _ignore_unknown_log_levels()


def _disable_core_dumps() -> None:
    """Leave no file with the memory of a crashed process: it has the API key and contacts."""
    with contextlib.suppress(ImportError):
        import resource  # noqa: PLC0415 - not on Windows

        _, maximum = resource.getrlimit(resource.RLIMIT_CORE)
        # Less than any dump has. With 0, Linux passes the dump to a program, if one is configured.
        resource.setrlimit(resource.RLIMIT_CORE, (1 if maximum else 0, maximum))


def _ignore_unknown_log_levels() -> None:
    for variable in ("LOGLEVEL", "TAP_SENDGRID_CONTACTS_LOGLEVEL"):
        level = os.environ.get(variable)
        if level is not None and not isinstance(logging.getLevelName(level.upper()), int):
            del os.environ[variable]
            TapSendGridContacts.logger.warning("%s is not a log level; using INFO", variable)


def main() -> None:
    """Run the tap. Errors are logged in one line, with exit code 1."""
    stopping.install()
    configure_process()
    code = _run()
    if stopped := stopping.noted():
        stopping.ignore()
        TapSendGridContacts.logger.warning(str(stopped))
        code = stopped.exit_code
    if error := _flush(sys.stdout):
        if not code:
            _log_output_error(error)
        code = code or 1
    # A full or broken standard error is no reason to fail.
    _flush(sys.stderr)
    sys.exit(code)


def _run() -> int:
    """Run the tap's command; return the exit code."""
    logger = TapSendGridContacts.logger
    stdout: TextIO | None = sys.stdout
    if stdout is None:
        logger.error("Cannot write to standard output: it is closed")
        return 1
    try:
        _make_command()()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except stopping.Stopped as stopped:
        return stopped.exit_code
    except SingerSDKError as error:
        logger.error(one_line(str(error)))  # noqa: TRY400 - no traceback for users
    except Exception as error:  # noqa: BLE001 - its message may quote a contact
        if isinstance(error, OSError) and error.errno in _WRITE_ERRORS:
            _log_output_error(error)
        else:
            _log_unexpected_error(error)
    return 1


def _make_command() -> click.Command:
    """Return the tap's command; the SDK configures logging when it is made.

    Raises:
        ConfigurationError: If the logging configuration is broken.
    """
    path = os.environ.get("SINGER_SDK_LOG_CONFIG")
    # It would only warn of a missing file, and the log would not be where it should.
    logging.getLogger("singer_sdk._logging").addFilter(lambda _: False)
    try:
        command = TapSendGridContacts.cli
        if path is not None:
            Path(path).stat()
    except Exception as error:
        if path is None:
            raise
        # It quotes the file, which may be that of the settings.
        reason = getattr(error, "strerror", None) or sanitize(str(error))
        raise ConfigurationError(f"SINGER_SDK_LOG_CONFIG {path}: {reason}") from error
    return command


def _log_output_error(error: OSError) -> None:
    TapSendGridContacts.logger.error("Cannot write to standard output: %s", error.strerror)


def _log_unexpected_error(error: Exception) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    logger = TapSendGridContacts.logger
    logger.error(
        "Unexpected error: %s (%s:%d). Run with LOGLEVEL=DEBUG for the traceback (Meltano: "
        "meltano --log-level=debug)",
        type(error).__name__,
        Path(frames[-1].filename).name,
        frames[-1].lineno,
    )
    logger.debug("".join(traceback.format_list(frames)))


def _flush(stream: TextIO | None) -> OSError | None:
    """Flush a standard stream; return why that failed."""
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        # Python flushes it once more at exit, where an error would change the exit code.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None

"""Messages: the bytes of the SDK, in complete lines."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import re
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.singerlib import RecordMessage, StateMessage
from typing_extensions import Buffer, override

from tap_sendgrid_contacts.output.messages import MessageWriter, RecordMessageEncoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_sendgrid_contacts.columns import Row

NAMES = ["contact_id", "email", "custom_seats", "alternate_emails", "updated_at"]

UNICODE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
CONTACTS = st.lists(
    st.tuples(
        UNICODE,
        st.none() | UNICODE,
        st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.lists(UNICODE, min_size=1),
        st.none() | st.datetimes(timezones=st.just(timezone.utc)),
    ),
    max_size=4,
)


class Pipe(io.RawIOBase):
    """Standard output as with PYTHONUNBUFFERED: each write accepts a few bytes."""

    def __init__(self) -> None:
        self.received = b""

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Buffer, /) -> int:
        accepted = bytes(data)[:7]
        self.received += accepted
        return len(accepted)


@contextlib.contextmanager
def unbuffered() -> Iterator[Pipe]:
    """Make standard output unbuffered; within a test, since pytest sets its own before each."""
    pipe = Pipe()
    out = io.TextIOWrapper(pipe, write_through=True)  # type: ignore[type-var]
    with contextlib.redirect_stdout(out):
        yield pipe
    out.detach()


def without_time(lines: bytes) -> bytes:
    return re.sub(rb'"time_extracted":"[^"]+"}\n', b"}\n", lines)


def sdk_lines(contacts: list[Row], version: int | None) -> bytes:
    writer: Any = MsgSpecWriter()
    now = datetime.now(timezone.utc)
    return b"".join(
        bytes(
            writer.format_message(
                RecordMessage(
                    stream="contacts",
                    record=dict(zip(NAMES, contact, strict=True)),
                    version=version,
                    time_extracted=now,
                )
            )
        )
        for contact in contacts
    )


@pytest.mark.parametrize("version", [None, 1700000000])
@given(contacts=CONTACTS)
def test_records_are_the_bytes_of_the_sdk(version: int | None, contacts: list[Row]) -> None:
    lines = RecordMessageEncoder("contacts", version, NAMES).encode(contacts)
    assert without_time(lines) == without_time(sdk_lines(contacts, version))


def test_record_has_time_extracted() -> None:
    line = RecordMessageEncoder("contacts", None, NAMES).encode([("a", *[None] * 4)])
    extracted = datetime.fromisoformat(
        json.loads(line)["time_extracted"].replace("Z", "+00:00"),
    )
    assert abs(datetime.now(timezone.utc) - extracted) < timedelta(minutes=1)


def test_empty_values_are_null_and_dates_end_in_z() -> None:
    moment = datetime(2020, 6, 19, 10, 5, 25, tzinfo=timezone.utc)
    line = RecordMessageEncoder("contacts", None, NAMES).encode([("a", None, 10**30, None, moment)])
    assert json.loads(line)["record"] == {
        "contact_id": "a",
        "email": None,
        "custom_seats": 10**30,
        "alternate_emails": None,
        "updated_at": "2020-06-19T10:05:25Z",
    }


def test_lines_are_written_as_given_and_flushed(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    writer = MessageWriter()
    writer.write_lines(b'{"type":"RECORD"}\n')
    writer.write_message(StateMessage({"a": 1}))
    assert capsysbinary.readouterr().out == (
        b'{"type":"RECORD"}\n{"type":"STATE","value":{"a":1}}\n'
    )


def test_unbuffered_standard_output_gets_complete_lines() -> None:
    lines = b"".join(b"%d a line longer than the pipe takes\n" % i for i in range(1000))
    with unbuffered() as pipe:
        writer = MessageWriter()
        writer.write_lines(lines)
        writer.write_message(StateMessage({"a": 1}))
        assert pipe.received == lines + b'{"type":"STATE","value":{"a":1}}\n'


def test_deleted_writer_leaves_standard_output_open() -> None:
    with unbuffered() as pipe:
        writer = MessageWriter()
        writer.write_lines(b"a line\n")
        del writer
        gc.collect()
        assert not pipe.closed


def test_emitted_records_are_counted(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    writer = MessageWriter()
    writer.write_lines(b"{}\n{}\n", 2)
    writer.write_message(StateMessage({}))
    writer.write_message(RecordMessage(stream="contacts", record={}))
    assert writer.records_emitted == 3
    assert len(capsysbinary.readouterr().out.splitlines()) == 4


def test_broken_pipe_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(io.BytesIO):
        @override
        def write(self, data: object, /) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Broken()))
    with pytest.raises(BrokenPipeError):
        MessageWriter().write_lines(b"a line\n")


def test_state_message_is_that_of_the_sdk(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    message = StateMessage({"bookmarks": {"contacts": {"exports": [{"a": 1.5, "b": "ü"}]}}})
    MessageWriter().write_message(message)
    MsgSpecWriter().write_message(message)
    ours, theirs = capsysbinary.readouterr().out.splitlines()
    assert ours == theirs

"""Messages: the SDK's own bytes, in lines that nothing tears."""

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
from msgspec.structs import asdict
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.singerlib import RecordMessage, StateMessage
from typing_extensions import Buffer, override

from tap_sendgrid_contacts.decode.contact import contact_type
from tap_sendgrid_contacts.messages import MessageWriter, RecordEncoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tap_sendgrid_contacts.decode.contact import Contact

contact = contact_type(["contact_id", "email", "custom_seats", "alternate_emails", "updated_at"])

UNICODE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
CONTACTS = st.lists(
    st.builds(
        contact,
        UNICODE,
        st.none() | UNICODE,
        st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.lists(UNICODE, min_size=1),
        st.none() | st.datetimes(timezones=st.just(timezone.utc)),
    ),
    max_size=4,
)


class Pipe(io.RawIOBase):
    """A bare standard output, as with PYTHONUNBUFFERED: takes a few bytes at a time."""

    def __init__(self) -> None:
        self.taken = b""
        self.at_first_write: Callable[[], None] | None = None

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Buffer, /) -> int:
        if self.at_first_write is not None:
            act, self.at_first_write = self.at_first_write, None
            act()
        taken = bytes(data)[:7]
        self.taken += taken
        return len(taken)


@contextlib.contextmanager
def unbuffered() -> Iterator[Pipe]:
    """Make standard output a bare one; within a test, since pytest sets its own before each."""
    pipe = Pipe()
    out = io.TextIOWrapper(pipe, write_through=True)  # type: ignore[type-var]
    with contextlib.redirect_stdout(out):
        yield pipe
    out.detach()


def without_time(lines: bytes) -> bytes:
    return re.sub(rb'"time_extracted":"[^"]+"}\n', b"}\n", lines)


def sdk_lines(contacts: list[Contact], version: int | None) -> bytes:
    writer: Any = MsgSpecWriter()
    now = datetime.now(timezone.utc)
    return b"".join(
        bytes(
            writer.format_message(
                RecordMessage(
                    stream="contacts",
                    record=asdict(contact),
                    version=version,
                    time_extracted=now,
                )
            )
        )
        for contact in contacts
    )


@pytest.mark.parametrize("version", [None, 1700000000])
@given(contacts=CONTACTS)
def test_records_are_the_bytes_the_sdk_would_write(
    version: int | None, contacts: list[Contact]
) -> None:
    lines = RecordEncoder("contacts", version).encode(contacts)
    assert without_time(lines) == without_time(sdk_lines(contacts, version))


def test_record_says_when_it_was_extracted() -> None:
    line = RecordEncoder("contacts", None).encode([contact("a", *[None] * 4)])
    extracted = datetime.fromisoformat(
        json.loads(line)["time_extracted"].replace("Z", "+00:00"),
    )
    assert abs(datetime.now(timezone.utc) - extracted) < timedelta(minutes=1)


def test_empty_values_are_null_and_dates_end_in_z() -> None:
    moment = datetime(2020, 6, 19, 10, 5, 25, tzinfo=timezone.utc)
    line = RecordEncoder("contacts", None).encode([contact("a", None, 10**30, None, moment)])
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
    writer.write(b'{"type":"RECORD"}\n')
    writer.write_message(StateMessage({"a": 1}))
    assert capsysbinary.readouterr().out == (
        b'{"type":"RECORD"}\n{"type":"STATE","value":{"a":1}}\n'
    )


def test_bare_standard_output_gets_whole_lines() -> None:
    lines = b"".join(b"%d a line longer than the pipe takes\n" % i for i in range(1000))
    with unbuffered() as pipe:
        writer = MessageWriter()
        writer.write(lines)
        writer.write_message(StateMessage({"a": 1}))
        assert pipe.taken == lines + b'{"type":"STATE","value":{"a":1}}\n'


def test_writer_that_goes_leaves_standard_output_open() -> None:
    with unbuffered() as pipe:
        writer = MessageWriter()
        writer.write(b"a line\n")
        del writer
        gc.collect()
        assert not pipe.closed


def test_action_between_lines_is_done_at_once() -> None:
    done: list[int] = []
    MessageWriter().between_lines(lambda: done.append(1))
    assert done == [1]


def test_action_while_writing_waits_for_the_end_and_is_done_once() -> None:
    written_before: list[bytes] = []
    with unbuffered() as pipe:
        writer = MessageWriter()
        pipe.at_first_write = lambda: writer.between_lines(
            lambda: written_before.append(pipe.taken)
        )
        writer.write(b"the line that was being written\n")
        writer.write(b"another\n")
    assert written_before == [b"the line that was being written\n"]


def test_action_may_write_a_last_line_and_leave() -> None:
    with unbuffered() as pipe:
        writer = MessageWriter()

        def leave() -> None:
            writer.write(b"the last state\n")
            sys.exit(143)

        pipe.at_first_write = lambda: writer.between_lines(leave)
        with pytest.raises(SystemExit) as leaving:
            writer.write(b"the line that was being written\n")
        assert leaving.value.code == 143
        assert pipe.taken == b"the line that was being written\nthe last state\n"


def test_target_that_is_gone_is_an_error_and_holds_up_no_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gone(io.BytesIO):
        @override
        def write(self, data: object, /) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Gone()))
    writer, done = MessageWriter(), list[int]()
    with pytest.raises(BrokenPipeError):
        writer.write(b"a line\n")
    writer.between_lines(lambda: done.append(1))
    assert done == [1]

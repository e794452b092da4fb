"""Ways to break the tap, and the invariant that must notice each: `--mutations`."""

# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, SLF001 - patches of what is typed elsewhere, also private
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from tap_sendgrid_contacts import cli, stopping
from tap_sendgrid_contacts.api import download, export
from tap_sendgrid_contacts.api.export import ExportJob
from tap_sendgrid_contacts.api.part_file import Part
from tap_sendgrid_contacts.api.request import CreateRequest
from tap_sendgrid_contacts.catalog import fields
from tap_sendgrid_contacts.output import lines
from tap_sendgrid_contacts.output.messages import MessageWriter, RecordMessageEncoder
from tap_sendgrid_contacts.run import incremental, reader, run, saved, state
from tap_sendgrid_contacts.run.state import RunState
from tap_sendgrid_contacts.stream import ContactsStream
from tests.simulation.simulate import Focus

if TYPE_CHECKING:
    from collections.abc import Callable


def _set(owner: Any, name: str, value: object) -> None:  # noqa: ANN401 - a module or class
    assert name in vars(owner), f"{owner} has no {name} any more"
    setattr(owner, name, value)


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:  # noqa: ANN401
    """Replace a function by one that gets the function it replaces as first argument."""
    before = vars(owner)[name]
    _set(owner, name, lambda *args, **options: wrapper(before, *args, **options))


# --- signals and output ---------------------------------------------------------------------


def exit_at_once():
    _set(stopping, "note", lambda number, _frame=None: os._exit(128 + number))


def forget_signals():
    _set(stopping, "check", lambda: None)
    _set(stopping, "noted", lambda: None)


def succeed_when_stopped():
    _set(stopping.Stopped, "__init__", lambda self, _: setattr(self, "exit_code", 0))


def ignore_closed_pipe():
    def write_lines(before, *args):
        with contextlib.suppress(BrokenPipeError):
            before(*args)

    _wrap(MessageWriter, "write_lines", write_lines)
    _set(cli, "_flush", lambda _: None)


def fail_unexpectedly():
    _set(ExportJob, "discard_urls", lambda self: self.no_such_attribute)


def print_signed_urls():
    def signed_url(before, *args):
        url = before(*args)
        # A log line would be redacted.
        sys.stderr.write(f"Downloading {url}\n")
        return url

    _wrap(ExportJob, "signed_url", signed_url)


def mix_contacts_up():
    def encode(before, self, rows):
        rows = list(rows)
        return before(self, [(row[0], rows[0][1], *row[2:]) for row in rows])

    _wrap(RecordMessageEncoder, "encode", encode)


# --- completeness ---------------------------------------------------------------------------


def save_before_writing():
    def write(before, self, blocks, version):
        for block in blocks:
            yield (), block.checkpoint
            yield from before(self, [block], version)

    _wrap(lines.RecordLines, "write", write)


def ignore_contact_count():
    _set(reader.ExportReader, "_verify", lambda _: None)


def ignore_content():
    _set(Part, "digest", property(lambda self: self.label.replace(" ", "")))


def advance_bookmark_too_far():
    _wrap(RunState, "finish", lambda before, self, key, count, _: before(self, key, count, None))


def filter_strictly():
    def select(before, self, rows):
        recent, latest = before(self, rows)
        return [row for row in recent if row[self.index] != self.earliest], latest

    _wrap(incremental.Since, "select", select)


def filter_by_the_merged_bookmark():
    _set(RunState, "since", lambda self, _: saved._read_bookmark(self._state))


# --- deletes, versions, columns -------------------------------------------------------------


def activate_at_the_start():
    def start(before, self):
        started = before(self)
        if started.state.version:
            self._write_activate_version_message(started.state.version)
        return started

    _wrap(ContactsStream, "_start_run", start)


def prove_by_surplus():
    def finish(before, self, key, count, created_at):
        read = self.checkpoint(key).contacts_read
        before(self, key, count and max(read, count), created_at)

    _wrap(RunState, "finish", finish)


def prove_without_count():
    def finish(before, self, key, count, created_at):
        read = self.checkpoint(key).contacts_read
        before(self, key, read if count is None else count, created_at)

    _wrap(RunState, "finish", finish)


def ignore_shrinking():
    _wrap(RunState, "why_deletes_are_unsafe", lambda before, self, _: before(self, 100))


def reuse_versions():
    _set(saved, "new_version", lambda _: 7)
    _set(state, "new_version", lambda _: 7)


def share_columns():
    names = "assign_columns"
    _set(fields, names, lambda columns, *_: {each.name: each.name for each in columns})


# --- exports and progress -------------------------------------------------------------------


def keep_run_in_state():
    _set(RunState, "complete", lambda self, _: self._write())


def never_resume():
    _set(RunState, "checkpoint", lambda *_: None)


def repeat_finished_lists():
    _set(RunState, "is_finished", lambda *_: False)


def create_again():
    _set(CreateRequest, "find", lambda _: None)


def name_parts_by_query():
    names = "urls_by_part_name"
    _set(export, names, lambda urls: {url.split("X-Amz-Signature")[0]: url for url in urls})


def tolerate_no_404():
    def init(before, *args, **options):
        before(*args, **options | {"is_new": False})

    _wrap(ExportJob, "__init__", init)


def send_key_to_storage():
    def init(before, self, *args, **options):
        before(self, *args, **options)
        self.headers["Authorization"] = "Bearer"

    _wrap(download._AnonymousSession, "__init__", init)


def never_discard():
    _set(RunState, "discard", lambda *_: None)


def keep_damaged_exports():
    _set(RunState, "keep_once", lambda *_: True)


def break_promises():
    def handle(before, self, failed, error):
        kept = failed.checkpoint
        failure = before(self, failed, error)
        self.state.save(failed.key, kept)
        self.state.emit()
        return failure

    _wrap(run.Run, "_handle_failure", handle)


MUTATIONS: dict[Callable[[], None], str] = {
    exit_at_once: "whole_lines",
    forget_signals: "exit_codes",
    succeed_when_stopped: "exit_codes",
    ignore_closed_pipe: "exit_codes",
    fail_unexpectedly: "errors",
    print_signed_urls: "secrets",
    mix_contacts_up: "values",
    save_before_writing: "completeness",
    ignore_contact_count: "completeness",
    ignore_content: "completeness",
    advance_bookmark_too_far: "completeness",
    filter_strictly: "completeness",
    filter_by_the_merged_bookmark: "completeness",
    activate_at_the_start: "deletes",
    prove_by_surplus: "deletes",
    prove_without_count: "deletes",
    ignore_shrinking: "activation",
    reuse_versions: "versions",
    share_columns: "columns",
    keep_run_in_state: "final_state",
    never_resume: "server_rules",
    repeat_finished_lists: "server_rules",
    create_again: "server_rules",
    name_parts_by_query: "server_rules",
    tolerate_no_404: "server_rules",
    send_key_to_storage: "server_rules",
    never_discard: "promises",
    keep_damaged_exports: "progress",
    break_promises: "promises",
}

FOCUS: dict[Callable[[], None], Focus] = {
    activate_at_the_start: Focus(deletes=True),
    prove_by_surplus: Focus(("hidden",), deletes=True),
    prove_without_count: Focus(("uncounted",), deletes=True),
    ignore_shrinking: Focus(deletes=True),
    reuse_versions: Focus(deletes=True),
}

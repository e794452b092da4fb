"""Run the tap and the sandbox: in this process where that shows the same, else as processes."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import csv
import fcntl
import io
import json
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, TYPE_CHECKING, Any
from unittest import mock

import click
import pytest

from sendgrid_sandbox.cli import sandbox_options
from sendgrid_sandbox.faults import Faults, parse_fault
from sendgrid_sandbox.server import run_server
from tap_sendgrid_contacts import cli, stopping
from tap_sendgrid_contacts.api import export
from tap_sendgrid_contacts.api.http import RetryPolicy
from tap_sendgrid_contacts.decode import FILE_TYPES
from tap_sendgrid_contacts.run import progress
from tap_sendgrid_contacts.tap import TapSendGridContacts
from tests.openapi.judge import Exchange, check_traffic, make_recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Self

    from sendgrid_sandbox.account import Account
    from sendgrid_sandbox.settings import Settings

TAP = [sys.executable, "-m", "tap_sendgrid_contacts"]
SANDBOX = [sys.executable, "-m", "sendgrid_sandbox"]

# 64 KiB, but for what does not fill a page.
_FULL_PIPE = 60 * 1024


@dataclass
class Sandbox:
    """A sandbox that is up.

    Attributes:
        url: URL of its API.
        api_key: The API key it accepts.
        log: One line per request and per fault.
        faults: Its faults.
        exchanges: The requests to its API, with the responses.
        exempt: Faults and options that may violate SendGrid's description.
    """

    url: str
    api_key: str
    log: list[str]
    faults: Faults
    exchanges: list[Exchange]
    exempt: set[str]

    def inject(self, fault: str) -> None:
        """Have a fault, as in `--fault`, occur from now on."""
        name, times = parse_fault(fault)
        self.exempt.add(name)
        self.faults.inject(name, times)

    def end_faults(self) -> None:
        """Have no more faults occur; what an export has of them remains."""
        self.faults.end()

    def wait_for(self, start: str, times: int = 1) -> None:
        """Wait until so many lines of the log start like this: a request is logged at its end."""
        wait_until(lambda: self.count(start) >= times)

    def count(self, start: str) -> int:
        """Count the requests whose line starts like this, e.g. `POST /v3`."""
        return sum(line.startswith(start) for line in self.log)

    @property
    def exports_created(self) -> int:
        """Number of exports that were created with a response."""
        return self.count("POST /v3/marketing/contacts/exports 202")

    @property
    def env(self) -> dict[str, str]:
        """The environment variables of a tap that uses it."""
        return {
            "TAP_SENDGRID_CONTACTS_API_URL": self.url,
            "TAP_SENDGRID_CONTACTS_API_KEY": self.api_key,
        }


@contextlib.contextmanager
def run_sandbox(*options: str, judged: bool = True) -> Iterator[Sandbox]:
    """Run a sandbox in a thread; exports are ready at once unless `--pending-polls` is given.

    Args:
        options: Options of `sendgrid-sandbox serve`.
        judged: Whether all traffic must be as SendGrid's own description says.

    Yields:
        The sandbox.
    """
    if "--pending-polls" not in options:
        options = ("--pending-polls", "0", *options)
    account, settings = _parse_options(options)
    log: list[str] = []
    ready: list[str] = []
    exchanges: list[Exchange] = []
    faults = Faults(settings.faults, log.append)
    recorder = make_recorder(exchanges)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()

    async def run() -> None:
        async with run_server(account, settings, faults, log.append, recorder) as url:
            ready.append(url)
            started.set()
            await stopped.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    try:
        thread.start()
        assert started.wait(30)
        exempt = {word.removeprefix("--").partition(":")[0] for word in options}
        sandbox = Sandbox(ready[0], settings.api_key, log, faults, exchanges, exempt)
        yield sandbox
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(30)
        loop.close()
    if judged:
        check_traffic(exchanges, sandbox.exempt)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another thread or process; fail if it does not."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_full(pipe: IO[Any]) -> None:
    """Wait until nothing more can be written to a pipe."""
    size = struct.Struct("i")

    def is_full() -> bool:
        waiting = fcntl.ioctl(pipe, termios.FIONREAD, bytes(size.size))
        return bool(size.unpack(waiting)[0] >= _FULL_PIPE)

    wait_until(is_full)


def _parse_options(options: tuple[str, ...]) -> tuple[Account, Settings]:
    parsed: list[tuple[Account, Settings]] = []

    @click.command()
    @sandbox_options
    def parse(sandbox: tuple[Account, Settings, Any, Any]) -> None:
        parsed.append(sandbox[:2])

    parse.main([*options], standalone_mode=False)
    return parsed[0]


def run_of(state: dict[str, Any]) -> dict[str, Any]:
    """Return the run in progress in a state; empty if there is none."""
    runs: list[dict[str, Any]] = state["bookmarks"]["contacts"].get("run", [])
    return runs[0] if runs else {}


def checkpoint_of(state: dict[str, Any]) -> dict[str, Any] | None:
    """Return the first checkpoint in a state, if there is one."""
    checkpoints: dict[str, dict[str, Any]] = run_of(state).get("exports", {})
    return next(iter(checkpoints.values()), None)


def contacts_read(state: dict[str, Any]) -> int:
    """Return how many contacts a state counts as read."""
    run = run_of(state)
    in_flight: list[int] = [
        each.get("contacts_before", 0) + each.get("part_offset", 0)
        for each in run.get("exports", {}).values()
    ]
    finished: dict[str, int] = run.get("finished", {})
    return sum(in_flight) + sum(finished.values())


def emit_states_every(monkeypatch: pytest.MonkeyPatch, contacts: int) -> None:
    """Have a STATE emitted every so many contacts, and at the end of every part."""
    monkeypatch.setattr("tap_sendgrid_contacts.run.state.STATE_INTERVAL", contacts)
    monkeypatch.setattr("tap_sendgrid_contacts.run.state._STATE_SECONDS", 0)


def column_types(state: dict[str, Any]) -> dict[str, str]:
    """Return the types of the loaded columns in a state."""
    return {each["name"]: each["type"] for each in state["bookmarks"]["contacts"]["columns"]}


def is_complete(state: dict[str, Any], schema: dict[str, Any] | None = None) -> bool:
    """Return whether a state has nothing in flight, and the columns of a schema, if given."""
    contacts = state["bookmarks"]["contacts"]
    columns = [
        {
            "name": name,
            "type": "date"
            if definition.get("format")
            else definition["type"][0].replace("string", "text"),
            "id": re.findall(r"\((.*), ", definition["description"])[0],
        }
        for name, definition in (schema or {}).get("properties", {}).items()
        if name.startswith("custom_")
    ]
    has_columns = schema is None or contacts["columns"] == columns
    return contacts["run"] == [] and len(contacts["counts"]) == 1 and has_columns


@dataclass
class TapRun:
    """What a run of the tap wrote, and its exit code."""

    code: int
    out: bytes
    log: str
    messages: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.messages = [json.loads(line) for line in self.out.splitlines()]

    def check(self, code: int | None) -> Self:
        """Return it, if it has this exit code."""
        assert code in {self.code, None}, self.log
        return self

    def of_type(self, message_type: str) -> list[dict[str, Any]]:
        """Return the messages of a type."""
        return [message for message in self.messages if message["type"] == message_type]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of all RECORD messages."""
        return [message["record"] for message in self.of_type("RECORD")]

    @property
    def contact_ids(self) -> Counter[str]:
        """How often each contact was emitted."""
        return Counter(record["contact_id"] for record in self.records)

    @property
    def schema(self) -> dict[str, Any]:
        """The schema in the only SCHEMA message."""
        (message,) = self.of_type("SCHEMA")
        schema: dict[str, Any] = message["schema"]
        return schema

    @property
    def states(self) -> list[dict[str, Any]]:
        """The states of all STATE messages."""
        return [message["value"] for message in self.of_type("STATE")]

    @property
    def state(self) -> dict[str, Any]:
        """The last STATE, which a target would keep."""
        return self.states[-1]

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint in the last STATE, if there is one."""
        return checkpoint_of(self.state)

    def ids_before(self, state: dict[str, Any]) -> Counter[str]:
        """How often each contact was emitted before one of the states."""
        end = next(
            i
            for i, message in enumerate(self.messages)
            if message["type"] == "STATE" and message["value"] is state
        )
        return Counter(
            message["record"]["contact_id"]
            for message in self.messages[:end]
            if message["type"] == "RECORD"
        )

    def lines(self, text: str) -> list[str]:
        """Return the log lines that contain a text."""
        return [line for line in self.log.splitlines() if text in line]

    @property
    def errors(self) -> list[str]:
        """The log lines of errors."""
        return [line for line in self.log.splitlines() if re.search(r"\| (ERROR|CRITICAL)", line)]

    @property
    def error(self) -> str:
        """The one line that says what failed."""
        assert len(self.errors) == 1, self.log
        assert "Traceback" not in self.log, self.log
        return self.errors[0]


class TapProcess:
    """The tap as a process that a test reads from and sends signals to."""

    def __init__(self, arguments: list[str], log_file: Path, env: dict[str, str]) -> None:
        self._log_file = log_file
        # A file: nobody reads the log while the test reads the messages.
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [*TAP, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **env},
            )
        assert self._process.stdout is not None
        self.stdout = self._process.stdout
        self._read: list[bytes] = []

    def read_lines(self, count: int) -> list[bytes]:
        """Read some lines, fewer if it ends."""
        lines = list(islice(self.stdout, count))
        self._read += lines
        return lines

    def wait_until_blocked(self) -> None:
        """Wait until the pipe is full, so that the tap is within a write."""
        wait_until_full(self.stdout)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def is_running(self) -> bool:
        """Return whether it has not ended."""
        return self._process.poll() is None

    def finish(self, *, torn: bool = False) -> TapRun:
        """Read the rest, and wait for the end.

        Args:
            torn: Whether the last line may be torn, as by SIGKILL; targets do not get it.
        """
        with self.stdout:
            out = b"".join([*self._read, *self.stdout])
        return self._run(out[: out.rfind(b"\n") + 1] if torn else out)

    def close_pipe(self) -> TapRun:
        """Close the pipe as a target that dies, and wait for the end."""
        self.stdout.close()
        return self._run(b"")

    def _run(self, out: bytes) -> TapRun:
        return TapRun(self._process.wait(timeout=60), out, self._log_file.read_text())

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.is_running():
            self._process.kill()
        self.stdout.close()
        self._process.wait(timeout=60)


class Tap:
    """Runs the tap: in this process, or as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[TapProcess] = []

    def arguments(
        self,
        sandbox: Sandbox | None,
        *arguments: str,
        catalog: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
        **config: Any,
    ) -> list[str]:
        """Return the arguments of a run; the sandbox's URL and key go into its config file."""
        if sandbox is not None:
            config = {
                "api_url": sandbox.url,
                "api_key": sandbox.api_key,
                "poll_interval": 1,
                **config,
            }
        command = ["--config", self._write("config", config), *arguments]
        if catalog is not None:
            command += ["--catalog", self._write("catalog", catalog)]
        if state is not None:
            command += ["--state", self._write("state", state)]
        return command

    def __call__(
        self,
        sandbox: Sandbox | None,
        *arguments: str,
        env: dict[str, str] | None = None,
        code: int | None = 0,
        **settings: Any,
    ) -> TapRun:
        """Run the tap in this process.

        Args:
            sandbox: The sandbox that it uses, if any.
            arguments: Options of the command line.
            env: Environment variables to add.
            code: The exit code that it must have; None for any.
            settings: `catalog` and `state` are files, the rest is its config.
        """
        run = run_in_process(self.arguments(sandbox, *arguments, **settings), env or {})
        return run.check(code)

    def run_process(
        self,
        sandbox: Sandbox | None,
        *arguments: str,
        env: dict[str, str] | None = None,
        code: int = 0,
        **settings: Any,
    ) -> TapRun:
        """Run the tap as a process, to its end."""
        done = subprocess.run(
            [*TAP, *self.arguments(sandbox, *arguments, **settings)],
            capture_output=True,
            check=False,
            env={**os.environ, **(env or {})},
            timeout=120,
        )
        return TapRun(done.returncode, done.stdout, done.stderr.decode()).check(code)

    def start(
        self, sandbox: Sandbox | None, env: dict[str, str] | None = None, **settings: Any
    ) -> TapProcess:
        """Start the tap as a process."""
        arguments = self.arguments(sandbox, **settings)
        process = TapProcess(arguments, self._folder / "tap.log", env or {})
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Kill the processes that a failed test has left."""
        for process in self._processes:
            process.kill()

    def discover(self, sandbox: Sandbox, **config: Any) -> dict[str, Any]:
        """Return the catalog that `--discover` prints."""
        run = run_in_process(self.arguments(sandbox, "--discover", **config), {}, parse=False)
        catalog: dict[str, Any] = json.loads(run.check(0).out)
        return catalog

    def _write(self, name: str, content: dict[str, Any]) -> str:
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps(content))
        return str(path)


class SkippingClock:
    """A clock that sleeping moves at once."""

    def __init__(self) -> None:
        self._slept = 0.0

    def monotonic(self) -> float:
        """Return the time, with the time slept."""
        return time.monotonic() + self._slept

    def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self._slept += seconds


def run_in_process(arguments: list[str], env: dict[str, str], *, parse: bool = True) -> TapRun:
    """Run the tap's command in this process; what it changes is restored.

    Retries and polls take no time: retries have no delays, and what waits on top of that sleeps
    on a clock of its own.

    Args:
        arguments: The command line, without the program.
        env: Environment variables to add.
        parse: Whether standard output is messages.
    """
    out, log = io.BytesIO(), io.StringIO()
    stdout = io.TextIOWrapper(out, write_through=True)
    code: object = None
    with contextlib.ExitStack() as stack:
        for change in (
            mock.patch.object(sys, "argv", ["tap-sendgrid-contacts", *arguments]),
            mock.patch.object(sys, "stdout", stdout),
            mock.patch.object(sys, "stderr", log),
            mock.patch.dict(os.environ, env),
            mock.patch.object(TapSendGridContacts, "retry", RetryPolicy((0.0,) * 5)),
            _patch_clock(SkippingClock()),
            _restore_logging(),
            _restore_process(),
        ):
            stack.enter_context(change)
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        stdout.flush()
    written = out.getvalue()
    run = TapRun(int(str(code or 0)), written if parse else b"", log.getvalue())
    run.out = written
    return run


@contextlib.contextmanager
def _patch_clock(clock: SkippingClock) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module in (progress, export):
            stack.enter_context(mock.patch.object(module, "time", clock))
        stack.enter_context(mock.patch.object(stopping, "sleep", clock.sleep))
        yield


@contextlib.contextmanager
def _restore_logging() -> Iterator[None]:
    """Restore what a logging configuration can change."""

    def loggers() -> list[logging.Logger]:
        named = logging.root.manager.loggerDict.values()
        return [logging.root, *(each for each in named if isinstance(each, logging.Logger))]

    new = {"handlers": [], "filters": [], "level": 0, "propagate": True, "disabled": False}
    before = {logger: {name: getattr(logger, name) for name in new} for logger in loggers()}
    for logger in before:
        logger.handlers, logger.filters = logger.handlers[:], logger.filters[:]
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        for logger in loggers():
            vars(logger).update(before[logger] if logger in before else copy.deepcopy(new))
        logging.root.setLevel(logging.root.level)  # clears the caches of levels


@contextlib.contextmanager
def _restore_process() -> Iterator[None]:
    factory = logging.getLogRecordFactory()
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    signals = {number: signal.getsignal(number) for number in handled}
    hook, limit = sys.excepthook, csv.field_size_limit()

    def install() -> None:
        # Without the thread that ends the process ten seconds after a signal.
        for number in handled:
            signal.signal(number, stopping.note)

    with (
        warnings.catch_warnings(),
        mock.patch.object(stopping, "install", install),
        mock.patch.object(stopping, "_noted", None),
    ):
        try:
            yield
        finally:
            sys.excepthook = hook
            csv.field_size_limit(limit)
            logging.setLogRecordFactory(factory)
            for number, handler in signals.items():
                signal.signal(number, handler)


def incremental(catalog: dict[str, Any]) -> dict[str, Any]:
    """Choose INCREMENTAL in a catalog, in the metadata, as users do."""
    (stream,) = catalog["streams"]
    root = next(entry for entry in stream["metadata"] if not entry["breadcrumb"])
    root["metadata"]["replication-method"] = "INCREMENTAL"
    return catalog


def deselect(catalog: dict[str, Any], *columns: str) -> dict[str, Any]:
    """Deselect columns in a catalog, in the metadata, as users do."""
    (stream,) = catalog["streams"]
    for entry in stream["metadata"]:
        if entry["breadcrumb"] and entry["breadcrumb"][1] in columns:
            entry["metadata"]["selected"] = False
    return catalog


both_file_types = pytest.mark.parametrize("file_type", FILE_TYPES)

"""Run the tap in a forked child: its requests go to the parent, its clock is simulated.

All that the simulation knows of the tap's inside is here.
"""

from __future__ import annotations

import contextlib
import encodings
import errno
import functools
import importlib
import io
import multiprocessing
import os
import queue
import random
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter
from typing_extensions import override

from tap_sendgrid_contacts import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from tests.simulation.server import SimulatedServer

# A few contacts instead of thousands, so that small worlds have many blocks and checkpoints.
CONSTANTS = {
    ("tap_sendgrid_contacts.run.state", "STATE_INTERVAL"): 3,
    ("tap_sendgrid_contacts.decode.csv", "_BLOCK_ROWS"): 2,
    ("tap_sendgrid_contacts.decode.lines", "_BLOCK_BYTES"): 400,
}
_REAL_TIMEOUT = 30
_HARNESS_FAILED = 70
_DOWNLOAD = "download"

# What each run would load again.
metadata.version = functools.cache(metadata.version)
metadata.version("singer_sdk")
encodings.search_function("utf-8-sig")

_real_sleep, _real_wait = time.sleep, threading.Event.wait
_real_get, _real_put, _real_join = queue.Queue.get, queue.Queue.put, threading.Thread.join


class Interruption(NamedTuple):
    """What happens to a run.

    Attributes:
        where: Whether it happens at a line of output (`out`), a log line (`log`), a request to
            the API (`api`) or storage (`storage`), or a `sleep`.
        number: At which one.
        signals: Signals that the tap gets; none if its output is closed instead.
        torn: Whether a line is written in part by then.
    """

    where: str
    number: int
    signals: tuple[signal.Signals, ...]
    torn: bool


@dataclass
class SimulatedRun:
    """A run that has ended.

    Attributes:
        code: Its exit code, or the negative number of the signal that killed it.
        out: Its standard output.
        log: Its standard error.
        interruption: What was planned to happen to it.
        is_interrupted: Whether that happened.
        is_hanging: Whether it did not end.
    """

    code: int
    out: bytes
    log: str
    interruption: Interruption | None = None
    is_interrupted: bool = False
    is_hanging: bool = False
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def is_closed(self) -> bool:
        """Whether its output was closed."""
        return self.is_interrupted and not (self.interruption and self.interruption.signals)


def run_tap(
    server: SimulatedServer,
    arguments: list[str],
    interruption: Interruption | None = None,
    mutate: Callable[[], object] | None = None,
) -> SimulatedRun:
    """Run the tap's command.

    Args:
        server: Responds to its requests.
        arguments: The command line, without the program.
        interruption: What happens to it.
        mutate: Breaks the tap.
    """
    out, log = os.memfd_create("out"), os.memfd_create("log")
    parent, child = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        code = _HARNESS_FAILED
        try:
            parent.close()
            os.dup2(out, 1)
            os.dup2(log, 2)
            # In the background of a shell, SIGINT is ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            process = _Child(child, server, interruption)
            process.patch()
            if mutate:
                mutate()
            code = 1
            code = process.run(arguments)
        except BaseException:  # noqa: BLE001 - nothing may leave the child
            os.write(2, traceback.format_exc().encode())
        os._exit(code)
    child.close()
    events, is_hanging = 0, False
    with parent, contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            if not parent.poll(_REAL_TIMEOUT):
                is_hanging = True
                os.kill(pid, signal.SIGKILL)
                break
            server.now, *request = parent.recv()
            if not request:
                events += 1
                continue
            parent.send(server.respond(*request))
    _, status = os.waitpid(pid, 0)
    run = SimulatedRun(
        os.waitstatus_to_exitcode(status),
        _read(out),
        _read(log).decode(errors="replace"),
        interruption,
        is_interrupted=events > 0,
        is_hanging=is_hanging,
    )
    if run.code == _HARNESS_FAILED:
        raise RuntimeError(run.log)
    return run


def _read(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read()


class _Child:
    """The process of the tap."""

    def __init__(
        self, connection: Connection, server: SimulatedServer, interruption: Interruption | None
    ) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._is_waiting = threading.Event()
        self._now = server.now
        self._started = server.now
        self._interruption = interruption
        self._counts = dict.fromkeys(("out", "log", "api", "storage", "sleep"), 0)
        self._is_closed = False
        # Retries wait for random times.
        random.seed(f"{server.seed} {server.run}")

    def patch(self) -> None:
        """Replace constants, clock, requests and output."""
        for name in {*os.environ} - {"HOME", "TMPDIR"}:
            # Proxies and CA bundles, for instance, differ from machine to machine.
            del os.environ[name]
        for (module, name), value in CONSTANTS.items():
            namespace = vars(importlib.import_module(module))
            assert name in namespace, f"{module} has no {name} any more"
            namespace[name] = value
        for name in ("time", "monotonic", "sleep"):
            setattr(time, name, getattr(self, name))
        for owner, name, method in (
            (HTTPAdapter, "send", self._send),
            (threading.Event, "wait", self._wait),
            (threading.Thread, "join", self._join),
            (queue.Queue, "get", self._get),
            (queue.Queue, "put", self._put),
        ):
            setattr(owner, name, _as_function(method))
        sys.stdout = self._open(1, "out")
        sys.stderr = self._open(2, "log")

    def run(self, arguments: list[str]) -> int:
        """Run the tap; return its exit code."""
        sys.argv = ["tap-sendgrid-contacts", *arguments]
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    # --- clock ------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now - self._started + 1000

    def sleep(self, seconds: float) -> None:
        if threading.current_thread().name == "stopping":
            # It ends a process that is stuck, which must not be simulated.
            _real_sleep(seconds)
        # Less than a float of this size can show would not move the clock.
        self._now += max(seconds, 0.001)
        self._pass("sleep")

    def _wait(self, event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is None:
            return _real_wait(event)
        if not event.is_set():
            self._now += timeout
        return event.is_set()

    # --- threads ----------------------------------------------------------------------------
    # The download goes on only while the main thread waits for it: otherwise, how far it is when
    # something happens would be different each time.

    def _join(self, thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == _DOWNLOAD:
            self._is_waiting.set()
        _real_join(thread, timeout)
        self._is_waiting.clear()

    def _get(self, parts: queue.Queue[Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if parts.empty():
            self._is_waiting.set()
        try:
            return _real_get(parts, *args, **options)
        finally:
            self._is_waiting.clear()

    def _put(self, parts: queue.Queue[Any], *args: Any, **options: Any) -> None:
        self._is_waiting.clear()
        _real_put(parts, *args, **options)

    # --- requests ---------------------------------------------------------------------------

    def _send(
        self, adapter: HTTPAdapter, request: requests.PreparedRequest, **_: object
    ) -> requests.Response:
        if threading.current_thread().name == _DOWNLOAD:
            _real_wait(self._is_waiting, _REAL_TIMEOUT)
        body = request.body or b""
        with self._lock:
            self._now += 0.05
            message = (self._now, request.method, request.url, dict(request.headers), body)
            self._connection.send(message)
            reply = self._connection.recv()
        self._pass("storage" if "storage" in str(request.url) else "api")
        if reply.error == "timeout":
            self._now += 30
            raise requests.ReadTimeout
        if reply.error:
            cause = ConnectionResetError(errno.ECONNRESET, "reset")
            raise requests.ConnectionError(urllib3.exceptions.ProtocolError("aborted", cause))
        response = urllib3.HTTPResponse(
            io.BytesIO(reply.body), reply.headers, reply.status, preload_content=False
        )
        return adapter.build_response(request, response)

    # --- output and interruptions -----------------------------------------------------------

    def _open(self, fd: int, where: str) -> io.TextIOWrapper:
        file = _Output(fd, lambda data: self._write(fd, where, data))
        return io.TextIOWrapper(io.BufferedWriter(file), "utf-8", line_buffering=True)

    def _write(self, fd: int, where: str, data: bytes) -> None:
        plan = self._interruption
        rest = data
        if plan and plan.where == where:
            lines = data.splitlines(keepends=True)
            first = plan.number - self._counts[where]
            if 0 <= first < len(lines):
                written = b"".join(lines[:first])
                written += lines[first][: len(lines[first]) // 2] if plan.torn else b""
                os.write(fd, written)
                rest = data[len(written) :]
                self._counts[where] = plan.number
                self._pass(where)
                self._counts[where] -= 1
        if self._is_closed and where == "out":
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        os.write(fd, rest)
        self._counts[where] += data.count(b"\n")

    def _pass(self, where: str) -> None:
        """Interrupt the run if this is the time."""
        plan, count = self._interruption, self._counts[where]
        self._counts[where] += 1
        if plan is None or (plan.where, plan.number) != (where, count):
            return
        self._interruption = None
        with self._lock:
            self._connection.send((self._now,))
        if not plan.signals:
            self._is_closed = True
        for number in plan.signals:
            signal.pthread_kill(threading.main_thread().ident or 0, number)


def _as_function(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function, which becomes a method of the class that it is set in."""
    return lambda *args, **options: method(*args, **options)  # noqa: PLW0108 - not a method yet


class _Output(io.RawIOBase):
    """Standard output or error of the tap."""

    def __init__(self, fd: int, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._fd = fd
        self._write_lines = write

    @override
    def writable(self) -> bool:
        return True

    @override
    def fileno(self) -> int:
        return self._fd

    @override
    def write(self, data: Any, /) -> int:
        self._write_lines(bytes(data))
        return len(data)

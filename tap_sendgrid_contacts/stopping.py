"""Stop on a signal: the handler notes it, and the run ends at its next safe point.

A handler that logs, raises or writes can be swallowed by the code it interrupts: a log call, a
weakref callback, `json`. So the handler only notes the signal. `check` raises at safe points:
between lines, and in every wait. If none is reached in time, because nobody reads the output, a
thread ends the process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

T = TypeVar("T")

GRACE_SECONDS = 10.0
"""Time from the first signal to the end of the process, whatever it is doing."""

# Windows has no SIGHUP.
_HANDLED = {signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)}

# How long a wait goes on after a signal, at most.
_SLICE_SECONDS = 0.1

_noted: int | None = None


class Stopped(BaseException):
    """A signal was noted; the run ends here. Not an `Exception`: no handler of errors catches it.

    Attributes:
        exit_code: 128 + signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


def install() -> None:
    """Handle SIGTERM, SIGINT and SIGHUP in this process, for good.

    A signal that is ignored, as SIGHUP is under `nohup`, stays ignored.
    """
    for number in _HANDLED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, note)
    # The interpreter writes each signal to this pipe, even while the main thread is in a system
    # call or in C code.
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_end_process, args=(read_end,), name="stopping", daemon=True).start()


def note(signum: int, _frame: FrameType | None = None) -> None:
    """Note a signal: the first one; further ones change nothing."""
    global _noted  # noqa: PLW0603 - signals belong to the process
    if _noted is None:
        _noted = signum


def ignore() -> None:
    """Ignore further signals: Python restores their default handlers while it exits."""
    for number in _HANDLED:
        signal.signal(number, signal.SIG_IGN)


def noted() -> Stopped | None:
    """Return the signal that was noted, as the exception that `check` raises."""
    return None if _noted is None else Stopped(_noted)


def check() -> None:
    """Raise `Stopped` if a signal was noted. Called where no line is half written."""
    if stopped := noted():
        raise stopped


def sleep(seconds: float) -> None:
    """Sleep; raise `Stopped` if a signal arrives."""
    deadline = time.monotonic() + seconds
    check()
    while (remaining := deadline - time.monotonic()) > 0:
        time.sleep(min(remaining, _SLICE_SECONDS))
        check()


def run(function: Callable[[], T]) -> T:
    """Run a function that may block, such as a request; raise `Stopped` if a signal arrives.

    It runs in a thread: a main thread that waits for a server would note a signal, and wait on.

    Returns:
        What the function returns; what it raises is raised here.
    """
    if threading.current_thread() is not threading.main_thread():
        # Signals interrupt the main thread only, and that one closes the others.
        return function()
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    check()
    thread = threading.Thread(target=target, name="request", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_SLICE_SECONDS)
        check()
    for error in errors:
        raise error
    return results[0]


def _end_process(read_end: int) -> None:
    """Wait for a signal, then for the end of the process; end it when the time is over."""
    while True:
        received = set(os.read(read_end, 64))
        if signals := _HANDLED & received:
            break
    time.sleep(GRACE_SECONDS)
    # Only now: of signals that come together, the main thread may note another one first.
    signum = min(signals) if _noted is None else _noted
    name = signal.Signals(signum).name
    line = f"Stopped by {name} after {GRACE_SECONDS:.0f} s of waiting: is the output being read?\n"
    with contextlib.suppress(OSError, ValueError):
        # Not a log call: the main thread may hold the lock of a handler. If nobody reads the log
        # either, a write would never end.
        stderr = sys.__stderr__.fileno() if sys.__stderr__ else 2
        if select.select([], [stderr], [], 0)[1]:
            os.write(stderr, line.encode())
    os._exit(128 + signum)

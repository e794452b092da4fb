from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tap_sendgrid_contacts import stopping
from tests.harness import wait_until_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _no_signal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stopping, "_noted", None)
    yield
    monkeypatch.setattr(stopping, "_noted", None)


def test_only_the_first_signal_counts() -> None:
    stopping.check()
    stopping.note(signal.SIGINT)
    stopping.note(signal.SIGTERM)
    with pytest.raises(stopping.Stopped, match="SIGINT") as stopped:
        stopping.check()
    assert stopped.value.exit_code == 130


@pytest.mark.parametrize(
    "wait", [lambda: stopping.sleep(60), lambda: stopping.run(lambda: time.sleep(1))]
)
def test_waits_end_when_a_signal_is_noted(wait: Callable[[], None]) -> None:
    timer = threading.Timer(0.05, stopping.note, [signal.SIGTERM])
    timer.start()
    with pytest.raises(stopping.Stopped):
        wait()
    timer.join()


def test_run_returns_or_raises_what_the_function_does() -> None:
    assert stopping.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        stopping.run(lambda: 1 // 0)


_PROGRAM = """
import logging, os, sys, time
from tap_sendgrid_contacts import stopping
stopping.GRACE_SECONDS = float(sys.argv[1])
stopping.install()
"""


@contextlib.contextmanager
def _start(
    body: str, grace: float = 10, on_hangup: signal.Handlers = signal.SIG_DFL
) -> Iterator[subprocess.Popen[str]]:
    """Start a program, which inherits what SIGHUP does; it has printed a line."""
    previous = signal.signal(signal.SIGHUP, on_hangup)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM + body, str(grace)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGHUP, previous)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_process_that_writes_to_nobody_ends_after_the_grace_period(stream: str) -> None:
    body = f"print(flush=True); print('x' * (1 << 20), file=sys.{stream}, flush=True)"
    with _start(body, grace=0.2) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGINT
        stderr = process.stderr.read() if process.stderr else ""
    line = "Stopped by SIGINT after 0 s of waiting: is the output being read?\n"
    assert stderr == line if stream == "stdout" else set(stderr) == {"x"}


def test_a_signal_within_a_log_call_is_honoured() -> None:
    body = """
logging.basicConfig(level=logging.DEBUG)
print(flush=True)
try:
    while True:
        logging.debug("text")
        stopping.check()
except stopping.Stopped as stopped:
    sys.exit(stopped.exit_code)
"""
    with _start(body) as process:
        assert process.stderr is not None
        wait_until_full(process.stderr)
        process.send_signal(signal.SIGHUP)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGHUP
        assert set(stderr.splitlines()) == {"DEBUG:root:text"}


def test_an_ignored_signal_stays_ignored() -> None:
    body = """
print(flush=True)
time.sleep(0.2)
sys.exit(stopping.noted() is not None)
"""
    # As `nohup` does.
    with _start(body, on_hangup=signal.SIG_IGN) as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0

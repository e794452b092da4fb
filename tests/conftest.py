"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.harness import Sandbox, Tap, run_sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Else each worker, and each tap that they start, compiles all that it imports.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The SDK's warning that a Python which the tap still supports reaches its end of life.
os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _no_download_is_left() -> Iterator[None]:
    """Fail a test whose download goes on: its requests would spoil the next test."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "download"]


@pytest.fixture
def start_sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes that are up until the end of the test."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(run_sandbox(*options))


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    """Runs the tap."""
    tap = Tap(tmp_path)
    yield tap
    tap.close()

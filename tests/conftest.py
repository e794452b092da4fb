"""The tap and the sandbox as processes, the way users run them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.warehouse import Postgres, postgres_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.warehouse import Server, Target

TAP = [sys.executable, "-m", "tap_sendgrid_contacts.tap"]
SANDBOX = [sys.executable, "-m", "tap_sendgrid_contacts.sandbox"]


@dataclass
class Sandbox:
    """A local SendGrid that stays up for a test."""

    url: str
    api_key: str
    log_file: Path

    @property
    def log(self) -> list[str]:
        """One line per request."""
        return self.log_file.read_text().splitlines()

    def count(self, start: str) -> int:
        """Count the requests whose line begins so, e.g. `POST /v3`."""
        return sum(line.startswith(start) for line in self.log)

    @property
    def exports_asked_for(self) -> int:
        return sum(line.startswith("POST /v3/marketing/contacts/exports 202") for line in self.log)


def position(state: dict[str, Any]) -> dict[str, Any] | None:
    """The export that a state names as in flight, if any."""
    exports: list[dict[str, Any]] = state["bookmarks"]["contacts"].get("exports", [])
    return exports[0] if exports else None


@dataclass
class Run:
    """What a run of the tap wrote, and how it ended."""

    code: int
    out: bytes
    log: str
    messages: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.messages = [json.loads(line) for line in self.out.splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [message["record"] for message in self.of("RECORD")]

    @property
    def state(self) -> dict[str, Any]:
        """The last STATE, which a target would keep."""
        state: dict[str, Any] = self.of("STATE")[-1]["value"]
        return state

    @property
    def export_state(self) -> dict[str, Any] | None:
        """The export in flight, if the last STATE names one."""
        return position(self.state)

    @property
    def errors(self) -> list[str]:
        return [line for line in self.log.splitlines() if re.search(r"\| (ERROR|CRITICAL)", line)]

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        assert len(self.errors) == 1, self.log
        assert "Traceback" not in self.log, self.log
        return self.errors[0]


@contextmanager
def serve(*options: str) -> Iterator[Sandbox]:
    """Run a sandbox with these options."""
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(
            [*SANDBOX, "serve", *options], stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            ready = re.match(r"sandbox ready: (\S+) api_key=(\S+)", process.stdout.readline())
            assert ready, Path(log.name).read_text()
            yield Sandbox(ready[1], ready[2], Path(log.name))
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


@pytest.fixture
def sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes that last for the test."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(serve(*options))


class Tap:
    """Runs the tap against a sandbox."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log_file = folder / "tap.log"

    def command(
        self,
        sandbox: Sandbox | None,
        *arguments: str,
        catalog: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
        **config: Any,
    ) -> list[str]:
        """The command line of a run; the sandbox's URL and key go into its config file."""
        if sandbox is not None:
            config = {
                "api_url": sandbox.url,
                "api_key": sandbox.api_key,
                "poll_interval": 1,
                **config,
            }
        command = [*TAP, "--config", self._file("config", config), *arguments]
        if catalog is not None:
            command += ["--catalog", self._file("catalog", catalog)]
        if state is not None:
            command += ["--state", self._file("state", state)]
        return command

    def __call__(
        self,
        sandbox: Sandbox | None,
        *arguments: str,
        env: dict[str, str] | None = None,
        timeout: float = 120,
        **settings: Any,
    ) -> Run:
        """Run the tap to its end: `catalog` and `state` are files, the rest is its config."""
        done = subprocess.run(
            self.command(sandbox, *arguments, **settings),
            capture_output=True,
            check=False,
            env={**os.environ, **(env or {})},
            timeout=timeout,
        )
        return Run(done.returncode, done.stdout, done.stderr.decode())

    def discover(self, sandbox: Sandbox, **config: Any) -> dict[str, Any]:
        """The catalog that `--discover` prints."""
        done = subprocess.run(
            self.command(sandbox, "--discover", **config), capture_output=True, check=True
        )
        catalog: dict[str, Any] = json.loads(done.stdout)
        return catalog

    def _file(self, name: str, content: dict[str, Any]) -> str:
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps(content))
        return str(path)


@pytest.fixture
def tap(tmp_path: Path) -> Tap:
    """The tap as a process."""
    return Tap(tmp_path)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A throwaway PostgreSQL server."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Make a target with an empty place to load into."""

    def make(kind: type[Target], **config: bool) -> Target:
        if issubclass(kind, Postgres):
            return kind(tmp_path, request.getfixturevalue("server"), **config)
        return kind(tmp_path, **config)

    return make

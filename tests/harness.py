"""Run the tap and the sandbox: in this process where that shows the same, else as processes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import click

from tap_sendgrid_contacts import cli
from tap_sendgrid_contacts.api.http import RetryPolicy
from tap_sendgrid_contacts.sandbox.cli import sandbox_options
from tap_sendgrid_contacts.sandbox.server import run_server
from tap_sendgrid_contacts.tap import TapSendGridContacts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tap_sendgrid_contacts.sandbox.account import Account
    from tap_sendgrid_contacts.sandbox.server import Settings

TAP = [sys.executable, "-m", "tap_sendgrid_contacts"]
SANDBOX = [sys.executable, "-m", "tap_sendgrid_contacts.sandbox"]


@dataclass
class Sandbox:
    """A sandbox that is up.

    Attributes:
        url: URL of its API.
        api_key: The API key it accepts.
        log: One line per request and per fault.
    """

    url: str
    api_key: str
    log: list[str]

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
def run_sandbox(*options: str) -> Iterator[Sandbox]:
    """Run a sandbox in a thread; exports are ready at once unless `--pending-polls` is given."""
    if "--pending-polls" not in options:
        options = ("--pending-polls", "0", *options)
    account, settings = _parse_options(options)
    log: list[str] = []
    ready: list[str] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()

    async def run() -> None:
        async with run_server(account, settings, log.append) as url:
            ready.append(url)
            started.set()
            await stopped.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    try:
        assert started.wait(30)
        yield Sandbox(ready[0], settings.api_key, log)
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(30)
        loop.close()


def _parse_options(options: tuple[str, ...]) -> tuple[Account, Settings]:
    parsed: list[tuple[Account, Settings]] = []

    @click.command()
    @sandbox_options
    def parse(sandbox: tuple[Account, Settings, Any]) -> None:
        parsed.append(sandbox[:2])

    parse.main([*options], standalone_mode=False)
    return parsed[0]


def checkpoint_of(state: dict[str, Any]) -> dict[str, Any] | None:
    """Return the checkpoint in a state, if there is one."""
    exports: list[dict[str, Any]] = state["bookmarks"]["contacts"].get("exports", [])
    return exports[0] if exports else None


def contacts_read(state: dict[str, Any]) -> int:
    """Return how many contacts a state's checkpoint counts as read."""
    checkpoint = checkpoint_of(state) or {}
    read: int = checkpoint.get("contacts_before", 0) + checkpoint.get("part_offset", 0)
    return read


@dataclass
class Run:
    """What a run of the tap wrote, and its exit code."""

    code: int
    out: bytes
    log: str
    messages: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.messages = [json.loads(line) for line in self.out.splitlines()]

    def of_type(self, message_type: str) -> list[dict[str, Any]]:
        """Return the messages of a type."""
        return [message for message in self.messages if message["type"] == message_type]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of all RECORD messages."""
        return [message["record"] for message in self.of_type("RECORD")]

    @property
    def state(self) -> dict[str, Any]:
        """The last STATE, which a target would keep."""
        state: dict[str, Any] = self.of_type("STATE")[-1]["value"]
        return state

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint in the last STATE, if there is one."""
        return checkpoint_of(self.state)

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


class Tap:
    """Runs the tap: in this process, or as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log_file = folder / "tap.log"

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
        **settings: Any,
    ) -> Run:
        """Run the tap in this process: `catalog` and `state` are files, the rest is its config."""
        return run_in_process(self.arguments(sandbox, *arguments, **settings), env or {})

    def run_process(
        self,
        sandbox: Sandbox | None,
        *arguments: str,
        env: dict[str, str] | None = None,
        timeout: float = 120,
        **settings: Any,
    ) -> Run:
        """Run the tap as a process, to its end."""
        done = subprocess.run(
            [*TAP, *self.arguments(sandbox, *arguments, **settings)],
            capture_output=True,
            check=False,
            env={**os.environ, **(env or {})},
            timeout=timeout,
        )
        return Run(done.returncode, done.stdout, done.stderr.decode())

    def discover(self, sandbox: Sandbox, **config: Any) -> dict[str, Any]:
        """Return the catalog that `--discover` prints."""
        run = run_in_process(self.arguments(sandbox, "--discover", **config), {}, parse=False)
        assert run.code == 0, run.log
        catalog: dict[str, Any] = json.loads(run.out)
        return catalog

    def _write(self, name: str, content: dict[str, Any]) -> str:
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps(content))
        return str(path)


def run_in_process(arguments: list[str], env: dict[str, str], *, parse: bool = True) -> Run:
    """Run the tap's command in this process, retries without waits; what it changes is restored.

    Args:
        arguments: The command line, without the program.
        env: Environment variables to add.
        parse: Whether standard output is messages.
    """
    out, log = io.BytesIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.excepthook
    code: object = None
    with (
        mock.patch.object(sys, "argv", ["tap-sendgrid-contacts", *arguments]),
        mock.patch.object(sys, "stdout", io.TextIOWrapper(out, write_through=True)) as stdout,
        mock.patch.object(sys, "stderr", log),
        mock.patch.dict(os.environ, env),
        mock.patch.object(TapSendGridContacts, "retry", RetryPolicy((0.0,) * 5)),
        warnings.catch_warnings(),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        finally:
            stdout.flush()
            logging.captureWarnings(capture=False)
            sys.excepthook = hook
            root.handlers[:] = handlers
            root.setLevel(level)
            for number, handler in signals.items():
                signal.signal(number, handler)
    written = out.getvalue()
    run = Run(int(str(code or 0)), written if parse else b"", log.getvalue())
    run.out = written
    return run


def incremental(catalog: dict[str, Any]) -> dict[str, Any]:
    """Choose INCREMENTAL in a catalog, in the metadata, as users do."""
    (stream,) = catalog["streams"]
    root = next(entry for entry in stream["metadata"] if not entry["breadcrumb"])
    root["metadata"]["replication-method"] = "INCREMENTAL"
    return catalog

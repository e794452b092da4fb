"""Runs Meltano, and reads the files and the state of its projects."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import yaml

from tests.targets.targets import MELTANO, ROOT, tool_venv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Sandbox

NAME = "tap-sendgrid-contacts"

# Meltano Hub shows these; `meltano add` drops them, and no project may have them.
_HUB_FIELDS = {"maintenance_status", "domain_url", "keywords"}


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the content of a YAML file."""
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content


def read_definition(file: Path) -> dict[str, Any]:
    """Return a plugin definition as a project has it."""
    return {key: value for key, value in read_yaml(file).items() if key not in _HUB_FIELDS}


def read_loaders() -> dict[str, dict[str, Any]]:
    """Return the loaders of this repository's meltano.yml, by name."""
    loaders = read_yaml(ROOT / "meltano.yml")["plugins"]["loaders"]
    return {loader["name"]: loader for loader in loaders}


class Meltano:
    """Runs Meltano in a project, with a tap that uses a sandbox.

    Attributes:
        folder: The project.
        file: Its meltano.yml.
    """

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.file = folder / "meltano.yml"
        self._program = tool_venv(MELTANO) / "meltano"
        # No variable of this machine may change Meltano or a plugin.
        foreign = re.compile("(MELTANO|TAP|TARGET)_|PYTHONDONTWRITEBYTECODE$")
        inherited = {name: text for name, text in os.environ.items() if not foreign.match(name)}
        self._env = inherited | sandbox.env

    def __call__(self, *arguments: str, env: dict[str, str] | None = None, code: int = 0) -> str:
        """Run a command; return its output."""
        return self.wait(self.start(*arguments, env=env), code=code)

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            [self._program, *arguments],
            cwd=self.folder,
            env=self._env | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def wait(process: subprocess.Popen[str], *, code: int = 0) -> str:
        """Wait until a command exits; return its output."""
        with process:
            try:
                out, _ = process.communicate(timeout=300)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert process.returncode == code, out
        return out

    def state(self, state_id: str) -> dict[str, Any]:
        """Return the stream's state."""
        partial, completed = self.saved_state(state_id)
        if json.loads(partial or "{}"):
            # Of a failed run or a full refresh: only Meltano knows how it merges the two.
            (completed,) = re.findall("^{.*}$", self("state", "get", state_id), re.MULTILINE)
        bookmark: dict[str, Any] = json.loads(completed)["singer_state"]["bookmarks"]["contacts"]
        return bookmark

    def saved_state(self, state_id: str) -> tuple[str, str]:
        """Return a state as Meltano saved it: the partial and the completed one.

        `meltano state get` takes more than a second.
        """
        sql = "SELECT partial_state, completed_state FROM state WHERE state_id = ?"
        with self._database() as database:
            row: tuple[str, str] = database.execute(sql, (state_id,)).fetchone()
        return row

    def restore_state(self, state_id: str, saved: tuple[str, str]) -> None:
        """Save a state again."""
        sql = "UPDATE state SET partial_state = ?, completed_state = ? WHERE state_id = ?"
        with self._database() as database, database:
            assert database.execute(sql, (*saved, state_id)).rowcount == 1

    def _database(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self.folder / ".meltano" / "meltano.db"))

"""Source trees of the tap."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

PACKAGE = "tap_sendgrid_contacts"


class Checkout(NamedTuple):
    """A source tree of the tap, run with the current interpreter and its installed packages.

    Attributes:
        root: Absolute path of the directory that contains the package.
    """

    root: Path

    @property
    def command(self) -> list[str]:
        """Command line of the tap, without arguments."""
        has_main = (self.root / PACKAGE / "__main__.py").exists()
        return [sys.executable, "-m", PACKAGE if has_main else f"{PACKAGE}.tap"]

    @property
    def env(self) -> dict[str, str]:
        """Environment in which the tree takes precedence over an installed package."""
        paths = [str(self.root), os.environ.get("PYTHONPATH")]
        return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}

    def check_import(self) -> None:
        """Check that the tap is imported from this tree.

        Raises:
            RuntimeError: It is not, so measurements would be those of another tree.
        """
        code = f"import {PACKAGE}; print({PACKAGE}.__file__)"
        done = subprocess.run(
            [sys.executable, "-B", "-c", code],
            capture_output=True,
            text=True,
            check=False,
            # Not in the current tree: Python looks for modules there first.
            cwd=tempfile.gettempdir(),
            env={**os.environ, **self.env},
        )
        imported = Path(done.stdout.strip()).resolve()
        if done.returncode or not imported.is_relative_to(self.root):
            raise RuntimeError(
                f"{PACKAGE} is not imported from {self.root}: {imported}{done.stderr}"
            )


CURRENT = Checkout(Path(__file__).resolve().parents[1])

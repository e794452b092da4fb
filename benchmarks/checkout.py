"""Source trees of the tap."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

PACKAGE = "tap_sendgrid_contacts"


class Checkout(NamedTuple):
    """A source tree of the tap, run with the current interpreter and its installed packages.

    Attributes:
        root: Directory that contains the package.
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


CURRENT = Checkout(Path(__file__).resolve().parents[1])

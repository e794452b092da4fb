"""Source trees of the tap."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
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
        return [sys.executable, "-m", PACKAGE]

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


def find_checkout(text: str, data_dir: Path) -> Checkout:
    """Return the source tree at a path, or the one of a commit.

    Only the package is taken of a commit: what is around it has been elsewhere at other times.

    Args:
        text: A path, or what git calls a revision.
        data_dir: Directory to unpack commits in.

    Raises:
        RuntimeError: It is neither.
    """
    root = Path(text).resolve()
    if (root / PACKAGE).is_dir():
        return Checkout(root)
    git = ("git", "-C", str(CURRENT.root))
    revision = ("rev-parse", "--verify", "--quiet", f"{text}^{{commit}}")
    done = subprocess.run([*git, *revision], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{text} is neither a folder with {PACKAGE} nor a commit")
    commit = done.stdout.strip()
    root = data_dir / "commits" / commit
    archive = subprocess.run([*git, "archive", commit, PACKAGE], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(root, filter="data")
    return Checkout(root)

"""The programs that the tap is compared with, and the environments some of them need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.data import Export

_PROGRAMS = Path(__file__).parent / "programs"
DLT = "dlt==1.31.0"
AIRBYTE = "airbyte-source-sendgrid==1.1.5"


def floor_json(export: Export, reader: str) -> list[str]:
    """Decode to dicts and encode; `reader` is `lines` or `blocks`."""
    return _program("floor_json.py", reader, *map(str, export.parts))


def floor_csv(export: Export) -> list[str]:
    """Split into cells and encode."""
    return _program("floor_csv.py", *map(str, export.parts))


def plain_script(api_url: str, file_type: str) -> list[str]:
    """Use requests, gzip and json."""
    return _program("plain_script.py", api_url, file_type)


def sdk_tap(config: Path) -> list[str]:
    """Use the SDK as its documentation shows it."""
    return _program("sdk_tap.py", "--config", str(config))


def dlt(python: Path, export: Export, to: Path) -> list[str]:
    """Use dlt."""
    return _program("dlt_pipeline.py", str(export.folder), str(to), python=python)


def airbyte(python: Path, api_url: str, folder: Path) -> list[str]:
    """Use Airbyte's connector."""
    return _program("airbyte_source.py", api_url, str(folder), python=python)


def environment(data: Path, package: str) -> Path | None:
    """Install a package into an environment of its own, once.

    Args:
        data: Where environments are kept.
        package: What to install.

    Returns:
        The environment's Python, or None if the package does not install here.
    """
    folder = data / "environments" / package
    python = folder / "bin" / "python"
    installed = folder / "installed"
    if not installed.exists():
        print(f"Installing {package} …", flush=True)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", package],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"Left out, {package} does not install here: {done.stderr[-300:]}")
                return None
        installed.touch()
    return python


def _program(name: str, *arguments: str, python: Path | None = None) -> list[str]:
    return [str(python or sys.executable), str(_PROGRAMS / name), *arguments]

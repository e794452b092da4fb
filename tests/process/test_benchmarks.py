"""The benchmarks: they still run, and tests and they need nothing of one another."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_floor(tmp_path: Path) -> None:
    options = ("--contacts", "1000", "--rounds", "1", "--data", str(tmp_path))
    out = run("-m", "benchmarks", "--only", "floor", *options)
    rows = re.findall(r"^\| (\w+, \w+) +\| +1,000 \|", out, re.MULTILINE)
    assert rows == ["tap, JSON", "tap, CSV", "floor, JSON", "floor, CSV"]
    assert "not evaluated: JSON: CPU, tap / floor" in out


def test_no_import_of_one_another() -> None:
    script = "import sys, benchmarks.cli; print(*(m.partition('.')[0] for m in sys.modules))"
    assert {"tests", "pytest"}.isdisjoint(run("-c", script).split())
    imports = re.compile(r"^\s*(?:from|import) benchmarks\b", re.MULTILINE)
    assert not [file for file in (ROOT / "tests").rglob("*.py") if imports.search(file.read_text())]

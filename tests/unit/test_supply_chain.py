"""What is run and installed is named exactly, and nothing that is not ours is recommended."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# The sandbox is no package on PyPI, and the tap is none yet.
OURS = re.compile(r"""(?:pip install|pip_url:|uv tool (?:run|install)) ['"]?(?:tap-)?sendgrid-""")


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflow(file: Path) -> None:
    text = file.read_text()
    uses = re.findall(r"uses: (?!\./)(.*)", text)
    assert uses
    assert not [each for each in uses if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", each)]
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert job["permissions"]
    # Of what it installs, each version is in .ci/requirements.txt.
    installs = re.findall(r"(?:pip install|uv tool run) .*", text)
    assert not [each for each in installs if " .ci/requirements.txt " not in each]


def test_tools_are_pinned() -> None:
    lines = (ROOT / ".ci" / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert "uv" in {line.partition("==")[0] for line in pins}
    assert not [line for line in pins if not re.fullmatch(r"[\w-]+==[\d.]+", line)]


def test_nothing_recommends_a_package_that_is_not_ours() -> None:
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", ":!tests", ":!*.md"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert len(files) > 50
    assert not [file for file in files if OURS.search(file.read_text(errors="replace"))]
    assert not [name for name in names if name.endswith(".lock")]

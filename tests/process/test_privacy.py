"""Contacts are stored in the folder that was named, and in no core dump."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import Sandbox, Tap


@pytest.mark.parametrize("is_missing", [True, False], ids=["missing", "a file"])
def test_no_other_folder_instead_of_tmpdir(
    start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path, *, is_missing: bool
) -> None:
    sandbox = start_sandbox("--contacts", "10")
    folder = tmp_path / "encrypted"
    if not is_missing:
        folder.touch()
    run = tap.run_process(sandbox, env={"TMPDIR": str(folder)}, code=1)
    assert (run.records, sandbox.exports_created) == ([], 0)
    assert f"Cannot write to TMPDIR ({folder})" in run.error


# Linux passes a dump of any size to a program, unless the limit is exactly 1.
@pytest.mark.parametrize(("maximum", "expected"), [(4096, 1), (resource.RLIM_INFINITY, 1), (0, 0)])
def test_no_core_dumps(maximum: int, expected: int) -> None:
    code = "import resource; from tap_sendgrid_contacts.cli import configure_process\n"
    code += "configure_process(); print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (maximum, maximum)),
    )
    assert done.stdout == f"{expected}\n"


@pytest.mark.parametrize("argument", ["--test", "--test=schema"])
def test_no_contact_is_read_without_a_run(
    start_sandbox: Callable[..., Sandbox], tap: Tap, argument: str
) -> None:
    sandbox = start_sandbox("--contacts", "10")
    tap.discover(sandbox)
    assert tap(sandbox, argument).code == 0
    assert {line.split()[0] for line in sandbox.log} == {"GET"}
    assert all(line.split()[1].startswith("/v3/") for line in sandbox.log)


def test_nothing_is_changed_but_exports_created(
    start_sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    sandbox = start_sandbox("--contacts", "10")
    assert tap(sandbox, separate_exports=True).code == 0
    changes = {tuple(line.split()[:2]) for line in sandbox.log if not line.startswith("GET ")}
    assert changes == {("POST", "/v3/marketing/contacts/exports")}

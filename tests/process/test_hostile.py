"""Responses that are hostile or broken: one clear line, at once, without control characters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Sandbox, Tap

# C0 without the line end, C1, and what reorders text.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("fault", ["huge-response", "huge-gzip-response"])
def test_huge_response(start_sandbox: Callable[..., Sandbox], tap: Tap, fault: str) -> None:
    run = tap(start_sandbox("--contacts", "5", "--fault", fault))
    assert run.code == 1
    assert "field_definitions: response larger than 16 MiB" in run.error
    assert "retrying" not in run.log


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("redirect-loop-part", "too many redirects"),
        ("redirect-empty-part", "HTTP 302: the redirect has no Location"),
        ("redirect-relative-part", "non-HTTPS URL"),
    ],
)
def test_redirect_of_the_storage(
    start_sandbox: Callable[..., Sandbox], tap: Tap, fault: str, words: str
) -> None:
    run = tap(start_sandbox("--contacts", "5", "--fault", fault))
    assert run.code == 1
    assert words in run.error
    assert "retrying" not in run.log


@pytest.mark.parametrize("stage", ["error-500:0", "post-400:0", "failure"])
def test_long_message(start_sandbox: Callable[..., Sandbox], tap: Tap, stage: str) -> None:
    sandbox = start_sandbox("--contacts", "5", "--fault", "long-messages", "--fault", stage)
    run = tap(sandbox)
    assert run.code == 1
    assert "://" in run.error
    assert len(run.error) < 700


def test_pages_in_a_cycle(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    run = tap(start_sandbox("--contacts", "5", "--fault", "paging-cycle"), separate_exports=True)
    assert run.code == 1
    assert "GET /v3/marketing/lists: the pages are a cycle" in run.error


def test_list_without_a_name(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "5", "--fault", "null-name")
    run = tap(sandbox, separate_exports=True)
    assert run.code == 0, run.log
    assert None in {record["source_name"] for record in run.records}
    assert tap(sandbox, "--test").code == 0


@pytest.mark.parametrize("arguments", [(), ("--test",)], ids=["run", "--test"])
@pytest.mark.parametrize("fault", ["", "failure", "error-500:0", "forbidden", "export-not-found"])
def test_no_control_character_reaches_the_log(
    start_sandbox: Callable[..., Sandbox], tap: Tap, fault: str, arguments: tuple[str, ...]
) -> None:
    faults = [each for name in filter(None, [fault]) for each in ("--fault", name)]
    sandbox = start_sandbox("--contacts", "5", "--fault", "control-characters", *faults)
    run = tap(sandbox, *arguments, env={"LOGLEVEL": "DEBUG"}, list_ids=[])
    assert not CONTROL.search(run.log), CONTROL.findall(run.log)
    if not fault:
        assert run.code == 0

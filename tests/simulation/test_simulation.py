"""Simulate some worlds, in processes of their own: they fork, and have a clock of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

# CI simulates more of them, in a step of its own.
WORLDS = 4


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads output from memory files")
def test_invariants_hold_in_simulated_worlds() -> None:
    simulation = simulate(str(WORLDS), "--kept")
    assert simulation.returncode == 0, simulation.stdout + simulation.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads output from memory files")
def test_mutations_of_the_tap_are_noticed() -> None:
    simulation = simulate("--mutations", "forget_signals", "print_signed_urls", "never_resume")
    assert simulation.returncode == 0, simulation.stdout + simulation.stderr

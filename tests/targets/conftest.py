"""Fixtures of the tests with targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.targets.days import Days
from tests.targets.targets import ROOT, Postgres, run_postgres, uv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.targets.targets import PostgresServer, Target


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests of this worker."""
    with run_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    """Run the tap on days of the account."""
    return Days(tmp_path_factory)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tap as a package."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Make a target with an empty place to load into."""

    def make(kind: type[Target], **config: Any) -> Target:
        if issubclass(kind, Postgres):
            return kind(tmp_path, request.getfixturevalue("server"), **config)
        return kind(tmp_path, **config)

    return make

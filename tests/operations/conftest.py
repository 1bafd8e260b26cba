from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.operations.context import Context
from backupctl.operations.setup import create_repository
from tests.end_to_end.site import Site

NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.create(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def context(site: Site, clock: FakeClock) -> Iterator[Context]:
    """The site's configuration at NOW, repository made, nothing in it."""
    with Context.open(load(site.root / "backupctl.yaml"), clock=clock) as opened:
        create_repository(opened, "main")
        yield opened

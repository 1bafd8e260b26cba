from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Configured, repository created, staging registered; nothing backed up yet."""
    return Site.create(tmp_path).prepare()

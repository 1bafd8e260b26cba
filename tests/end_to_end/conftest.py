from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Configured, repository created, staging registered; nothing backed up yet."""
    return Site.create(tmp_path).prepare()


@pytest.fixture
def open_site() -> Iterator[Site]:
    """The same in a place that a server with another user may pass through, unlike pytest's own; nothing prepared."""
    root = Path(tempfile.mkdtemp(prefix="bctl-site-", dir="/tmp"))
    root.chmod(0o711)
    yield Site.create(root)
    shutil.rmtree(root)

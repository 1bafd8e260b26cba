"""A secret of one test is not blanked in the messages of the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backupctl.hosts import process


@pytest.fixture(autouse=True)
def own_secrets() -> Iterator[None]:
    before = set(process._secrets)
    yield
    process._secrets.intersection_update(before)

"""Every test of this directory runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.clock import FakeClock

START = datetime(2026, 11, 21, 18, 15, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    server = request.getfixturevalue("postgres_server")
    name = f"catalog_{uuid.uuid4().hex}"
    server.sql(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://postgres@/{name}?host={server.directory}&port={server.port}"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def catalog(url: str, clock: FakeClock) -> Iterator[Catalog]:
    catalog = Catalog.open(url, clock=clock)
    yield catalog
    catalog.close()

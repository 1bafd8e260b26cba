"""The day after: 0.1 % of the rows updated wherever they are, 2 % appended. How much of it is new to the repository."""

from __future__ import annotations

import pytest

from tests.benchmarks.growth import grow, grow_mariadb

ROWS = 20_000


def test_sqlite_stores_less_than_a_tenth() -> None:
    assert grow("sqlite", ROWS, None).share < 0.10


@pytest.mark.servers
def test_ordered_tables_store_less_than_15_percent(postgres_server) -> None:
    assert grow("ordered", ROWS, postgres_server).share < 0.15


@pytest.mark.servers
def test_dumps_of_mariadb_store_less_than_15_percent(mariadb_server) -> None:
    assert grow_mariadb("mariadb", ROWS, mariadb_server).share < 0.15

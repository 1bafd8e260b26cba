"""A spoilt cache: never an exception, never another answer than without it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupctl.clock import FakeClock
from backupctl.repository.cache import CachePlace
from backupctl.repository.repository import Repository
from backupctl.storage.memory import MemoryStore
from tests.fuzz.mutations import spoil_bytes
from tests.repository import engine
from tests.soak import rounds

FILES = {"a": engine.content("a", 3000), "b": engine.content("b", 9000)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStore, CachePlace, dict[Path, bytes]]:
    """A repository, and its cache as a good one: an index of two files, and packs of trees."""
    place = CachePlace(tmp_path_factory.mktemp("cache"))
    repository = engine.create()
    for day in range(2):
        engine.backup(repository, FILES | {f"day {day}": engine.content(day, 500)}, day=day)
    assert isinstance(repository.store, MemoryStore)
    for _ in range(3):  # a pack is kept when it is asked for the second time
        restored(repository.store, place)
    files = {path: path.read_bytes() for path in place.directory.rglob("*") if path.is_file() and len(path.name) == 64}
    assert {path.parent.name for path in files} == {"index", "trees"}
    return repository.store, place, files


def restored(store: MemoryStore, place: CachePlace | None) -> list[dict[str, bytes]]:
    repository = Repository.open(store, engine.PASSWORD, clock=FakeClock(engine.NOW), cache=place)
    return [engine.restore(repository, snapshot) for snapshot in repository.snapshots()]


@settings(max_examples=rounds(150, 5000), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(seed=st.integers(0, 2**64 - 1))
def test_a_spoilt_cache_changes_nothing(stored: tuple[MemoryStore, CachePlace, dict[Path, bytes]], seed: int) -> None:
    store, place, files = stored
    random = Random(seed)
    for path, good in files.items():
        path.write_bytes(good)
    for path in random.sample(sorted(files), random.choice((1, 1, 2, len(files)))):
        path.write_bytes(spoil_bytes(random, files[path], files[random.choice(sorted(files))]))
    assert restored(store, place) == restored(store, None)

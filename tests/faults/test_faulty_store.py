"""The tool that other tests trust to break things must break exactly what it says."""

from __future__ import annotations

import pytest

from backupctl.errors import Corrupt, Full, NotFound, Transient
from backupctl.storage.memory import MemoryStore
from tests.faults.faulty_store import FaultyStore

LOST = Transient("lost")


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


def test_the_nth_call_of_a_kind_fails_once_before_it_is_done(store: FaultyStore) -> None:
    store.fail("put", 2, LOST)
    store.put("a", b"1")
    store.stat("a")
    with pytest.raises(Transient):
        store.put("b", b"2")
    store.put("c", b"3")
    assert [info.name for info in store.list()] == ["a", "c"]
    assert store.calls == [("put", "a"), ("stat", "a"), ("put", "b"), ("put", "c"), ("list", "")]
    assert (store.count("put"), store.count()) == (3, 5)


def test_a_call_can_be_done_and_its_answer_lost(store: FaultyStore) -> None:
    store.fail("put", 1, LOST, after=True)
    with pytest.raises(Transient):
        store.put("a", b"1")
    assert store.get("a") == b"1"


def test_any_call_from_the_nth_on(store: FaultyStore) -> None:
    store.fail("any", 2, LOST, times=None)
    store.put("a", b"1")
    for call in (lambda: store.get("a"), lambda: list(store.list()), lambda: store.delete("a")):
        with pytest.raises(Transient):
            call()
    store.heal()
    assert store.get("a") == b"1"


def test_callbacks_run_before_or_after(store: FaultyStore) -> None:
    seen = []
    store.at("put", 1, lambda: seen.append(len(list(store.inner.list()))))
    store.at("put", 1, lambda: seen.append(len(list(store.inner.list()))), after=True)
    store.put("a", b"1")
    assert seen == [0, 1]


def test_damage_as_a_reader_sees_it(store: FaultyStore) -> None:
    for name in ("flipped", "cut", "dropped", "whole"):
        store.put(name, b"\0\0\0\0")
    store.flip_bit("flipped", 9)
    store.truncate("cut", 3)
    store.drop("dropped")
    assert store.get("flipped") == b"\0\2\0\0"
    assert store.get("flipped", offset=1, length=1) == b"\2"
    assert store.get("cut") == b"\0\0\0"
    assert store.stat("cut").size == 3
    with pytest.raises(Corrupt):
        store.get("cut", offset=0, length=4)
    for ask in (store.get, store.stat):
        with pytest.raises(NotFound):
            ask("dropped")
    assert [(info.name, info.size) for info in store.list()] == [("cut", 3), ("flipped", 4), ("whole", 4)]


def test_a_disk_fills_up(store: FaultyStore) -> None:
    store.disk_full_after(5)
    store.put("a", b"123")
    with pytest.raises(Full):
        store.put("b", b"123")
    store.put("c", b"12")
    assert [info.name for info in store.list()] == ["a", "c"]

"""What every ObjectStore promises, once for all of them: in memory, on disk, on a real S3 server; also with retries."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupctl.clock import FakeClock, SystemClock
from backupctl.errors import Corrupt, Exists, NotFound, StorageError
from backupctl.storage.drafts import draft_in
from backupctl.storage.limits import LimitOptions
from backupctl.storage.local import LocalStore
from backupctl.storage.memory import MemoryStore
from backupctl.storage.overlay import OverlayStore
from backupctl.storage.protocol import ObjectStore
from backupctl.storage.retry import RetryingStore
from backupctl.storage.throttle import Throttle, ThrottledStore
from tests.faults.faulty_store import FaultyStore

KINDS = [
    "memory",
    "faulty",  # without a fault it must not be noticed
    "overlay",
    "local",
    pytest.param("s3", marks=pytest.mark.servers),
    pytest.param("s3-versions", marks=pytest.mark.servers),
    "memory with retries",
    "local with retries",
    pytest.param("s3 with retries", marks=pytest.mark.servers),
    "memory throttled",
    "local throttled",
    pytest.param("s3-throttled", marks=pytest.mark.servers),
]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    kind, _, wrapped = request.param.partition(" ")
    make: dict[str, Callable[[], ObjectStore]] = {
        "memory": MemoryStore,
        "faulty": lambda: FaultyStore(MemoryStore()),
        "overlay": lambda: OverlayStore(MemoryStore(), clock=SystemClock()),
        "local": lambda: LocalStore(tmp_path / "store", create=True),
        "s3": lambda: request.getfixturevalue("s3_store"),
        "s3-versions": lambda: request.getfixturevalue("s3_versions_store"),
        "s3-throttled": lambda: throttled(request.getfixturevalue("s3_throttled_store"), paces_bytes=True),
    }
    plain = make[kind]()
    if wrapped == "with retries":
        yield RetryingStore(plain, SystemClock(), seed=1)
    else:
        yield throttled(plain) if wrapped else plain
    plain.close()


def throttled(store: ObjectStore, *, paces_bytes: bool = False) -> ObjectStore:
    clock = FakeClock(datetime(2026, 11, 22, tzinfo=UTC))
    options = LimitOptions(upload="1MiB/s", download="1MiB/s", requests="10/s")  # type: ignore[arg-type]  # as written
    return ThrottledStore(store, Throttle(options, clock, timezone="UTC"), paces_bytes=paces_bytes)


def test_what_is_put_comes_back(store: ObjectStore) -> None:
    for size in (0, 1, 1000, 3_000_000):
        data = random.Random(size).randbytes(size)
        store.put(f"data/ab/{size}", data)
        assert store.get(f"data/ab/{size}") == data


def test_put_replaces_the_whole_object(store: ObjectStore) -> None:
    store.put("config", b"long old content")
    store.put("config", b"new")
    assert store.get("config") == b"new"
    assert store.stat("config").size == 3


def test_a_draft_is_nothing_until_it_is_finished(store: ObjectStore) -> None:
    """Where there are drafts: a store that has to see a whole object at once has none."""
    draft, dropped = draft_in(store), draft_in(store)
    if draft is None or dropped is None:
        assert draft is dropped is None and not isinstance(store, LocalStore)
        pytest.skip("this store has no drafts")
    store.put("data/ab/pack", b"old and long, and not what its name says")
    data = random.Random(1).randbytes(2_500_000)
    draft.write(data[:1_000_000])
    draft.write(bytearray(data[1_000_000:]))
    dropped.write(b"nobody wants this")
    del dropped
    assert draft.read() == data
    assert [info.name for info in store.list()] == ["data/ab/pack"]
    with pytest.raises(StorageError, match="no valid object name"):
        draft.finish("../pack")
    draft.finish("data/ab/pack")
    assert store.get("data/ab/pack") == data
    other = draft_in(store)
    assert other is not None
    other.write(b"below a directory that is not there yet")
    other.finish("data/cd/pack")
    assert [info.name for info in store.list()] == ["data/ab/pack", "data/cd/pack"]


def test_if_absent_keeps_the_first(store: ObjectStore) -> None:
    store.put("config", b"first", if_absent=True)
    with pytest.raises(Exists) as caught:
        store.put("config", b"second", if_absent=True)
    assert caught.value.name == "config"
    assert store.get("config") == b"first"
    store.delete("config")
    store.put("config", b"third", if_absent=True)
    assert store.get("config") == b"third"


def test_if_absent_has_one_winner(store: ObjectStore) -> None:
    for turn in range(5):
        start, outcomes = threading.Barrier(8), dict[int, bool]()

        def write(number: int, start=start, outcomes=outcomes, turn=turn) -> None:
            start.wait()
            try:
                store.put(f"race/{turn}", b"writer %d" % number, if_absent=True)
                outcomes[number] = True
            except Exists:
                outcomes[number] = False

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [number for number, won in outcomes.items() if won]
        assert len(outcomes) == 8
        assert store.get(f"race/{turn}") == b"writer %d" % winner


def test_ranges_are_exact(store: ObjectStore) -> None:
    data = bytes(range(200))
    store.put("pack", data)
    for offset, length in ((0, 200), (0, 1), (199, 1), (17, 33), (0, 0), (200, 0), (5, 0)):
        assert store.get("pack", offset=offset, length=length) == data[offset : offset + length]
    for offset in (0, 1, 199, 200):
        assert store.get("pack", offset=offset) == data[offset:]


@pytest.mark.parametrize(("offset", "length"), [(0, 201), (199, 2), (200, 1), (500, 1), (201, 0), (201, None)])
def test_a_range_that_is_not_all_there_is_corrupt(store: ObjectStore, offset: int, length: int | None) -> None:
    store.put("pack", bytes(200))
    with pytest.raises(Corrupt) as caught:
        store.get("pack", offset=offset, length=length)
    assert caught.value.name == "pack"


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    store.put("data/ab/there", b"x")
    for ask in (
        lambda: store.get("data/ab/not-there"),
        lambda: store.get("data/ab/not-there", offset=1, length=0),
        lambda: store.get("data/ab/not-there", offset=3, length=5),
        lambda: store.stat("data/ab/not-there"),
        lambda: store.stat("data/ab"),
        lambda: store.get("data/ab/there/below"),
    ):
        with pytest.raises(NotFound, match="data/ab"):
            ask()


def test_asking_for_locks_and_settings_writes_nothing(store: ObjectStore) -> None:
    store.put("config", b"x")
    assert store.locked_until("config") is None
    with pytest.raises(NotFound):
        store.locked_until("nothing")
    assert all(one.what and one.outcome for one in store.inspect().postures)
    assert [info.name for info in store.list()] == ["config"]


def test_delete_is_idempotent(store: ObjectStore) -> None:
    store.put("locks/one", b"x")
    store.delete("locks/one")
    store.delete("locks/one")
    store.delete("never/was")
    assert list(store.list()) == []
    with pytest.raises(NotFound):
        store.get("locks/one")


def test_stat_and_list_agree_and_times_are_utc(store: ObjectStore) -> None:
    store.put("snapshots/s", b"12345")
    info = store.stat("snapshots/s")
    (listed,) = store.list("snapshots/")
    assert (info.name, info.size) == (listed.name, listed.size) == ("snapshots/s", 5)
    assert info.modified.tzinfo == UTC
    assert abs(datetime.now(UTC) - info.modified) < timedelta(minutes=1)
    assert abs(info.modified - listed.modified) <= timedelta(seconds=1)  # HEAD knows whole seconds only


def test_list_is_recursive_in_name_order_and_by_prefix(store: ObjectStore) -> None:
    names = [
        "a-b",
        "a.b/x",
        "a/b",
        "a/b-c",
        "a/c/d",
        "a0",
        "b",
        "data/00/1",
        "data/01/2",
        "data/ff/3",
        "datum",
        "中文/é",
    ]
    for name in reversed(names):
        store.put(name, b"x")
    assert [info.name for info in store.list()] == sorted(names)
    for prefix in ("a", "a/", "a/b", "data", "data/", "data/0", "nothing", "nothing/at/all", "b", "中文/"):
        expected = sorted(name for name in names if name.startswith(prefix))
        assert [info.name for info in store.list(prefix)] == expected, prefix


def test_list_goes_beyond_one_page(store: ObjectStore) -> None:
    names = [f"index/{number:04}" for number in range(1030)]  # S3 gives 1000 at a time
    chunks = [names[start::8] for start in range(8)]
    threads = [
        threading.Thread(target=lambda chunk=chunk: [store.put(name, b"") for name in chunk]) for chunk in chunks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [info.name for info in store.list("index/")] == names


@pytest.mark.parametrize("name", ["", "/a", "a//b", "../a", "a/../b", "./a", "a/", "a/.", "a\0b", "a\nb", "x/.tmp-1"])
def test_unsafe_names_are_refused(store: ObjectStore, name: str) -> None:
    for call in (
        lambda: store.put(name, b""),
        lambda: store.get(name),
        lambda: store.get(name, length=0),
        lambda: store.stat(name),
        lambda: store.delete(name),
    ):
        with pytest.raises(StorageError, match="no valid object name"):
            call()


def test_probe_finds_everything_good_and_leaves_nothing(store: ObjectStore) -> None:
    facts = store.probe().facts
    assert len(facts) >= 6
    assert [fact for fact in facts if not fact[2]] == []
    assert list(store.list()) == []


def test_location_is_for_people(store: ObjectStore) -> None:
    assert store.location
    with pytest.raises(NotFound, match="^" + re.escape(store.location)):
        store.get("missing")

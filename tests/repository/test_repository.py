"""The repository object: create, open, blobs, snapshots, records, and interop with stock restic."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupctl.clock import FakeClock, SystemClock
from backupctl.errors import DamageError, Exists, NoSuchError, UsageError, WrongKeyError
from backupctl.repository.adoption import compare_packs
from backupctl.repository.check import check
from backupctl.repository.format.node import Node
from backupctl.repository.format.pack import PackedBlob
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import decode_tree, encode_tree
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.prune import apply_prune, plan_prune
from backupctl.repository.repository import Repository, pack_name
from backupctl.storage.local import LocalStore
from backupctl.storage.memory import MemoryStore
from tests.repository.engine import NOW, PASSWORD, backup, content, create, damage, objects, reopen, restore


def test_what_is_saved_comes_back() -> None:
    repository = create()
    files = {"a": b"x" * 10_000, "b": content("b", 9000), "c": b"", "d": b"x" * 10_000}
    snapshot = backup(repository, files)
    again = reopen(repository)
    assert [found.id for found in again.snapshots()] == [snapshot.id]
    assert restore(again, again.load_snapshot(snapshot.id[:6])) == files
    assert again.id == repository.id
    assert again.derive(b"chunker", 8) == repository.derive(b"chunker", 8)


def test_create_refuses_what_is_there() -> None:
    repository = create()
    with pytest.raises(Exists, match="config"):
        create(repository.store)
    repository.store.delete("config")
    with pytest.raises(Exists, match="keys/"):
        create(repository.store)


@pytest.mark.parametrize("password", ["", " x", "x\n"])
def test_passwords_that_restic_would_trim_are_refused(password: str) -> None:
    with pytest.raises(UsageError):
        Repository.create(MemoryStore(), password, clock=FakeClock(NOW), scrypt_n=2)


def test_open_failures() -> None:
    with pytest.raises(NoSuchError):
        Repository.open(MemoryStore(), "x", clock=FakeClock(NOW))
    repository = create()
    with pytest.raises(WrongKeyError):
        Repository.open(repository.store, "wrong", clock=FakeClock(NOW))
    damage(repository, "config")
    with pytest.raises(DamageError) as caught:
        reopen(repository)
    assert caught.value.name == "config"


def test_a_damaged_key_is_named_and_does_not_hide_a_good_one() -> None:
    repository = create()
    (key,) = objects(repository, "keys/")
    repository.store.put("keys/" + "0" * 64, b"{")
    assert reopen(repository).id == repository.id
    damage(repository, key.name)
    with pytest.raises(DamageError, match="keys/"):
        reopen(repository)


def test_snapshots_by_prefix() -> None:
    repository = create()
    first, second = backup(repository, {"a": b"1"}), backup(repository, {"a": b"2"}, day=-1)
    assert [snapshot.id for snapshot in repository.snapshots()] == [second.id, first.id]
    for bad in ("", "zz"):
        with pytest.raises(NoSuchError):
            repository.load_snapshot(bad)
    repository.delete_snapshot(second.id)
    repository.delete_snapshot(second.id)
    assert [snapshot.id for snapshot in repository.snapshots()] == [first.id]


def test_a_damaged_snapshot_is_named() -> None:
    repository = create()
    snapshot = backup(repository, {"a": b"1"})
    damage(repository, f"snapshots/{snapshot.id}")
    with pytest.raises(DamageError) as caught:
        reopen(repository).snapshots()
    assert caught.value.name == f"snapshots/{snapshot.id}"


def spoil(repository: Repository, kind: str, how: str) -> None:
    for info in objects(repository, kind):
        if how == "delete":
            repository.store.delete(info.name)
        else:
            damage(repository, info.name, bit=200, cut=info.size - 10 if how == "cut" else 0)


@pytest.mark.parametrize("how", ["flip", "cut", "delete"])
def test_damage_is_a_named_error(how: str) -> None:
    repository = create()
    snapshot = backup(repository, {"a": content("a", 5000)})
    spoil(repository, "data/", how)
    with pytest.raises(DamageError, match="data/"):
        restore(reopen(repository), snapshot)


@pytest.mark.parametrize("how", ["flip", "cut", "delete"])
def test_a_lost_index_makes_nothing_unreadable_and_is_not_relied_on(how: str) -> None:
    repository = create()
    snapshot = backup(repository, {"a": content("a", 5000)})
    places = list(repository.index)
    spoil(repository, "index/", how)
    again = reopen(repository)
    assert restore(again, snapshot) == {"a": content("a", 5000)}
    assert not any(again.has_blob(place.blob.kind, place.blob.id) for place in places)


def test_lost_packs_are_found_without_reading_and_what_is_distrusted_is_stored_again() -> None:
    repository = create()
    snapshot = backup(repository, {"a": content("a", 5000)})
    assert compare_packs(reopen(repository)).lost == {}
    data, tree = (next(place for place in repository.index if place.blob.kind == kind) for kind in ("data", "tree"))
    repository.store.delete(pack_name(data.pack))
    damage(repository, pack_name(tree.pack), cut=100)
    again = reopen(repository)
    lost = compare_packs(again).lost
    assert set(lost) == {data.pack, tree.pack}
    assert lost[data.pack] == "is missing"
    assert lost[tree.pack].startswith("has ")
    again.distrust(lost)
    assert not again.has_blob("data", data.blob.id)
    backup(again, {"a": content("a", 5000)})
    assert again.has_blob("data", data.blob.id)
    assert restore(reopen(repository), snapshot) == {"a": content("a", 5000)}


def test_a_copy_found_bad_while_reading_no_longer_counts_as_stored() -> None:
    repository = create()
    snapshot = backup(repository, {"a": content("a", 5000)})
    (place,) = repository.locate("tree", snapshot.tree)
    damage(repository, pack_name(place.pack), bit=8 * place.blob.offset + 99)
    again = reopen(repository)
    assert again.has_blob("tree", snapshot.tree)
    with pytest.raises(DamageError):
        again.load_blob("tree", snapshot.tree)
    assert not again.has_blob("tree", snapshot.tree)


def test_another_copy_serves_when_one_is_bad() -> None:
    repository = create()
    snapshot = backup(repository, {"a": content("a", 5000)})
    old = [info.name for info in objects(repository, "data/")]
    repository.store.put("index/x", b"")  # foreign names are ignored
    for info in objects(repository, "index/"):
        if info.size:
            repository.store.delete(info.name)
    blind = reopen(repository)
    backup(blind, {"a": content("a", 5000)})  # the same blobs in other packs
    both = reopen(repository)
    both.save_index([(place.pack, [place.blob]) for place in repository.index])
    for name in old:
        damage(repository, name, bit=200)
    assert restore(both, snapshot) == {"a": content("a", 5000)}


def test_index_written_by_another_process_is_found() -> None:
    repository = create()
    other = reopen(repository)
    assert not other.has_blob("data", bytes(32))
    snapshot = backup(repository, {"a": b"later"})
    assert restore(other, snapshot) == {"a": b"later"}


def test_records() -> None:
    repository = create()
    one = repository.save_record("fingerprint", b'{"schema":1}')
    assert repository.records("fingerprint") == [one]
    assert repository.records("manifest") == []
    assert repository.load_record("fingerprint", one) == b'{"schema":1}'
    assert b"schema" not in repository.store.get(f"backupctl/fingerprint/{one}"), "sealed"
    with pytest.raises(NoSuchError):
        repository.load_record("manifest", one)
    with pytest.raises(UsageError):
        repository.load_record("../keys", one)
    damage(repository, f"backupctl/fingerprint/{one}")
    with pytest.raises(DamageError):
        repository.load_record("fingerprint", one)
    repository.delete_record("fingerprint", one)
    assert repository.records("fingerprint") == []


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60))
def test_memory_index_against_a_dict(rows: list[tuple[int, bool]]) -> None:
    index, model = MemoryIndex(), {}
    for number, (key, is_tree) in enumerate(rows):
        pack = hashlib.sha256(b"%d" % number).digest()
        blob = PackedBlob("tree" if is_tree else "data", bytes([key]) * 32, number, 40 + number, number)
        index.add_pack(pack, [blob])
        index.add_pack(pack, [blob])
        model.setdefault((blob.kind, blob.id), []).append((pack, blob))
    assert len(index) == len(rows)
    for (kind, blob_id), copies in model.items():
        assert sorted((place.pack, place.blob.offset) for place in index.lookup(kind, blob_id)) == sorted(
            (pack, blob.offset) for pack, blob in copies
        )
        assert (kind, blob_id) in index
    assert ("data", b"\xff" * 32) not in index
    assert [place.blob.offset for place in index] == list(range(len(rows)))


def test_memory_index_is_compact() -> None:
    import tracemalloc

    ids = [hashlib.sha256(b"%d" % number).digest() for number in range(20_000)]
    tracemalloc.start()
    index = MemoryIndex()
    for start in range(0, len(ids), 500):
        index.add_pack(ids[start], (PackedBlob("data", blob_id, 1, 40, 2) for blob_id in ids[start : start + 500]))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / len(ids) < 64
    assert all(("data", blob_id) in index for blob_id in ids)


# stock restic

needs_restic = pytest.mark.skipif(shutil.which("restic") is None, reason="needs restic")
NASTY = [
    b'q"u\\x',
    b"new\nline",
    b"\xff\xfe",
    "é\u00a0\u2028😀<&>".encode(),
    b"\\u0041",
    "\U0001fae8".encode(),
    b"\x7f\x01",
]


def restic(path: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(path.parent),
        "RESTIC_PASSWORD": PASSWORD,
        "RESTIC_REPOSITORY": str(path),
        "RESTIC_CACHE_DIR": str(path.parent / "cache"),
    }
    run = subprocess.run(["restic", *arguments], env=environment, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode(errors="replace")
    return run.stdout.decode(errors="replace")


def local(path: Path) -> LocalStore:
    path.mkdir(exist_ok=True)
    return LocalStore(path)


@pytest.mark.servers
@needs_restic
def test_stock_restic_checks_restores_and_extends_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "repository"
    repository = Repository.create(local(path), PASSWORD, clock=SystemClock(), scrypt_n=1024)
    saver = repository.blob_saver()
    nodes, files = [], {}
    for number, name in enumerate(NASTY):
        data = content(name, 300_000) if number % 2 else b"text " * (number * 1000)
        blobs = [saver.save("data", data[start : start + 100_000]) for start in range(0, len(data), 100_000)]
        files[name] = data
        nodes.append(
            Node(name, "file", 0o4640, 1_700_000_000_123_456_789 + number, content=blobs, size=len(data), links=1)
        )
    nodes.append(Node(b"empty dir", "dir", 0o1777, subtree=saver.save("tree", encode_tree([]))))
    nodes.append(Node(b"link", "symlink", 0o777, linktarget="to é<".encode(), links=1))
    nodes.append(Node(b"fifo", "fifo", 0o600))
    root = saver.save(
        "tree", encode_tree([Node(b"nasty", "dir", 0o755, subtree=saver.save("tree", encode_tree(nodes)))])
    )
    saver.flush()
    with repository.lock():
        repository.save_snapshot(Snapshot(NOW, root, ["/nasty"], "host", tags=["complete"]))
        repository.save_record("fingerprint", b"{}")

    assert "no errors were found" in restic(path, "check", "--read-data")
    restic(path, "restore", "latest", "--target", str(tmp_path / "out"))
    out = os.fsencode(tmp_path / "out" / "nasty")
    assert {name: Path(os.fsdecode(os.path.join(out, name))).read_bytes() for name in files} == files
    assert os.readlink(os.path.join(out, b"link")) == "to é<".encode()
    assert os.stat(os.path.join(out, NASTY[0])).st_mtime_ns == 1_700_000_000_123_456_789

    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "file").write_bytes(content("more", 700_000))
    restic(path, "backup", "--host", "other", str(tmp_path / "more"))
    restic(path, "forget", "--host", "other", "--keep-last", "1", "--prune")
    restic(path, "forget", "--prune", json.loads(restic(path, "snapshots", "--host", "host", "--json"))[0]["id"])
    again = Repository.open(local(path), PASSWORD, clock=SystemClock())
    (snapshot,) = again.snapshots()
    report = check(again, read_data=True)
    assert not report.problems
    nodes = decode_tree(again.load_blob("tree", snapshot.tree))
    while nodes[0].type == "dir":
        assert nodes[0].subtree is not None
        nodes = decode_tree(again.load_blob("tree", nodes[0].subtree))
    data = b"".join(again.load_blob("data", blob) for blob in nodes[0].content or ())
    assert data == content("more", 700_000)


@pytest.mark.servers
@needs_restic
def test_our_trees_are_restics_trees(tmp_path: Path) -> None:
    """Every tree that restic wrote over nasty names, encoded again by us, has the same bytes (times were in UTC)."""
    source = tmp_path / "source"
    source.mkdir()
    for name in (*NASTY, b"plain", b"a b"):
        Path(os.fsdecode(os.path.join(os.fsencode(source), name))).write_bytes(name)
    (source / "link").symlink_to("target")
    (source / "dir").mkdir(mode=0o1777)
    os.mkfifo(source / "fifo")
    os.environ.setdefault("TZ", "UTC")
    path = tmp_path / "repository"
    path.mkdir()
    restic(path, "init", "--repository-version", "2")
    restic(path, "backup", str(source))
    repository = Repository.open(local(path), PASSWORD, clock=SystemClock())
    trees = [place.blob.id for place in repository.index if place.blob.kind == "tree"]
    assert len(trees) >= 3
    for tree in trees:
        data = repository.load_blob("tree", tree)
        ours = encode_tree(decode_tree(data))
        if b"+0" not in data:
            # Unicode 13 of an old Go escapes U+1FAE8, ours is literal
            assert ours == data.replace(b"\\\\U0001fae8", "\U0001fae8".encode())


@pytest.mark.servers
@needs_restic
def test_restic_accepts_a_repository_that_we_pruned(tmp_path: Path) -> None:
    path = tmp_path / "repository"
    repository = Repository.create(local(path), PASSWORD, clock=SystemClock(), scrypt_n=1024)
    snapshots = [
        backup(repository, {"same": content("same", 50_000), str(n): content(n, 90_000)}, day=n) for n in range(4)
    ]
    for snapshot in snapshots[:2]:
        repository.delete_snapshot(snapshot.id)
    stats = apply_prune(repository, plan_prune(repository))
    assert stats.freed_bytes > 150_000
    assert "no errors were found" in restic(path, "check", "--read-data")
    assert restore(reopen(repository), snapshots[3])["3"] == content(3, 90_000)
    assert timedelta(0) <= snapshots[3].time - NOW


class SecondInit(MemoryStore):
    """Another `init` with the same password wins just before our config would be written."""

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        if name == "config" and not any(self.list("config")):
            other = MemoryStore()
            create(other)
            for info in other.list():
                super().put(info.name, other.get(info.name))
        super().put(name, data, if_absent=if_absent)


def test_of_two_inits_at_once_one_wins_and_its_repository_opens() -> None:
    for _ in range(4):  # the ids of the keys decide which is tried first
        store = SecondInit()
        with pytest.raises(Exists):
            create(store)
        assert Repository.open(store, PASSWORD, clock=FakeClock(NOW)).snapshots() == []

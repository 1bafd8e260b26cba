"""Ways to damage a repository: each does one thing to the golden repository `base`.

What a check has to find is written here by hand, not taken from what a check said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from backupctl.clock import FakeClock
from backupctl.repository.format.crypto import seal
from backupctl.repository.format.lock import LockInfo, encode_lock
from backupctl.repository.format.node import Node
from backupctl.repository.format.pack import BlobKind, PackedBlob, encode_header, encode_trailer
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import decode_tree, encode_tree
from backupctl.repository.keys import add_key
from backupctl.repository.memory_index import Location
from backupctl.repository.records import fingerprints_of
from backupctl.repository.repository import Repository, pack_name
from backupctl.storage.memory import MemoryStore
from tests.golden.golden import PASSWORD, Golden, Objects
from tests.repository import engine

FIRST = {"a": engine.content("a", 3000), "b": engine.content("b", 2000)}
SECOND = FIRST | {"c": engine.content("c", 3000)}
Files = dict[str, dict[str, Any]]


@dataclass
class Found:
    """A problem that a check has to report: the object, and what is lost by it."""

    name: str
    snapshots: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@dataclass
class Expected:
    """`structure`: what a check finds, `read_data`: what it finds when it reads everything (None: the same). `hints`: words
    of harmless ones. `shut`: the object without which nothing can be opened. `added`: snapshots beside those of the base.
    `whole`: those that restore whole although a problem names them."""

    structure: list[Found] = field(default_factory=list)
    read_data: list[Found] | None = None
    hints: list[str] = field(default_factory=list)
    shut: str = ""
    added: list[dict[str, Any]] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)


def files_of(content: dict[str, bytes]) -> Files:
    found: Files = {"d": {"type": "dir"}, "d/empty": {"type": "dir"}}
    for name, data in content.items():
        found[f"d/{name}"] = {"type": "file", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return dict(sorted(found.items()))


def facts_of(snapshot: Snapshot, files: Files) -> dict[str, Any]:
    return {"id": snapshot.id, "time": snapshot.time.isoformat(), "root": "", "files": files}


def objects_of(repository: Repository) -> Objects:
    return {info.name: repository.store.get(info.name) for info in repository.store.list("")}


def base() -> tuple[Objects, dict[str, Any]]:
    """Two snapshots; what the second one added is what will be damaged."""
    repository = Repository.create(MemoryStore(), PASSWORD, clock=FakeClock(engine.NOW), scrypt_n=2)
    states = [(engine.backup(repository, content, day=day), content) for day, content in enumerate((FIRST, SECOND))]
    return objects_of(repository), {
        "about": "what the damaged ones were before",
        "made_by": "backupctl",
        "version": 2,
        "passwords": [PASSWORD],
        "records": {"fingerprint": 2, "manifest": 2},
        "snapshots": [facts_of(snapshot, files_of(content)) for snapshot, content in states],
    }


class Case:
    """A copy of the base, open, to be damaged."""

    def __init__(self) -> None:
        golden = Golden("base")
        self.store = golden.store()
        self.repository = Repository.open(self.store, PASSWORD, clock=FakeClock(engine.NOW))
        self.kept: list[dict[str, Any]] = golden.expected["snapshots"]
        self.second: str = self.kept[1]["id"]
        self.snapshot = self.repository.load_snapshot(self.second)
        self.root = f"tree/{self.snapshot.tree.hex()}"
        (directory,) = decode_tree(self.repository.load_blob("tree", self.snapshot.tree))
        (self.root_place,) = self.repository.locate("tree", self.snapshot.tree)
        (self.directory,) = self.repository.locate("tree", directory.subtree or b"")
        (self.c,) = self.repository.locate("data", hashlib.sha256(SECOND["c"]).digest())
        (self.index,) = (
            f"index/{file_id}"
            for file_id in self.repository.list_ids("index/")
            if self.c.pack.hex().encode() in self.repository.load_file(f"index/{file_id}")
        )

    def put(self, name: str, data: bytes) -> str:
        self.store.delete(name)
        self.store.put(name, data)
        return name

    def flip(self, name: str, at: int | None = None) -> str:
        data = bytearray(self.store.get(name))
        data[len(data) // 2 if at is None else at] ^= 8
        return self.put(name, bytes(data))

    def save(self, kind: BlobKind, data: bytes) -> bytes:
        saver = self.repository.blob_saver()
        blob = saver.save(kind, data)
        saver.flush()
        return blob

    def one_more(self, tree: bytes, files: Files) -> tuple[str, list[dict[str, Any]]]:
        """A snapshot with this root: its id, and what of it can be restored."""
        snapshot = Snapshot(engine.NOW + timedelta(days=2), tree, ["/x"], "host", tags=["complete"])
        return self.repository.save_snapshot(snapshot), [facts_of(snapshot, files)]


def middle(place: Location) -> int:
    return place.blob.offset + place.blob.length // 2


# what happens to stored objects


def bit_in_data_pack(case: Case) -> Expected:
    name = case.flip(pack_name(case.c.pack), middle(case.c))
    return Expected(read_data=[Found(name, [case.second], ["/d/c"])])


def bit_in_tree_pack(case: Case) -> Expected:
    name = case.flip(pack_name(case.directory.pack), middle(case.directory))
    return Expected([Found(name, [case.second], ["/d"])])


def bit_in_pack_header(case: Case) -> Expected:
    """Of a data pack. Nothing is lost: the index says the same."""
    name = pack_name(case.c.pack)
    case.flip(name, len(case.store.get(name)) - 20)
    return Expected(read_data=[Found(name)])


def bit_in_index(case: Case) -> Expected:
    return Expected([Found(case.flip(case.index)), Found(case.root, [case.second], ["/"])], whole=[case.second])


def bit_in_snapshot(case: Case) -> Expected:
    return Expected([Found(case.flip(f"snapshots/{case.second}"), [case.second])])


def bit_in_key(case: Case) -> Expected:
    return Expected(shut=case.flip(f"keys/{case.repository.list_ids('keys/')[0]}"))


def bit_in_second_key(case: Case) -> Expected:
    """The other one opens."""
    return Expected([Found(case.flip(f"keys/{add_key(case.repository, 'another', scrypt_n=2).id}"))])


def bit_in_config(case: Case) -> Expected:
    return Expected(shut=case.flip("config"))


def config_missing(case: Case) -> Expected:
    case.store.delete("config")
    return Expected(shut="config")


def data_pack_missing(case: Case) -> Expected:
    name = pack_name(case.c.pack)
    case.store.delete(name)
    return Expected([Found(name, [case.second], ["/d/c"])])


def tree_pack_missing(case: Case) -> Expected:
    name = pack_name(case.root_place.pack)
    case.store.delete(name)
    return Expected([Found(name, [case.second], ["/"])])


def index_missing(case: Case) -> Expected:
    case.store.delete(case.index)
    return Expected([Found(case.root, [case.second], ["/"])], hints=["is in no index"], whole=[case.second])


def truncated_pack(case: Case) -> Expected:
    name = pack_name(case.c.pack)
    return Expected([Found(case.put(name, case.store.get(name)[:1500]), [case.second], ["/d/c"])])


def zero_byte_pack(case: Case) -> Expected:
    return Expected([Found(case.put(pack_name(case.c.pack), b""), [case.second], ["/d/c"])])


def zero_byte_index(case: Case) -> Expected:
    index = Found(case.put(case.index, b""))
    return Expected([index, Found(case.root, [case.second], ["/"])], whole=[case.second])


def zero_byte_snapshot(case: Case) -> Expected:
    return Expected([Found(case.put(f"snapshots/{case.second}", b""), [case.second])])


def bit_in_fingerprint(case: Case) -> Expected:
    name = f"backupctl/fingerprint/{fingerprints_of(case.snapshot)[0]}"
    return Expected([Found(case.flip(name), [case.second])], whole=[case.second])


# what a broken program, or somebody with the key, writes


def gap_in_index(case: Case) -> Expected:
    """A pack of two blobs, the second of which is listed a byte too late."""
    content = [b"first" * 20, b"second" * 20]
    sealed = [seal(case.repository.keys, data) for data in content]
    ids = [hashlib.sha256(data).digest() for data in content]
    right = [
        PackedBlob("data", ids[0], 0, len(sealed[0]), 0),
        PackedBlob("data", ids[1], len(sealed[0]), len(sealed[1]), 0),
    ]
    pack = b"".join(sealed) + encode_trailer(seal(case.repository.keys, encode_header(right)))
    case.put(pack_name(hashlib.sha256(pack).digest()), pack)
    wrong = PackedBlob("data", ids[1], len(sealed[0]) + 1, len(sealed[1]), 0)
    index = f"index/{case.repository.save_index([(hashlib.sha256(pack).digest(), [right[0], wrong])])}"
    nodes = [file(path, blob, len(data)) for path, blob, data in zip(("p", "q"), ids, content, strict=True)]
    snapshot, added = case.one_more(case.save("tree", encode_tree(nodes)), files={"p": fact(content[0])})
    return Expected([Found(index, [snapshot], ["/p", "/q"])], added=added)


def file(name: str, blob: bytes, size: int) -> Node:
    return Node(name.encode(), "file", 0o644, content=[blob], size=size)


def fact(data: bytes) -> dict[str, Any]:
    return {"type": "file", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def bad_root(case: Case, tree_bytes: bytes, path: str, **files: dict[str, Any]) -> Expected:
    """A snapshot with this root, which is the object that is wrong."""
    tree = case.save("tree", tree_bytes)
    snapshot, added = case.one_more(tree, files)
    return Expected([Found(f"tree/{tree.hex()}", [snapshot], [path])], added=added)


def size_lie(case: Case) -> Expected:
    nodes = [file("honest", case.c.blob.id, 3000), file("liar", case.c.blob.id, 3005)]
    return bad_root(case, encode_tree(nodes), "/liar", honest=fact(SECOND["c"]))


def names_out_of_order(case: Case) -> Expected:
    tree = encode_tree([file(name, case.c.blob.id, 3000) for name in ("a", "b")])
    files = {name: fact(SECOND["c"]) for name in ("b", "z")}
    found = bad_root(case, tree.replace(b'"name":"a"', b'"name":"z"'), "/b", **files)
    found.whole = found.structure[0].snapshots
    return found


def subtree_missing(case: Case) -> Expected:
    nowhere = hashlib.sha256(b"nowhere").digest()
    nodes = [file("c", case.c.blob.id, 3000), Node(b"gone", "dir", 0o755, subtree=nowhere)]
    found = bad_root(case, encode_tree(nodes), "/gone", c=fact(SECOND["c"]), gone={"type": "dir"})
    found.structure[0].name = f"tree/{nowhere.hex()}"
    return found


def root_is_data(case: Case) -> Expected:
    """A snapshot that names a blob of content as its tree."""
    snapshot, added = case.one_more(case.c.blob.id, {})
    return Expected([Found(f"tree/{case.c.blob.id.hex()}", [snapshot], ["/"])], added=added)


# what looks odd and is harmless


def duplicate_index(case: Case) -> Expected:
    case.repository.save_file("index/", case.repository.load_file(case.index))
    return Expected(hints=["is in more than one index"])


def pack_in_no_index(case: Case) -> Expected:
    sealed = seal(case.repository.keys, b"nobody wants me")
    blob = PackedBlob("data", hashlib.sha256(b"nobody wants me").digest(), 0, len(sealed), 0)
    pack = sealed + encode_trailer(seal(case.repository.keys, encode_header([blob])))
    return Expected(hints=[f"{case.put(pack_name(hashlib.sha256(pack).digest()), pack)} is in no index"])


def lock_left_behind(case: Case) -> Expected:
    """Exclusive, of another machine, of somebody who is dead for weeks."""
    lock = seal(case.repository.keys, encode_lock(LockInfo(engine.NOW, True, "elsewhere", "nobody", 77, 1, 1)))
    case.put(f"locks/{hashlib.sha256(lock).hexdigest()}", lock)
    return Expected()


def zero_byte_lock(case: Case) -> Expected:
    case.put(f"locks/{'ab' * 32}", b"")
    return Expected()


def stray_names(case: Case) -> Expected:
    for name in (
        "data/README",
        "data/00/notes",
        "index/README",
        "snapshots/copy of one",
        "keys/notes.txt",
        "lost+found/x",
    ):
        case.put(name, b"what is this?")
    return Expected(hints=["data/00/notes is in no index", "data/README is in no index"])


WHY = {
    "bit-in-fingerprint": "restic does not know our records",
    "gap-in-index": "restic compares an index with its packs only when it reads them",
    "size-lie": "restic does not add up the blobs of a file",
    "names-out-of-order": "restic does not compare names",
    "lock-left-behind": "restic removes a stale lock only when it is told to: restic unlock",
}
"""Where one of both says that all is well and the other does not."""
BY_CHANCE = {"bit-in-second-key": "restic gives up at the damaged key, unless it meets the good one first"}

CASES: dict[str, Callable[[Case], Expected]] = {
    act.__name__.replace("_", "-"): act
    for act in (
        bit_in_data_pack,
        bit_in_tree_pack,
        bit_in_pack_header,
        bit_in_index,
        bit_in_snapshot,
        bit_in_key,
        bit_in_second_key,
        bit_in_config,
        config_missing,
        data_pack_missing,
        tree_pack_missing,
        index_missing,
        truncated_pack,
        zero_byte_pack,
        zero_byte_index,
        zero_byte_snapshot,
        bit_in_fingerprint,
        gap_in_index,
        size_lie,
        names_out_of_order,
        subtree_missing,
        root_is_data,
        duplicate_index,
        pack_in_no_index,
        lock_left_behind,
        zero_byte_lock,
        stray_names,
    )
}

"""The plain model: a world of files, and repositories in which snapshots of it are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from random import Random

from backupctl.clock import FakeClock, iso
from backupctl.errors import DamageError, NoSuchError
from backupctl.hosts.local import LocalHost
from backupctl.operations.records import SnapshotTags, fingerprint_of, of_job, save_json
from backupctl.repository.adoption import adopt_packs, compare_packs
from backupctl.repository.entry import Entry
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import ManifestReader, path_key, read_manifest
from backupctl.repository.partial import PartialKeeper
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import restore
from backupctl.repository.writer import SnapshotWriter
from backupctl.sources.files import FilesOptions, FilesSource
from backupctl.storage.memory import MemoryStore
from tests.faults.faulty_store import FaultyStore

PASSWORD = "model"
OLD_NS = 1_700_000_000_123_456_789
NAMES = (b"a", b"b", b"c.txt", b"d\xff", "é".encode())
JOB = "site"
TOP = b"the-world"


class Killed(BaseException):
    """The process is gone: nothing that it still tries has any effect."""


@dataclass(frozen=True)
class File:
    """A file, or a link when it has a `target`. Each change makes a new `version`, and so another time."""

    content: bytes = b""
    version: int = 0
    target: bytes = b""

    @property
    def kept(self) -> tuple[bytes, bytes]:
        return self.content, self.target


Files = dict[bytes, File]


@dataclass
class World:
    """What is to be backed up. All change comes from seeds."""

    files: Files = field(default_factory=dict)
    versions: int = 0

    def content(self, random: Random) -> bytes:
        size = random.choice((0, 1, 700, 5_000, 5_000, 60_000, 60_000, 200_000, 700_000))
        if size and random.random() < 0.3:
            return random.choice((b"\0", b"same")) * (size // 4)
        return random.randbytes(size)

    def put(self, path: bytes, file: File) -> None:
        """Whatever stands in the way goes: a file where a directory is wanted, and the other way round."""
        parts = path.split(b"/")
        above = {b"/".join(parts[:count]) for count in range(1, len(parts))}
        self.files = {
            other: kept
            for other, kept in self.files.items()
            if other not in above and not other.startswith(path + b"/")
        }
        self.files[path] = file

    def change(self, seed: int) -> None:
        random = Random(seed)
        for _ in range(random.choice((1, 1, 3))):
            self.versions += 1
            path = b"/".join(random.choice(NAMES) for _ in range(random.choice((1, 2, 2, 3))))
            way = random.randrange(10)
            if way < 5 or not self.files:
                self.put(path, File(self.content(random), self.versions))
            elif way == 5:
                self.put(path, File(target=random.randbytes(5).replace(b"\0", b"x"), version=self.versions))
            elif way == 6:  # a change in the middle
                old = random.choice(sorted(self.files))
                content = bytearray(self.files[old].content + b"!")
                content[random.randrange(len(content))] ^= 1
                self.put(old, File(bytes(content), self.versions))
            elif way == 7:  # a move: the same content elsewhere
                self.put(path, self.files.pop(random.choice(sorted(self.files))))
            else:
                old = random.choice(sorted(self.files))
                self.files = {one: file for one, file in self.files.items() if not one.startswith(old.split(b"/")[0])}

    def write(self, directory: Path) -> None:
        """As real files; what is there already as it must be is not touched, so that it counts as unchanged."""
        wanted = {os.path.join(os.fsencode(directory), path): file for path, file in self.files.items()}
        for above, names, files in os.walk(os.fsencode(directory), topdown=False):
            for name in [*names, *files]:
                path = os.path.join(above, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    if not os.listdir(path):
                        os.rmdir(path)
                elif path not in wanted or os.lstat(path).st_mtime_ns != OLD_NS + wanted[path].version:
                    os.unlink(path)
        for path, file in wanted.items():
            if os.path.lexists(path):
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if file.target:
                os.symlink(file.target, path)
            else:
                Path(os.fsdecode(path)).write_bytes(file.content)
            os.utime(path, ns=(OLD_NS, OLD_NS + file.version), follow_symlinks=False)

    def entries(self) -> Iterator[Entry]:
        files = dict(self.files)
        for path in sorted(files, key=path_key):
            file = files[path]
            times = {"mtime_ns": OLD_NS + file.version, "ctime_ns": OLD_NS + file.version}
            name = path.rpartition(b"/")[2]
            if file.target:
                yield Entry(path, Node(name, "symlink", 0o777, links=1, linktarget=file.target, **times))
            else:
                node = Node(name, "file", 0o644, inode=file.version + 1, size=len(file.content), links=1, **times)
                yield Entry(path, node, _opener(file.content), stable=True)


def _opener(content: bytes) -> Callable[[], BytesIO]:
    return lambda: BytesIO(content)


@dataclass
class Place:
    """One repository, and what the model says is in it."""

    name: str
    clock: FakeClock
    store: FaultyStore = field(init=False)
    kept: dict[str, Files] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = FaultyStore(MemoryStore(clock=self.clock, location=self.name))
        Repository.create(self.store, PASSWORD, clock=self.clock, scrypt_n=2)

    def open(self) -> Repository:
        return Repository.open(self.store, PASSWORD, clock=self.clock)

    def kill_at(self, nth: int, *, after: bool) -> None:
        """Whoever uses the store dies at its nth change, just before or just after; nothing he tries later arrives."""
        left, dead = nth, False

        def strike() -> None:
            nonlocal left, dead
            left -= 1
            if left == 0:
                dead = True
                raise Killed

        def refuse() -> None:
            if dead:
                raise Killed

        for kind in ("put", "delete"):
            self.store.at(kind, 1, strike, times=None, after=after)
        self.store.at("any", 1, refuse, times=None)

    def snapshot_ids(self) -> set[str]:
        return {info.name.removeprefix("snapshots/") for info in self.store.inner.list("snapshots/")}

    def names(self) -> list[str]:
        """Of all objects but locks."""
        return [info.name for info in self.store.inner.list("") if not info.name.startswith("locks/")]

    def dump(self, directory: Path) -> None:
        """All of it as files, for stock restic."""
        for info in list(self.store.inner.list("")):
            path = directory / info.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.store.inner.get(info.name))
        for name in ("locks", "snapshots", "index", "data", "keys"):
            (directory / name).mkdir(exist_ok=True)


def parent_of(repository: Repository) -> tuple[Snapshot | None, ManifestReader | None]:
    mine = of_job(repository.snapshots(), JOB)
    if not mine:
        return None, None
    try:
        return mine[-1], read_manifest(repository, fingerprint_of(repository, mine[-1])["manifest"])
    except (DamageError, NoSuchError):
        return None, None


class Backup:
    """A run in steps, so that others may work in between. The order is that of `operations.backup`."""

    def __init__(self, repository: Repository, world: World, directory: Path | None = None) -> None:
        """With `directory` the world is written there, and walked by worker processes as a job of files is."""
        self._repository, self._world, self._directory = repository, world, directory

    def run(self, *, between: Callable[[], None] = lambda: None) -> str:
        repository = self._repository
        with repository.lock():
            compared = compare_packs(repository)
            repository.distrust(compared.lost)
            adopt_packs(repository, compared.unlisted)
            parent, manifest = parent_of(repository)
            keeper = PartialKeeper(repository, JOB, "run", parent)
            left = keeper.find()
            with SnapshotWriter(
                repository,
                parent=parent,
                parent_manifest=manifest,
                resume=left.facts if left else None,
                save_partial=keeper.save,
                partial_seconds=0.0,  # after every entry
                clock=repository.clock,
            ) as writer:
                self._add(writer)
                between()
                written = writer.finish()
            saved = repository.save_snapshot(self._snapshot(written.tree, written.manifest, parent))
            keeper.clear()
            return saved

    def _add(self, writer: SnapshotWriter) -> None:
        if self._directory is None:
            assert writer.add_source("files", self._world.entries()) == []
            return
        self._world.write(self._directory)
        source = FilesSource("files", FilesOptions(paths=[str(self._directory)]))
        with source.open(LocalHost("local"), self._repository.clock) as session:
            assert writer.add_source("files", session.trees()) == []

    def _snapshot(self, tree: bytes, manifest: str, parent: Snapshot | None) -> Snapshot:
        now = self._repository.clock.now()
        facts = {"kind": "files", "host": "local", "data_time": iso(now), "fingerprint": {}}
        fingerprint = save_json(
            self._repository,
            "fingerprint",
            {"job": JOB, "sources": {"files": facts}, "problems": [], "manifest": manifest, "summary": {}},
        )
        tags = SnapshotTags(ours=True, job=JOB, run="r", fingerprint=fingerprint, complete=True).encode()
        return Snapshot(now, tree, ["/files"], JOB, "backupctl", tags=tags, parent=parent.id if parent else "")


def content_of(repository: Repository, snapshot_id: str) -> dict[bytes, tuple[bytes, bytes]]:
    """What a snapshot gives back. Raises DamageError."""
    found: dict[bytes, tuple[bytes, bytes]] = {}
    with SnapshotReader(repository, repository.reread_snapshot(snapshot_id)) as reader:
        for path, node in reader.walk(b"files"):
            if node.type != "dir":
                content = reader.open_node(path, node).read() if node.type == "file" else b""
                found[relative(path)] = (content, node.linktarget)
    return found


def relative(path: bytes) -> bytes:
    """Below the world's top, wherever the world was."""
    return path.removeprefix(b"files/").rpartition(b"/" + TOP + b"/")[2]


def restored_content(repository: Repository, snapshot_id: str, into: Path) -> dict[bytes, tuple[bytes, bytes]]:
    """The same by a restore into a directory, as plain system calls see it."""
    into.mkdir()
    with (
        SnapshotReader(repository, repository.reread_snapshot(snapshot_id)) as reader,
        LocalHost("local").placer(os.fsencode(into)) as placer,
    ):
        assert restore(reader, placer, path=b"files").problems == []
    found = {}
    for above, names, files in os.walk(os.fsencode(into)):
        for path in (os.path.join(above, name) for name in [*names, *files]):
            inside = relative(os.path.relpath(path, os.fsencode(into)))
            if os.path.islink(path):
                found[inside] = (b"", os.readlink(path))
            elif os.path.isfile(path):
                found[inside] = (Path(os.fsdecode(path)).read_bytes(), b"")
    return found


def kept_content(files: Files) -> dict[bytes, tuple[bytes, bytes]]:
    return {path: file.kept for path, file in files.items()}

"""What an interrupted run leaves for the next one of its job: found, trusted no further than a parent, and gone in time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import Denied
from backupctl.hosts.protocol import ByteSource
from backupctl.repository.entry import Entry
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import decode_tree
from backupctl.repository.manifest import ManifestReader, read_manifest
from backupctl.repository.partial import KEPT, PartialKeeper, partials
from backupctl.repository.prune import apply_prune, plan_prune
from backupctl.repository.prune_plan import PruneLimits
from backupctl.repository.repository import Repository
from backupctl.repository.writer import PARTIAL_SECONDS, SnapshotWriter
from backupctl.repository.written import WrittenSnapshot
from backupctl.storage.memory import MemoryStore
from tests.faults.faulty_store import FaultyStore

from .engine import content
from .helpers import NOW, directory, file, new_repository

Known = tuple[Snapshot, ManifestReader]
NAMES = [f"f{number}" for number in range(8)]


class Job:
    """Runs of one job over eight files in two directories; `opened` are the names that were read."""

    def __init__(self, repository: Repository, name: str = "job") -> None:
        self.repository, self.name = repository, name
        self.opened: list[str] = []
        self.parent: Known | None = None
        self.version = dict.fromkeys(NAMES, 1)

    def entries(self, *, stop_at: str = "", stable: bool = True, now: Callable[[], None] = lambda: None) -> list[Entry]:
        entries = [directory(b"a"), directory(b"b")]
        for name in NAMES:
            entries.append(self._file(name, stop_at, stable, now))
        return sorted(entries, key=lambda entry: entry.path.split(b"/"))

    def _file(self, name: str, stop_at: str, stable: bool, now: Callable[[], None]) -> Entry:
        data = content((self.name, name, self.version[name]), 700_000 if name == "f2" else 900)
        where = "a" if name < "f4" else "b"

        def opener() -> ByteSource:
            if name == stop_at:
                raise KeyboardInterrupt
            now()
            self.opened.append(name)
            return file(b"x", data).open()  # type: ignore[misc]  # it has one

        inode = 10 * self.version[name] + NAMES.index(name)
        return file(f"{where}/{name}".encode(), data, opener=opener, stable=stable, inode=inode)

    def run(
        self, *, stop_at: str = "", database: bool = False, now: Callable[[], None] = lambda: None
    ) -> WrittenSnapshot:
        self.opened.clear()
        previous, manifest = self.parent or (None, None)
        keeper = PartialKeeper(self.repository, self.name, f"run of {self.name}", previous)
        left = keeper.find()
        with SnapshotWriter(
            self.repository,
            parent=previous,
            parent_manifest=manifest,
            resume=left.facts if left else None,
            save_partial=keeper.save,
            clock=self.repository.clock,
        ) as writer:
            if database:
                writer.add_source("db", [file(b"dump.sql", b"-- sql", stable=False)])
            writer.add_source("www", self.entries(stop_at=stop_at, now=now))
            written = writer.finish()
        snapshot = Snapshot(self.repository.clock.now(), written.tree, ["/www"], self.name, tags=[f"job:{self.name}"])
        self.repository.save_snapshot(snapshot)
        keeper.clear()
        self.parent = snapshot, read_manifest(self.repository, written.manifest)
        return written

    def interrupted(self, at: str, *, database: bool = False) -> list[str]:
        """The names that were read."""
        with pytest.raises(KeyboardInterrupt):
            self.run(stop_at=at, database=database)
        return list(self.opened)


@pytest.fixture
def repository() -> Repository:
    return new_repository()


def test_what_was_read_is_not_read_again(repository: Repository) -> None:
    job = Job(repository)
    assert job.interrupted("f5") == NAMES[:5]
    written = job.run()
    assert job.opened == NAMES[5:]
    assert (written.resumed_files, written.resumed_bytes) == (5, 700_000 + 4 * 900)
    assert (written.stats.files_new, written.stats.files_unmodified) == (8, 0)  # as the parent snapshot sees it
    undisturbed = Job(new_repository()).run()
    assert written.stats.total_bytes_processed == undisturbed.stats.total_bytes_processed
    assert list(partials(repository)) == []
    manifest = read_manifest(repository, written.manifest)
    assert {entry.path: len(entry.sha256) for entry in manifest if entry.type == "file"}[b"www/a/f2"] == 64
    assert job.run().resumed_files == 0
    assert job.opened == []


def test_what_the_parent_had_counts_on_and_a_second_interruption_too(repository: Repository) -> None:
    job = Job(repository)
    job.run()
    for name in ("f0", "f3", "f6"):
        job.version[name] = 2
    assert job.interrupted("f3") == ["f0"]
    assert job.interrupted("f6") == ["f3"]
    written = job.run()
    assert job.opened == ["f6"]
    assert (written.resumed_files, written.stats.files_changed, written.stats.files_unmodified) == (2, 3, 5)


def test_a_file_that_changed_since_is_read_again(repository: Repository) -> None:
    job = Job(repository)
    job.interrupted("f5")
    job.version["f2"] = 2
    written = job.run()
    assert job.opened == ["f2", *NAMES[5:]]
    assert written.resumed_files == 4


def test_it_is_saved_now_and_then(repository: Repository) -> None:
    clock = repository.clock
    assert isinstance(clock, FakeClock)
    job = Job(repository)
    saved: list[list[str]] = []

    def later() -> None:
        saved.append([one.id for one in partials(repository)])
        clock.advance(PARTIAL_SECONDS / 2)

    job.run(now=later)
    assert [len(ids) for ids in saved] == [0, 0, 1, 1, 1, 1, 1, 1]  # every other file, and one at a time
    assert len({one for ids in saved for one in ids}) == 3


def test_a_dump_is_never_in_it(repository: Repository) -> None:
    job = Job(repository)
    job.interrupted("f5", database=True)
    (left,) = partials(repository)
    assert [node.name for node in decode_tree(repository.load_blob("tree", left.facts.tree))] == [b"www"]


def test_another_job_does_not_take_it(repository: Repository) -> None:
    job, other = Job(repository), Job(repository, "other")
    job.interrupted("f5")
    assert other.interrupted("f2") == NAMES[:2]
    other.run()
    assert other.opened == NAMES[2:]
    job.run()
    assert job.opened == NAMES[5:]


def test_nothing_is_trusted_that_no_index_has(repository: Repository) -> None:
    job = Job(repository)
    job.interrupted("f5")
    repository.distrust(repository.index.packs)
    job.run()
    assert job.opened == NAMES


def test_a_later_snapshot_makes_it_worthless(repository: Repository) -> None:
    clock = repository.clock
    assert isinstance(clock, FakeClock)
    job = Job(repository)
    job.interrupted("f5")
    elsewhere = Job(repository)  # the same job on another machine, which looked before that
    with SnapshotWriter(repository, clock=clock) as writer:
        writer.add_source("www", elsewhere.entries())
        written = writer.finish()
    clock.advance(60)
    newest = Snapshot(clock.now(), written.tree, ["/www"], "job", tags=["job:job"])
    repository.save_snapshot(newest)
    (left,) = partials(repository)
    assert PartialKeeper(repository, "job", "run", newest).find() is None
    plan = plan_prune(repository)
    assert f"backupctl/partial/{left.id}" in plan.orphan_records
    apply_prune(repository, plan)
    assert list(partials(repository)) == []


def test_prune_keeps_what_it_needs_for_a_while(repository: Repository) -> None:
    clock = repository.clock
    assert isinstance(clock, FakeClock)
    job = Job(repository)
    job.interrupted("f5")
    limits = PruneLimits(max_unused=0.0, grace=timedelta(0))
    plan = plan_prune(repository, limits)
    assert plan.orphan_records == []
    apply_prune(repository, plan)
    job.run()
    assert job.opened == NAMES[5:]
    job.version.update(f0=2, f1=2)
    assert job.interrupted("f1") == ["f0"]
    clock.advance(KEPT.total_seconds() + 1)
    apply_prune(repository, plan_prune(repository, limits))
    assert list(partials(repository)) == []


def test_one_that_cannot_be_read_costs_time_and_goes_with_the_next_prune(repository: Repository) -> None:
    job = Job(repository)
    job.interrupted("f5")
    (left,) = partials(repository)
    name = f"backupctl/partial/{left.id}"
    repository.store.delete(name)
    repository.store.put(name, b"no record")
    assert plan_prune(repository).orphan_records == [name]
    job.run()
    assert job.opened == NAMES


def test_prune_goes_on_where_one_needs_what_is_lost(repository: Repository) -> None:
    job = Job(repository)
    job.interrupted("f5")
    data = next(place.pack for place in repository.index if place.blob.kind == "data")
    repository.store.delete(f"data/{data.hex()[:2]}/{data.hex()}")
    apply_prune(repository, plan_prune(repository, PruneLimits(grace=timedelta(0))))
    (left,) = partials(repository)
    assert repository.has_blob("tree", left.facts.tree)


def test_a_store_that_forbids_deleting_ends_no_run() -> None:
    store = FaultyStore(MemoryStore())
    repository = Repository.create(store, "secret", clock=FakeClock(NOW), scrypt_n=2)
    job = Job(repository)
    job.interrupted("f5")
    store.fail("delete", 1, Denied("denied", name="x"), times=None)
    written = job.run()
    assert written.resumed_files == 5
    assert len(list(partials(repository))) == 1
    store.heal()
    job.run()
    assert list(partials(repository)) == []

"""Stock restic reads, extends, prunes and copies what we wrote, and we restore what it wrote: over a nasty tree."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from backupctl.clock import SystemClock, iso
from backupctl.hosts.local import LocalHost
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import ManifestReader, read_manifest
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import restore
from backupctl.repository.verify import Difference, verify_tree
from backupctl.repository.writer import SnapshotWriter
from backupctl.sources.files import FilesOptions, FilesSource
from backupctl.storage.local import LocalStore
from backupctl.storage.memory import MemoryStore
from tests.interop.stock import BINARIES, Restic, required
from tests.nasty_tree import build_nasty_tree

pytestmark = pytest.mark.servers

PASSWORD = "correct horse"
CLOCK = SystemClock()
HOST = LocalHost("local")


@pytest.fixture(params=BINARIES or [""], ids=lambda path: path.replace("/", "_") or "none")
def restic(request: pytest.FixtureRequest, tmp_path: Path) -> Restic:
    required()
    return Restic(request.param, tmp_path, PASSWORD)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    path = tmp_path / "origin"
    path.mkdir()
    build_nasty_tree(path)
    if os.geteuid():
        (path / "modes/0000").unlink()
    return path


def inside(path: Path) -> bytes:
    return os.fsencode(path)[1:]


def run(repo: Repository, origin: Path, parent: tuple[Snapshot, str] | None = None) -> tuple[Snapshot, str]:
    """The snapshot, and its manifest's id. As a job does it: by worker processes, which copy what did not change."""
    source = FilesSource("files", FilesOptions(paths=[str(origin)]))
    before = None if parent is None else parent[0]
    known = None if parent is None else read_manifest(repo, parent[1])
    with SnapshotWriter(repo, parent=before, parent_manifest=known) as writer, source.open(HOST, CLOCK) as session:
        assert writer.add_source("files", session.trees()) == []
        written = writer.finish()
    snapshot = Snapshot(CLOCK.now(), written.tree, ["/files"], "job", tags=["backupctl"], program_version="backupctl 0")
    now = iso(snapshot.time)
    snapshot.summary = {"backup_start": now, "backup_end": now, **asdict(written.stats)}
    repo.save_snapshot(snapshot)
    return snapshot, written.manifest


def manifest_of(origin: Path) -> ManifestReader:
    repo = Repository.create(MemoryStore(), PASSWORD, clock=CLOCK, scrypt_n=2)
    return read_manifest(repo, run(repo, origin)[1])


def manifest_in(repository: Path, record_id: str) -> ManifestReader:
    """Read anew: what a manifest leaves to the trees may lie elsewhere since somebody pruned."""
    return read_manifest(reopened(repository), record_id)


def reopened(path: Path) -> Repository:
    return Repository.open(LocalStore(path), PASSWORD, clock=CLOCK)


def differences(manifest: ManifestReader, origin: Path, restored: Path) -> list[Difference]:
    report = verify_tree(HOST, os.fsencode(restored), manifest, "files", path=inside(origin))
    assert report.unchecked == []
    assert report.entries > 120
    return report.differences


def our_restore(repository: Path, snapshot_id: str, path: bytes, into: Path) -> None:
    into.mkdir()
    repo = reopened(repository)
    with SnapshotReader(repo, repo.load_snapshot(snapshot_id)) as reader, HOST.placer(os.fsencode(into)) as placer:
        stats = restore(reader, placer, path=path)
    assert (stats.problems, stats.warnings) == ([], [])


def test_restic_works_with_what_we_wrote(restic: Restic, origin: Path, tmp_path: Path) -> None:
    repository, clock = tmp_path / "ours", CLOCK
    repo = Repository.create(LocalStore(repository, create=True), PASSWORD, clock=clock, scrypt_n=2)
    first, manifest = run(repo, origin)
    (origin / "new").write_bytes(os.urandom(100_000))
    second, manifest = run(repo, origin, (first, manifest))
    assert "no errors were found" in restic(repository, "check", "--read-data")

    restic(repository, "restore", second.id, "--target", str(tmp_path / "by-restic"))
    found = differences(
        manifest_in(repository, manifest), origin, tmp_path / "by-restic/files" / origin.relative_to("/")
    )
    if restic.version < (0, 16):  # knows no linktarget_raw
        found = [difference for difference in found if difference.path != "links/not-utf8"]
    assert found == []

    if restic.version >= (0, 16, 0):  # it decodes, encodes and compares every tree
        rewritten = restic(repository, "rewrite", "--exclude", "/nope", second.id)
        assert "no snapshots were modified" in rewritten

    # on top of ours, then with our first snapshot gone, then in a copy: we read on
    restic(repository, "backup", str(origin))
    restic(repository, "forget", first.id, "--prune")
    assert "no errors were found" in restic(repository, "check", "--read-data")
    snapshots = reopened(repository).snapshots()
    assert [snapshot.hostname == "job" for snapshot in snapshots] == [True, False]
    assert snapshots[0].id == second.id
    our_restore(repository, second.id, b"files/" + inside(origin), tmp_path / "ours-after-prune")
    assert differences(manifest_in(repository, manifest), origin, tmp_path / "ours-after-prune") == []
    our_restore(repository, snapshots[1].id, inside(origin), tmp_path / "theirs")
    theirs = differences(manifest_in(repository, manifest), origin, tmp_path / "theirs")
    assert [difference for difference in theirs if restic.version >= (0, 16) or "not-utf8" not in difference.path] == []

    # and we go on writing after it pruned
    third, manifest = run(reopened(repository), origin, (second, manifest))
    copied = tmp_path / "copied"
    restic(copied, "init")
    restic.copy(repository, copied)
    copies = {snapshot.time: snapshot for snapshot in reopened(copied).snapshots()}
    our_restore(copied, copies[third.time].id, b"files/" + inside(origin), tmp_path / "from-copy")
    assert differences(manifest_in(repository, manifest), origin, tmp_path / "from-copy") == []
    assert "no errors were found" in restic(repository, "check", "--read-data")


def test_we_restore_what_restic_wrote(restic: Restic, origin: Path, tmp_path: Path) -> None:
    repository = tmp_path / "theirs"
    restic(repository, "init")
    restic(repository, "backup", str(origin))
    restic(repository, "backup", "--stdin", "--stdin-filename", "dump.sql", stdin=b"-- a dump\n" * 100_000)
    tree, stream = reopened(repository).snapshots()
    our_restore(repository, tree.id, inside(origin), tmp_path / "restored")
    found = differences(manifest_of(origin), origin, tmp_path / "restored")
    assert [difference for difference in found if restic.version >= (0, 16) or "not-utf8" not in difference.path] == []
    repo = reopened(repository)
    with SnapshotReader(repo, stream) as reader:
        assert reader.open(b"dump.sql").read() == b"-- a dump\n" * 100_000
    our_restore(repository, stream.id, b"", tmp_path / "stream")
    assert (tmp_path / "stream/dump.sql").stat().st_size == 1_000_000


def test_equal_files_give_equal_nodes(restic: Restic, tmp_path: Path) -> None:
    """Ours and theirs, but for the device, which we leave out because it changes from boot to boot."""
    origin = tmp_path / "origin"
    origin.mkdir()
    for name in ("plain", "<&>", 'q"', "資料"):
        (origin / name).symlink_to("target " + name)  # no content, no links, no device of its own
    repository = tmp_path / "theirs"
    restic(repository, "init")
    restic(repository, "backup", str(origin))
    repo = reopened(repository)
    (snapshot,) = repo.snapshots()
    ours = Repository.create(MemoryStore(), PASSWORD, clock=CLOCK, scrypt_n=2)
    with SnapshotReader(repo, snapshot) as theirs, SnapshotReader(ours, run(ours, origin)[0]) as reader:
        for (_, their), (_, our) in zip(
            theirs.list(inside(origin)), reader.list(b"files/" + inside(origin)), strict=True
        ):
            their.device_id = 0
            assert our == their

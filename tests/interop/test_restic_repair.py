"""Stock restic finds nothing wrong after each repair, and reads what we repaired: every version there is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backupctl.repository.copy import copy_snapshot
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repair_index import apply_index, plan_index
from backupctl.repository.repair_packs import apply_packs, plan_packs, suspected
from backupctl.repository.repair_snapshots import apply_snapshot, plan_snapshots
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.survey import Survey
from backupctl.storage.local import LocalStore
from backupctl.storage.memory import MemoryStore
from tests.interop.test_restic import CLOCK, PASSWORD, Restic, differences, manifest_of, origin, reopened, restic, run

__all__ = ["origin", "restic"]  # fixtures
pytestmark = pytest.mark.servers


class Ours:
    """A repository of ours on disk with two snapshots, and another one with the same."""

    def __init__(self, directory: Path, origin: Path) -> None:
        self.path = directory / "ours"
        self.repository = Repository.create(LocalStore(self.path, create=True), PASSWORD, clock=CLOCK)
        self.first, _ = run(self.repository, origin)
        self.first_packs = set(self.packs("data"))
        (origin / "new").write_bytes(os.urandom(100_000))
        self.second: Snapshot
        self.second, _ = run(self.repository, origin)
        self.copy = Repository.create(MemoryStore(), "of the copy", clock=CLOCK, scrypt_n=2)
        for snapshot in (self.first, self.second):
            copy_snapshot(self.repository, self.copy, snapshot)

    def packs(self, kind: str) -> list[Path]:
        """Largest first."""
        packs = {place.pack for place in reopened(self.path).index if place.blob.kind == kind}
        return sorted((self.path / pack_name(pack) for pack in packs), key=lambda one: -one.stat().st_size)

    def agreed(self, restic: Restic, origin: Path, into: Path) -> None:
        """By stock restic: no error in any byte, and the newest snapshot restores equal."""
        assert "no errors were found" in restic(self.path, "check", "--read-data")
        restic(self.path, "restore", self.second.id, "--target", str(into))
        found = differences(manifest_of(origin), origin, into / "files" / origin.relative_to("/"))
        assert [one for one in found if restic.version >= (0, 16) or one.path != "links/not-utf8"] == []


@pytest.fixture
def ours(tmp_path: Path, origin: Path) -> Ours:
    return Ours(tmp_path, origin)


@pytest.mark.parametrize("harm", ["one gone", "all gone", "unreadable"])
def test_the_index(restic: Restic, ours: Ours, origin: Path, tmp_path: Path, harm: str) -> None:
    files = sorted((ours.path / "index").iterdir())
    for file in files if harm == "all gone" else files[:1]:
        file.unlink()
        if harm == "unreadable":
            file.write_bytes(bytes(200))
    repository = reopened(ours.path)
    apply_index(repository, plan_index(repository))
    ours.agreed(restic, origin, tmp_path / "theirs")


def test_packs(restic: Restic, ours: Ours, origin: Path, tmp_path: Path) -> None:
    """One gone, one cut, one with a flipped bit, as far as there are so many; and one of trees."""
    harmed = []
    for number, pack in enumerate([ours.packs("tree")[0], *ours.packs("data")[:3]]):
        data = bytearray(pack.read_bytes())
        harmed.append(bytes.fromhex(pack.name))
        if number == 1:
            data[50] ^= 1
        pack.unlink()
        if number != 2:
            pack.write_bytes(data[: len(data) // 2] if number in (0, 3) else data)
    repository = reopened(ours.path)
    with repository.lock(exclusive=True):
        plan = plan_packs(repository, repository.snapshots(), suspected(repository, harmed), [ours.copy])
        assert not plan.survey.lost
        apply_packs(repository, plan)
    ours.agreed(restic, origin, tmp_path / "theirs")


def test_snapshots(restic: Restic, ours: Ours, origin: Path, tmp_path: Path) -> None:
    """Without a copy: what is left restores by stock restic, which sees the tag and where it comes from."""
    (lost,) = set(ours.packs("data")) - ours.first_packs
    lost.unlink()
    repository = reopened(ours.path)
    with repository.lock(exclusive=True):
        apply_packs(repository, plan_packs(repository, repository.snapshots(), suspected(repository)))
        survey = Survey(repository, repository.snapshots(), suspected(repository))
        (repair,) = plan_snapshots(survey, survey.snapshots)
        made = apply_snapshot(repository, survey, repair)
        assert made is not None
        repository.delete_snapshot(repair.snapshot.id)
    assert "no errors were found" in restic(ours.path, "check", "--read-data")
    assert made.id[:8] in restic(ours.path, "snapshots", "--tag", "repaired")
    restic(ours.path, "restore", made.id, "--target", str(tmp_path / "theirs"))
    found = differences(manifest_of(origin), origin, tmp_path / "theirs/files" / origin.relative_to("/"))
    paths = {one.path for one in found if restic.version >= (0, 16) or one.path != "links/not-utf8"}
    assert paths == {"new"}
    assert [path for path in repair.paths if not path.endswith("/new")] == []
    if restic.version >= (0, 16, 0):  # it decodes, encodes and compares every tree
        rewritten = restic(ours.path, "rewrite", "--exclude", "/nope", made.id)
        assert "no snapshots were modified" in rewritten


def test_it_goes_on_after_both_programs(restic: Restic, ours: Ours, origin: Path, tmp_path: Path) -> None:
    """What stock restic backed up is repaired by us as well."""
    restic(ours.path, "backup", str(origin))
    for file in (ours.path / "index").iterdir():
        file.unlink()
    repository = reopened(ours.path)
    apply_index(repository, plan_index(repository))
    assert "no errors were found" in restic(ours.path, "check", "--read-data")
    restic(ours.path, "backup", str(origin))
    restic(ours.path, "prune")
    ours.agreed(restic, origin, tmp_path / "theirs")

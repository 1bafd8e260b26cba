"""What the primary cannot give comes from a copy, verified and said: all of it, a snapshot, a tree, a blob, a record."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupctl.errors import DamageError, NoSuchError, StoreUnreachableError, UserError
from backupctl.operations import restore as operation
from backupctl.operations.context import Context
from backupctl.repository.format.pack import BlobKind
from backupctl.repository.repository import pack_name
from tests.end_to_end.site import Site
from tests.operations.test_copies import backed_up, copying, moved

__all__ = ["copying"]


def restored(context: Context, into: Path, **options: str) -> tuple[operation.RestoreOrder, operation.Restored]:
    arguments = {"at": "latest", "only": None, **options}
    order = operation.plan(context, "site", into=str(into), **arguments)  # type: ignore[arg-type]  # by name
    return order, operation.apply(context, order)


def same(site: Site, into: Path) -> bool:
    picture = "www/deep/picture.bin"
    (found,) = into.rglob("picture.bin")
    return found.read_bytes() == (site.root / "input" / picture).read_bytes()


def spoil(context: Context, kind: BlobKind) -> None:
    """Every pack of that kind in the primary is gone; whoever had it open forgets what was cached."""
    repository = context.resources.repository("main")
    for pack in {place.pack for place in repository.index if place.blob.kind == kind}:
        repository.store.delete(pack_name(pack))
    context.resources.close()


@pytest.mark.parametrize("kind", ["data", "tree"])
def test_lost_packs_are_read_from_the_copy(copying: Context, site: Site, tmp_path: Path, kind: BlobKind) -> None:
    backed_up(copying)
    spoil(copying, kind)
    copying.resources.repository("main").bypass_cache()
    order, done = restored(copying, tmp_path / "back")
    assert done.problems == []
    assert same(site, tmp_path / "back")
    assert order.fallback is not None
    (note,) = order.fallback.notes
    assert "cannot be read in main came from vault" in note


def test_a_snapshot_that_cannot_be_read_is_taken_from_the_copy(copying: Context, site: Site, tmp_path: Path) -> None:
    outcome = backed_up(copying)
    (site.root / "repository" / "snapshots" / outcome.snapshot).write_bytes(b"bad")
    copying.resources.close()
    order, _ = restored(copying, tmp_path / "back")
    assert order.fields()["repository"] == "vault"
    assert same(site, tmp_path / "back")


def test_a_primary_that_is_away_is_replaced_by_the_copy(copying: Context, site: Site, tmp_path: Path) -> None:
    backed_up(copying)
    moved(copying, site.root / "repository", site.root / "burnt")
    order, _ = restored(copying, tmp_path / "back")
    assert order.fallback is not None
    assert order.fallback.notes[0].startswith("main cannot give it (")
    assert same(site, tmp_path / "back")
    with pytest.raises(UserError) as raised:  # when it is asked for by name, nothing else will do
        restored(copying, tmp_path / "again", origin="main")
    assert isinstance(raised.value, StoreUnreachableError | NoSuchError)


def test_a_copy_can_be_chosen_and_falls_back_on_the_primary(copying: Context, site: Site, tmp_path: Path) -> None:
    backed_up(copying)
    order, _ = restored(copying, tmp_path / "back", origin="vault")
    assert (order.fields()["repository"], order.fallback and order.fallback.notes) == ("vault", [])
    vault = copying.resources.repository("vault")
    for pack in list(vault.index.packs):
        vault.store.delete(pack_name(pack))
    copying.resources.close()
    order, done = restored(copying, tmp_path / "again", origin="vault")
    assert (done.problems, same(site, tmp_path / "again")) == ([], True)
    assert order.fallback is not None
    assert "came from main" in order.fallback.notes[0]


def test_what_no_copy_has_is_damage(copying: Context, tmp_path: Path) -> None:
    backed_up(copying)
    spoil(copying, "data")
    vault = copying.resources.repository("vault")
    for pack in {place.pack for place in vault.index if place.blob.kind == "data"}:
        vault.store.delete(pack_name(pack))
    copying.resources.close()
    _, done = restored(copying, tmp_path / "back")
    assert len(done.problems) >= 3


def test_without_copies_damage_stays_what_it_was(context: Context, tmp_path: Path) -> None:
    outcome = backed_up(context)
    (Path(context.resources.repository("main").store.location) / "snapshots" / outcome.snapshot).write_bytes(b"bad")
    context.resources.close()
    with pytest.raises(DamageError, match="snapshots/"):
        restored(context, tmp_path / "back")


def test_a_damaged_fingerprint_is_read_from_the_copy(copying: Context, site: Site, tmp_path: Path) -> None:
    backed_up(copying)
    (record,) = (site.root / "repository" / "backupctl" / "fingerprint").iterdir()
    record.write_bytes(b"bad")
    copying.resources.close()
    order, _ = restored(copying, tmp_path / "back", only="db:shop.db")
    assert order.part is not None
    assert order.part.database == "shop.db"
    assert order.fallback is not None
    assert order.fallback.notes[0].endswith("taken from vault")

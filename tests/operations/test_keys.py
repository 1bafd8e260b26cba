"""Passwords by file, and the move of a whole repository to a new master key."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import ConfigError, NoSuchError, UsageError
from backupctl.governance.holds import held
from backupctl.operations import keys as operation
from backupctl.operations.check import run_check
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, readable
from backupctl.operations.starter import write_recovery_kit
from backupctl.repository.check import check
from backupctl.repository.copy import missing_in
from backupctl.repository.format.snapshot import Snapshot
from tests.end_to_end.site import Site
from tests.operations.test_copies import backed_up, copying, hold, moved

__all__ = ["copying"]


def test_a_password_file_that_is_not_there_is_made_private_and_opens(context: Context, tmp_path: Path) -> None:
    file = tmp_path / "second.key"
    made, generated = operation.add(context, "main", file)
    assert generated
    assert file.stat().st_mode & 0o777 == 0o600
    assert [key.opens for key in operation.keys_of(context, "main", file) if key.id == made.id] == [True]
    with pytest.raises(UsageError):
        operation.removal(context, "main", operation.key_in_use(context, "main"), None)
    planned = operation.removal(context, "main", operation.key_in_use(context, "main"), file)
    operation.remove(context, "main", planned)
    assert [key.id for key in operation.keys_of(context, "main")] == [made.id]
    assert {"key.added", "key.removed"} <= {event.action for event in context.catalog.events()}


def test_a_password_that_others_can_read_is_refused(context: Context, tmp_path: Path) -> None:
    file = tmp_path / "open.key"
    file.write_text("geheim\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        operation.add(context, "main", file)
    assert len(operation.keys_of(context, "main")) == 1


def test_the_recovery_kit_names_its_key(context: Context) -> None:
    text = write_recovery_kit(context, "main").read_text()
    assert operation.key_in_use(context, "main") in text
    assert "backupctl key kit main" in text


def test_everything_moves_to_a_new_master_key_and_an_interrupted_move_goes_on(
    copying: Context, site: Site, clock: FakeClock
) -> None:
    moved(copying, site.root / "vault", site.root / "away")
    first = backed_up(copying)
    hold(copying, first.snapshot)
    clock.advance(86_400)
    queued = copying.catalog.enqueue("check", "main", clock.now(), trigger="manual")
    assert queued is not None
    run_check(copying, queued)
    (site.root / "input" / "shop.db").write_bytes(b"no database")
    backed_up(copying)
    moved(copying, site.root / "away", site.root / "vault")
    main, vault = (copying.resources.repository(name) for name in ("main", "vault"))
    main.save_snapshot(Snapshot(time=clock.now(), tree=main.snapshots()[0].tree, paths=["/x"], hostname="restic's"))

    plan = operation.plan_rotation(copying, "main", "vault")
    assert (plan.snapshots, plan.missing, plan.records, plan.jobs) == (3, 3, 2, ["site"])
    assert plan.bytes > 700_000
    assert vault.snapshots() == []

    operation.copy_everything(copying, "main", "vault")  # as far as a killed one may come: no record yet
    assert operation.plan_rotation(copying, "main", "vault").records == 2
    result = operation.rotate(copying, "main", "vault")
    assert (result.copied, result.present, result.problems) == ([], 3, [])
    assert missing_in(vault, main.snapshots()) == []
    assert check(vault, read_data=True).problems == []
    complete = [one for one in vault.snapshots() if SnapshotTags.of(one).complete]
    assert held(vault, clock.now()) == {complete[0].id: "evidence"}
    assert len(vault.records("check")) == 1
    assert operation.rotate(copying, "main", "vault").copied == []
    assert len(vault.records("hold")) == 1
    assert len(readable(main, [])) == 3  # nothing is removed from the old one


def test_there_must_be_a_new_repository(copying: Context) -> None:
    with pytest.raises(NoSuchError):
        operation.plan_rotation(copying, "main", "nowhere")
    with pytest.raises(UsageError, match="same repository"):
        operation.plan_rotation(copying, "main", "main")

"""Copies of a job: brought up to date after each run, seen when they lag, judged like the primary, and fallen back on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from backupctl.catalog.models import Run
from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.errors import UsageError
from backupctl.governance.holds import place
from backupctl.operations import copy as operation
from backupctl.operations import retain
from backupctl.operations.backup import run_backup
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from backupctl.operations.rebuild import rebuild
from backupctl.operations.records import SnapshotTags, fingerprint_of
from backupctl.operations.setup import create_repository
from backupctl.operations.status import status
from backupctl.repository.check import check
from backupctl.repository.copy import origin
from backupctl.repository.format.snapshot import Snapshot
from tests.end_to_end.site import Site
from tests.operations.conftest import NOW

VAULT = "  vault: {storage: {local: {path: vault}}, password: {file: vault.key}}\n"


@pytest.fixture
def copying(site: Site, clock: FakeClock) -> Iterator[Context]:
    """The site with `copies: [vault]`, both repositories made."""
    site.configure(job="copies: [vault]\n")
    main = site.root / "backupctl.yaml"
    main.write_text(main.read_text().replace("hosts:\n", VAULT + "hosts:\n", 1))
    with Context.open(load(main), clock=clock) as opened:
        for name in ("main", "vault"):
            create_repository(opened, name)
        yield opened


def backed_up(context: Context) -> Outcome:
    """One run of the job, closed in the catalog, at the clock's time."""
    queued = context.catalog.enqueue("backup", "site", context.clock.now(), trigger="manual")
    assert queued is not None
    run = context.catalog.claim(queued.id, "test")
    assert run is not None
    outcome = run_backup(context, run)
    closed(context, run, outcome)
    return outcome


def closed(context: Context, run: Run, outcome: Outcome) -> None:
    context.catalog.finish(
        run.id,
        run.epoch,
        outcome.state,
        exit_code=outcome.exit_code,
        message=outcome.message,
        snapshot=outcome.snapshot,
    )


def in_vault(context: Context) -> list[Snapshot]:
    return context.resources.repository("vault").snapshots()


def moved(context: Context, old: Path, new: Path) -> None:
    """A repository goes away, or comes back; whoever has it open finds it gone."""
    context.resources.close()
    old.rename(new)


def test_a_run_brings_its_copies_up_to_date(copying: Context) -> None:
    outcome = backed_up(copying)
    assert (outcome.state, outcome.exit_code, outcome.message) == ("complete", 0, "")
    (told,) = outcome.summary["copies"]
    assert (told["destination"], told["copied"], told["error"]) == ("vault", [outcome.snapshot], "")
    vault = copying.resources.repository("vault")
    (copied,) = vault.snapshots()
    assert copied.original == outcome.snapshot
    assert fingerprint_of(vault, copied)["job"] == "site"
    assert check(vault, read_data=True).problems == []
    rows = {row.repository: row for row in copying.catalog.snapshots(job="site")}
    assert rows["vault"].id == copied.id
    assert rows["vault"].files == rows["main"].files > 0


def test_a_copy_that_is_away_makes_warnings_of_a_complete_run_and_is_caught_up_later(
    copying: Context, site: Site, clock: FakeClock
) -> None:
    vault, away = site.root / "vault", site.root / "away"
    moved(copying, vault, away)
    outcome = backed_up(copying)
    assert (outcome.state, outcome.exit_code) == ("complete", 3)
    assert outcome.message.startswith("copy vault lags: ")
    assert not outcome.success
    moved(copying, away, vault)
    (found,) = status(copying, list(copying.settings.jobs.values()))
    assert found.state == "ok"
    assert any("with warnings: copy vault lags" in note for note in found.notes)
    assert (found.copies[0].state, found.copies[0].behind) == ("stale", 1)
    clock.advance(3600)
    assert backed_up(copying).exit_code == 0
    assert len(in_vault(copying)) == 2
    (found,) = status(copying, list(copying.settings.jobs.values()))
    assert (found.copies[0].state, found.copies[0].behind) == ("ok", 0)


def test_a_signal_during_the_copy_takes_nothing_from_the_backup(
    copying: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Stopped("deadline passed")

    monkeypatch.setattr(operation, "copy_to", stop)
    outcome = backed_up(copying)
    assert (outcome.state, outcome.exit_code) == ("complete", 3)
    assert outcome.message == "copy vault lags: stopped: deadline passed"
    assert outcome.bug is None
    assert copying.resources.repository("vault").list_locks() == []


def test_status_judges_a_copy_by_what_is_in_it(copying: Context, clock: FakeClock) -> None:
    backed_up(copying)
    clock.advance(timedelta(hours=24, seconds=1).total_seconds())
    newer = Snapshot(
        time=clock.now(), tree=bytes(32), tags=SnapshotTags(True, "site", "r", "f", complete=True).encode()
    )
    copying.resources.repository("main").save_snapshot(newer)
    (found,) = status(copying, list(copying.settings.jobs.values()))
    (copy,) = found.copies
    assert (found.state, copy.state, copy.behind) == ("ok", "stale", 1)
    assert copy.notes == ["lacks the newest 1 complete snapshot(s) of site; backupctl copy site --to vault"]


def test_a_copy_that_cannot_be_reached_is_told(copying: Context, site: Site) -> None:
    backed_up(copying)
    moved(copying, site.root / "vault", site.root / "away")
    (found,) = status(copying, list(copying.settings.jobs.values()))
    assert (found.state, found.copies[0].state) == ("ok", "unreachable")


def test_copying_again_copies_nothing(copying: Context) -> None:
    backed_up(copying)
    result = operation.copy_job(copying, copying.job("site"), "vault")
    assert (result.copied, result.present, result.bytes) == ([], 1, 0)
    assert len(in_vault(copying)) == 1


def test_what_retention_would_remove_at_once_is_not_copied(copying: Context, clock: FakeClock, site: Site) -> None:
    vault, away = site.root / "vault", site.root / "away"
    moved(copying, vault, away)
    for _ in range(3):
        backed_up(copying)
        clock.advance(600)
    moved(copying, away, vault)
    result = operation.copy_job(copying, copying.job("site"), "vault")
    assert len(copying.resources.repository("main").snapshots()) == 3
    assert len(result.copied) == len(in_vault(copying)) == 2  # of one day the newest, and the oldest of all


def test_retention_runs_on_the_copies_too_and_holds_of_the_primary_count_there(
    copying: Context, clock: FakeClock, site: Site
) -> None:
    for number in range(4):
        outcome = backed_up(copying)
        if number == 1:
            hold(copying, outcome.snapshot)
        clock.advance(600)
    before = {origin(one) for one in in_vault(copying)}
    assert len(before) == 4
    retain.apply(copying, [copying.job("site")])
    kept = {one.id for one in copying.resources.repository("main").snapshots()}
    assert len(kept) == 3  # the oldest, the held, the newest
    assert {origin(one) for one in in_vault(copying)} == kept
    assert operation.copy_job(copying, copying.job("site"), "vault").copied == []
    known = copying.catalog.snapshots(repository="vault")
    assert {row.id for row in known} == {one.id for one in in_vault(copying)}
    moved(copying, site.root / "vault", site.root / "away")
    main, vault = retain.preview(copying, [copying.job("site")])
    assert (main.damage, len(main.decisions)) == (None, 3)
    assert vault.damage is not None


def hold(context: Context, snapshot: str) -> None:
    place(
        context.resources.repository("main"),
        context.catalog,
        repository_name="main",
        snapshot=snapshot,
        reason="evidence",
        owner="law",
        expires=None,
        clock=context.clock,
    )


def test_an_incomplete_snapshot_is_copied_as_one(copying: Context, site: Site) -> None:
    (site.root / "input" / "shop.db").write_bytes(b"no database")
    outcome = backed_up(copying)
    assert (outcome.state, outcome.exit_code) == ("incomplete", 3)
    (copied,) = in_vault(copying)
    assert not SnapshotTags.of(copied).complete


def test_what_the_copy_lost_is_copied_again(copying: Context, site: Site) -> None:
    backed_up(copying)
    largest = max((site.root / "vault" / "data").rglob("*"), key=lambda one: one.stat().st_size if one.is_file() else 0)
    largest.unlink()
    copying.resources.close()
    result = operation.copy_job(copying, copying.job("site"), "vault")
    assert (result.copied, result.error) == ([], "")
    assert result.stored_bytes > 500_000
    copying.resources.close()
    report = check(copying.resources.repository("vault"), read_data=True)
    assert [one.message for one in report.problems if one.snapshots] == []


def test_a_damaged_snapshot_does_not_hold_up_the_others(copying: Context, site: Site, clock: FakeClock) -> None:
    vault, away = site.root / "vault", site.root / "away"
    moved(copying, vault, away)
    first = backed_up(copying)
    clock.advance(86_400)
    (site.root / "input" / "www" / "new").write_text("of the second day\n")
    second = backed_up(copying)
    moved(copying, away, vault)
    (site.root / "repository" / "snapshots" / first.snapshot).write_bytes(b"bad")
    copying.resources.close()
    result = operation.copy_job(copying, copying.job("site"), "vault")
    assert result.copied == [second.snapshot]
    assert result.exit_code == 4
    assert first.snapshot in result.problems[0]


def test_a_repository_is_no_copy_of_itself(copying: Context, site: Site) -> None:
    copying.resources.close()
    shutil.rmtree(site.root / "vault")
    shutil.copytree(site.root / "repository", site.root / "vault")
    shutil.copy(site.root / "repository.key", site.root / "vault.key")
    with pytest.raises(UsageError, match="are the same repository"):
        operation.copy_job(copying, copying.job("site"), "vault")


def test_the_catalog_is_rebuilt_from_a_repository_and_its_copies(copying: Context) -> None:
    outcome = backed_up(copying)
    found = rebuild(copying)
    assert found.problems == []
    (run,) = found.runs
    assert (run.repository, run.snapshot) == ("main", outcome.snapshot)
    assert {row.repository for row in copying.catalog.snapshots()} == {"main", "vault"}
    assert run.scheduled == NOW


def test_one_of_two_copies_that_is_away_does_not_hold_up_the_other(
    copying: Context, site: Site, clock: FakeClock
) -> None:
    main = site.root / "backupctl.yaml"
    main.write_text(main.read_text().replace(VAULT, VAULT + VAULT.replace("vault", "attic"), 1))
    job = site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace("copies: [vault]", "copies: [attic, vault]"))
    with Context.open(load(main), clock=clock) as context:
        create_repository(context, "attic")
        moved(context, site.root / "attic", site.root / "away")
        outcome = backed_up(context)
        assert (outcome.state, outcome.exit_code) == ("complete", 3)
        assert outcome.message.startswith("copy attic lags: ")
        told = {one["destination"]: one for one in outcome.summary["copies"]}
        assert (told["vault"]["copied"], told["vault"]["error"]) == ([outcome.snapshot], "")
        assert (told["attic"]["copied"], told["attic"]["exit_code"]) == ([], 14)
        moved(context, site.root / "away", site.root / "attic")
        (attic, _), (vault, _) = operation.copy_job_into(context, context.job("site"), ["attic", "vault"])
        assert (attic.copied, attic.present, vault.copied, vault.present) == ([outcome.snapshot], 0, [], 1)
        assert {row.repository for row in context.catalog.snapshots(job="site")} == {"main", "attic", "vault"}
        assert context.resources.repository("attic").list_locks() == []

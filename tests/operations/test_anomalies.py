"""An attack is backed up: the backup stands, is marked, protects what is older, and is told until somebody clears it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.config.fleet import FleetSettings
from backupctl.config.load import load
from backupctl.errors import NoSuchError, UsageError
from backupctl.operations import retain
from backupctl.operations.anomalies import decide, find_suspicion, list_suspicions
from backupctl.operations.backup import run_backup
from backupctl.operations.browse import list_snapshots
from backupctl.operations.context import Context
from backupctl.operations.copy import copy_job
from backupctl.operations.rebuild import rebuild
from backupctl.operations.records import SnapshotTags
from backupctl.operations.setup import create_repository
from backupctl.repository.commit import decided
from backupctl.repository.entry import Problem
from backupctl.scheduling.dispatch import enqueue_now
from backupctl.scheduling.standing import Standing, nagios, standing
from backupctl.scheduling.worker import execute_run
from backupctl.storage.local import LocalStore
from tests.governance.anomaly_corpus import Nights, mass_deletion
from tests.operations.conftest import NOW

CONFIG = """\
version: 1
repositories:
  main: {storage: {local: {path: repository}}, password: {file: key}}
  vault: {storage: {local: {path: vault}}, password: {file: key}}
jobs:
  site:
    owner: web team
    sources: {www: {files: {paths: [www]}}}
    repository: main
    copies: [vault]
    objectives: {rpo: 24h, rto: 2h}
    retention: {keep_last: 1}
    anomalies: {canaries: [CANARY]}
"""
RNG = random.Random(5)


@dataclass
class Office:
    context: Context
    clock: FakeClock
    www: Path

    def night(self) -> int:
        self.clock.advance(86400)
        return execute_run(self.context, enqueue_now(self.context.catalog, self.clock, "backup", "site").id)

    def stands(self, *, ask: bool = True) -> Standing:
        return standing(self.context, list(self.context.settings.jobs.values()), ask=ask)

    @property
    def newest(self) -> str:
        return self.context.resources.repository("main").snapshots()[-1].id

    def kept(self, repository: str = "main") -> dict[str, tuple[str, ...]]:
        (job,) = self.context.settings.jobs.values()
        shown = {one.repository: one for one in retain.preview(self.context, [job])}[repository]
        return {decision.item.id: decision.reasons for _, decision in shown.decisions}


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    www = tmp_path / "www"
    www.mkdir()
    for number in range(30):
        (www / f"page{number}.html").write_text(f"<p>page {number}</p>\n" * 400)
    (www / "bait.docx").write_bytes(b"PK bait")
    (tmp_path / "key").write_text("geheim\n")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "backupctl.yaml").write_text(CONFIG.replace("CANARY", str(www / "bait.docx")))
    clock = FakeClock(NOW)
    with Context.open(load(tmp_path / "backupctl.yaml"), clock=clock) as context:
        create_repository(context, "main")
        create_repository(context, "vault")
        yield Office(context, clock, www)


def encrypt(directory: Path) -> None:
    for path in directory.glob("page*.html"):
        path.write_bytes(RNG.randbytes(6000))


def test_the_backup_stands_is_marked_and_older_ones_stay_until_somebody_clears_it(office: Office) -> None:
    context = office.context
    assert [office.night(), office.night()] == [0, 0]
    clean = office.newest
    before = office.kept()
    assert before[clean] == ("last 1 of 1",) and list(before.values()).count(()) == 1
    encrypt(office.www)
    assert office.night() == 3
    attacked = office.newest
    (run,) = context.catalog.runs(kind="backup", states=("complete",), limit=1)
    assert run.exit_code == 3 and "30 of 30 rewritten files turned random (html)" in run.message
    (finding,) = context.catalog.findings(open_only=True)
    assert (finding.source, finding.severity, finding.owner) == ("anomaly", "critical", "web team") and finding.due

    for repository in ("main", "vault"):
        kept = office.kept(repository)
        assert len(kept) == 3 and all(kept.values())
        marked = [reasons for reasons in kept.values() if "anomaly: suspicious" in reasons]
        older = [reasons for reasons in kept.values() if any("older than the suspicious" in one for one in reasons)]
        assert len(marked) == 1 and len(older) == 2
    look = office.stands()
    assert any(f"{attacked[:8]} is suspicious" in note for note in look.jobs[0].notes)
    for found in (look, office.stands(ask=False)):
        assert list(found.suspicious()) == ["site: 1 suspicious snapshot(s) that nobody has looked at"]
        assert found.code == 3 and nagios(found)[0] == 2
    assert [one.tags.suspicious for one in list_snapshots(context, "site")] == [False, False, True]

    for path in office.www.glob("page*.html"):
        os.utime(path, (1, 1))  # read again, and still what they are
    assert office.night() == 0  # nothing more happened, and the new ones fill no gap: what is old stays
    assert all(office.kept().values())
    found = decide(context, attacked[:8], decision="acknowledged", reason="the forensic team has it")
    assert found.state == "acknowledged" and found.open and all(office.kept().values())
    for look in (office.stands(), office.stands(ask=False)):  # somebody deals with it: told, and no alarm
        assert look.code == 0 and nagios(look)[0] == 1
        assert any("suspicious" in note for note in look.jobs[0].notes)
    office.clock.advance(1)
    decide(context, attacked[:8], decision="cleared", reason="the office encrypts its pages now")
    assert context.catalog.findings(open_only=True) == []
    for repository in ("main", "vault"):
        assert sum(bool(reasons) for reasons in office.kept(repository).values()) == 1
    assert list_suspicions(context, list(context.settings.jobs.values()), every=False) == []
    assert not any("suspicious" in note for ask in (True, False) for note in office.stands(ask=ask).jobs[0].notes)
    actions = [event.action for event in context.catalog.events()]
    assert "anomaly.acknowledged" in actions and "anomaly.cleared" in actions
    encrypt(office.www)
    assert office.night() == 0  # what was cleared counts as usual


def test_who_goes_on_from_a_decided_snapshot_tells_its_signals_too(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies between deciding and storing an attacked snapshot; the next one stores and tells what it decided."""
    context = office.context
    context.settings = context.settings.model_copy(update={"fleet": FleetSettings()})
    office.night()
    encrypt(office.www)
    office.clock.advance(86400)
    queued = enqueue_now(context.catalog, office.clock, "backup", "site")
    dying = context.catalog.claim(queued.id, "elsewhere")
    assert dying is not None
    put = LocalStore.put

    def dies(self: LocalStore, name: str, data: bytes, *, if_absent: bool = False) -> None:
        if name.startswith("snapshots/"):
            raise ProcessLookupError("killed")
        put(self, name, data, if_absent=if_absent)

    with monkeypatch.context() as dead, pytest.raises(ProcessLookupError):
        dead.setattr(LocalStore, "put", dies)
        run_backup(context, dying)
    context.catalog.take_over(queued.id, dying.epoch, message="elsewhere is silent", options={"taken_over": 1})
    encrypt(office.www)  # what is there by now is nothing to the decided snapshot

    assert execute_run(context, queued.id) == 3
    run = context.catalog.run(queued.id)
    assert run is not None and run.state == "complete" and "30 of 30 rewritten files turned random" in run.message
    first = decided(context.resources.repository("main"), run.id)
    assert first is not None and first.id == run.snapshot == office.newest
    assert [one.run for one in context.catalog.findings(open_only=True)] == [run.id]
    (one,) = list_suspicions(context, list(context.settings.jobs.values()), every=False)
    assert (one.run, one.snapshot.id) == (run.id, run.snapshot)


def test_it_is_all_in_the_bucket(office: Office) -> None:
    context = office.context
    office.night()
    (office.www / "bait.docx").write_bytes(b"PK what?")
    assert office.night() == 3
    rebuild(context)
    (one,) = list_suspicions(context, list(context.settings.jobs.values()), every=False)
    assert [signal["name"] for signal in one.signals] == ["canary"] and "bait.docx is changed" in one.signals[0]["text"]
    (office.www / "bait.docx").unlink()
    assert office.night() == 3  # still not what it was before anything was suspicious
    (job,) = context.settings.jobs.values()
    assert len(list_suspicions(context, [job], every=False)) == 2
    assert find_suspicion(context, "site").snapshot.id == office.newest
    copy_job(context, job, "vault")
    copies = context.resources.repository("vault").snapshots()
    assert [SnapshotTags.of(one).suspicious for one in copies] == [False, True, True]


def test_what_could_not_be_read_is_not_taken_for_deleted() -> None:
    nights = Nights(9)
    nights.back_up()
    mark = nights.mark()
    mass_deletion(nights.site)
    assert [one.name for one in nights.back_up().signals] == ["deletion", "size"]
    nights.back_to(mark)
    mass_deletion(nights.site)
    cut = Problem("files", "pages", "failed", "the source ended early")
    assert nights.back_up(problems=[cut]).signals == ()


def test_words_that_name_no_suspicious_snapshot(office: Office) -> None:
    office.night()
    with pytest.raises(NoSuchError):
        find_suspicion(office.context, "site")
    with pytest.raises(NoSuchError):
        find_suspicion(office.context, office.newest)
    with pytest.raises(UsageError):
        decide(office.context, office.newest, decision="cleared", reason=" ")

"""Scenarios that need the configuration around a drill, run as the drill of a real job on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backupctl.catalog.models import Drill, DrillCheck, Run, SnapshotRow
from backupctl.clock import SystemClock
from backupctl.config.load import load
from backupctl.drills import clean_point
from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios import attack_program, key_holder_lost
from backupctl.drills.stopwatch import Stopwatch
from backupctl.governance.anomalies import Judgement
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Completed
from backupctl.hosts.staging import register
from backupctl.operations import execute
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from backupctl.operations.setup import generate_key
from backupctl.repository.repository import Repository
from backupctl.repository.shares import combine
from backupctl.sources.streams import program_text
from backupctl.storage.local import LocalStore
from backupctl.storage.protocol import Immutability, ProbeResult
from tests.end_to_end.site import Site
from tests.notify.servers import Requests, web_server

VAULT = "  vault: {storage: {local: {path: vault}}, password: {file: vault.key}}\n"


class Stand:
    """A site with a copy, backed up once, whose drill follows the scenario that a test names."""

    def __init__(self, root: Path) -> None:
        self.site = Site.create(root)
        self.numbers = iter(range(1000))
        self.scenario("full")
        with self.context() as context:
            for name, settings in context.settings.repositories.items():
                generate_key(settings.password)
                store, password = context.resources.store(name, create=True), context.resources.password(name)
                Repository.create(store, password, clock=context.clock, scrypt_n=1024)  # cheap: opened in every test
            register(context.resources.host("staging"), bytes(root / "staging"), "staging")
        assert self.run("backup", "site").exit_code == 0

    @property
    def root(self) -> Path:
        return self.site.root

    def scenario(self, name: str, *, job: str = "", main: str = "") -> None:
        """Write the configuration; more of it may be added to the job and to the main file."""
        self.site.configure(job=f"copies: [vault]\n{job}", drill=f", scenario: {name}", main=main)
        main_file = self.root / "backupctl.yaml"
        main_file.write_text(main_file.read_text().replace("hosts:\n", VAULT + "hosts:\n", 1))

    def context(self) -> Context:
        return Context.open(load(self.root / "backupctl.yaml"), clock=SystemClock())

    def run(self, kind: str, name: str) -> Outcome:
        with self.context() as context:
            instant = datetime(2026, 11, 20, 3, next(self.numbers), tzinfo=UTC)
            queued = context.catalog.enqueue(kind, name, instant, trigger="manual")
            assert queued is not None
            run = context.catalog.claim(queued.id, "test")
            assert isinstance(run, Run)
            outcome = execute.run(context, run)
            context.catalog.finish(run.id, run.epoch, outcome.state, exit_code=outcome.exit_code)
            return outcome

    @contextmanager
    def changed(self, place: str) -> Iterator[None]:
        """The directory of a repository, put back afterwards."""
        shutil.copytree(self.root / place, self.root / "saved")
        yield
        shutil.rmtree(self.root / place)
        (self.root / "saved").rename(self.root / place)

    def content(self, place: str) -> dict[str, bytes]:
        directory = self.root / place
        every = (path for path in directory.rglob("*") if path.is_file() and path.parent.name != "locks")
        return {str(path.relative_to(directory)): path.read_bytes() for path in every}

    def drill(self, name: str, **more: str) -> Outcome:
        self.scenario(name, **more)
        outcome = self.run("drill", "site/full")
        assert [path.name for path in (self.root / "staging").iterdir() if path.name.startswith("drill-")] == []
        return outcome

    def last(self) -> tuple[Drill, dict[str, DrillCheck]]:
        with self.context() as context:
            drill = context.catalog.drills(limit=1)[0]
            return drill, {check.name: check for check in context.catalog.drill_checks(drill.id)}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """One for all tests: a scenario leaves the real repositories as they were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKUPCTL_WORKERS", "0")
        patch.setattr("backupctl.repository.locks.SETTLE_SECONDS", 0.0)
        yield Stand(tmp_path_factory.mktemp("stand"))


def refusing(where: str) -> Callable[[LocalStore], ProbeResult]:
    """As a place with object lock answers; all others as they do."""
    probe = LocalStore.probe

    def answer(store: LocalStore) -> ProbeResult:
        if not store.location.endswith(where):
            return probe(store)
        tried = (("delete the locked version", "refused (COMPLIANCE)", True),)
        return ProbeResult((), Immutability(True, "everything was refused", True, tried=tried))

    return answer


def test_a_mock_attack_is_survived_where_one_place_refuses(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "probe", refusing("vault"))
    outcome = stand.drill("mock-attack")
    assert (outcome.verdict, outcome.exit_code, outcome.message) == ("pass", 0, "")
    drill, checks = stand.last()
    assert drill.rto_seconds is not None
    assert drill.rpo_seconds is None  # nothing of the job was at stake
    phases = {phase["name"]: phase["seconds"] for phase in drill.phases}
    assert {"stage the replica", "attack", "back up", "attack the backups", "find the last clean point"} <= set(phases)
    assert drill.rto_seconds < sum(phases.values()) - phases["back up"]
    found = checks["the last clean backup is found"]
    assert found.actual == "the newest clean one"
    assert "files turned random in part" in found.detail
    assert "harmless: vault refused everything" in checks["attack on main: take away what is to be kept"].actual
    assert checks["attack on vault: delete the locked version"].actual == "refused (COMPLIANCE)"
    assert checks["what came back is what was there before the attack"].ok
    assert "new file(s) called as ransom notes" in checks["the run that saved the storm raised the alarm"].detail
    assert checks["runs that saved honest work raised none"].ok
    assert "seep: " in checks["the attack did damage"].detail
    assert checks["retention leaves the last clean backup in place"].ok


def test_backups_that_their_operator_can_delete_and_a_poisoned_one_taken_for_clean_fail(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean_point, "looks_random", lambda block: False)
    monkeypatch.setattr("backupctl.operations.anomalies.judge", lambda measures, past: Judgement())
    outcome = stand.drill("mock-attack")
    assert (outcome.verdict, outcome.exit_code) == ("fail", 4)
    _, checks = stand.last()
    assert sorted(name for name, check in checks.items() if not check.ok) == [
        "attack on main: take away what is to be kept",
        "attack on vault: take away what is to be kept",
        "the last clean backup is found",
        "the run that saved the storm raised the alarm",
        "what came back is what was there before the attack",
    ]
    assert checks["the last clean backup is found"].actual == "backup 4, which is poisoned"


def test_the_attack_touches_nothing_but_the_sandbox_of_its_drill(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "victims").mkdir()
    (tmp_path / "victims" / "file.txt").write_text("mine")
    owner = tmp_path / "state" / "owner.json"
    owner.write_text('{"drill": "other"}')
    host = LocalHost("staging")
    for asked in ({"root": str(tmp_path / "victims")}, {"root": "/elsewhere"}, {"root": str(tmp_path)}):
        for drill in ("this", "other"):
            if asked["root"].endswith("victims") and drill == "other":
                continue  # that one is right
            ask = {"owner": str(owner), "drill": drill, "seed": "", "round": 0, "step": "storm", **asked}
            done = host.run([host.python, "-c", program_text(attack_program)], stdin=json.dumps(ask).encode())
            assert done.returncode == 3, done
    assert (tmp_path / "victims" / "file.txt").read_text() == "mine"


def test_everything_comes_back_from_the_second_destination(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    get = LocalStore.get

    def watched(store: LocalStore, name: str, **options: int) -> bytes:
        asked.append(store.location)
        return get(store, name, **options)

    strike = Stopwatch.strike

    def forget(watch: Stopwatch) -> None:
        asked.clear()  # what came before the disaster
        strike(watch)

    monkeypatch.setattr(LocalStore, "get", watched)
    monkeypatch.setattr(Stopwatch, "strike", forget)
    compare = Rehearsal.run

    def during(stage: Rehearsal, *arguments: object) -> None:
        compare(stage, *arguments)  # type: ignore[arg-type]  # handed through
        assert {place.rpartition("/")[2] for place in asked} == {"vault"}

    monkeypatch.setattr(Rehearsal, "run", during)
    outcome = stand.drill("second-destination")
    assert (outcome.verdict, outcome.message) == ("pass", "")
    drill, checks = stand.last()
    assert drill.rpo_seconds is not None
    assert (drill.level, drill.repository) == (4, "vault")
    assert {name.partition(":")[0] for name in checks} == {"copy vault", "db", "www"}


def test_a_second_destination_that_is_damaged_or_behind_fails(stand: Stand) -> None:
    with stand.changed("vault"):
        for pack in (stand.root / "vault" / "data").rglob("*"):
            if pack.is_file():
                pack.write_bytes(bytes(pack.stat().st_size))
        assert stand.drill("second-destination").verdict == "fail"
    with stand.changed("vault"):
        for snapshot in (stand.root / "vault" / "snapshots").iterdir():
            snapshot.unlink()
        outcome = stand.drill("second-destination")
        assert outcome.verdict == "fail"
        assert "copy vault: the newest complete snapshot" in outcome.message


def test_damage_is_named_and_mended_from_the_copy(stand: Stand) -> None:
    before = stand.content("repository")
    outcome = stand.drill("corrupted-objects")
    assert (outcome.verdict, outcome.message) == ("pass", "")
    _, checks = stand.last()
    found = [name for name in checks if name.startswith("found: ")]
    assert {name.partition("/")[0] for name in found} == {
        "found: snapshots",
        "found: backupctl",
        "found: index",
        "found: data",
    }
    assert len(found) >= 6
    assert checks["no damaged content is handed out"].actual.endswith(" 0 wrong")
    assert checks["repair from vault"].ok
    after = stand.content("repository")
    assert {name: data for name, data in after.items() if name in before} == before
    assert {name.partition("/")[2].partition("/")[0] for name in after.keys() - before.keys()} <= {"drill"}


def test_damage_that_the_copy_has_too_stays_lost(stand: Stand) -> None:
    with stand.changed("vault"):
        for pack in (stand.root / "vault" / "data").rglob("*"):
            if pack.is_file():
                pack.write_bytes(bytes(pack.stat().st_size))
        outcome = stand.drill("corrupted-objects")
    assert outcome.verdict == "fail"
    assert "repair from vault: expected nothing stays lost" in outcome.message


def test_stock_restic_alone_brings_everything_back(stand: Stand) -> None:
    outcome = stand.drill("stock-restic")
    assert (outcome.verdict, outcome.message) == ("pass", "")
    drill, checks = stand.last()
    assert checks["restic check"].actual == checks["restic restore"].actual == "exit 0"
    assert {"db", "www"} <= {name.partition(":")[0] for name in checks}
    assert drill.restored_bytes > 700_000


def test_without_restic_nothing_is_said_and_nothing_passes(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    run = LocalHost.run

    def without(host: LocalHost, argv: Sequence[str], **options: Any) -> Completed:
        return Completed(tuple(argv), 127, b"", "") if argv[0] == "restic" else run(host, argv, **options)

    monkeypatch.setattr(LocalHost, "run", without)
    outcome = stand.drill("stock-restic")
    assert (outcome.verdict, outcome.exit_code) == ("inconclusive", 5)
    assert "has no restic" in outcome.message


def test_what_restic_restores_differently_fails(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    run = LocalHost.run

    def forging(host: LocalHost, argv: Sequence[str], **options: Any) -> Completed:
        done = run(host, argv, **options)
        if argv[0] == "restic" and "restore" in argv:
            (page,) = Path(argv[-1]).rglob("index.html")
            page.write_text("<h1>hullo</h1>\n")
        return done

    monkeypatch.setattr(LocalHost, "run", forging)
    outcome = stand.drill("stock-restic")
    assert outcome.verdict == "fail"
    assert "content of" in outcome.message


def test_a_new_orchestrator_knows_everything_from_the_kits_alone(stand: Stand) -> None:
    stand.drill("single-file")  # something to be known
    assert stand.run("check", "main").exit_code == 0
    outcome = stand.drill("loss-of-orchestrator")
    assert (outcome.verdict, outcome.message) == ("pass", "")
    drill, checks = stand.last()
    assert checks["snapshots that the catalog knew"].expected == "2, the same"  # one here, one in the vault
    assert checks["checks that the catalog knew"].expected == "1, the same"
    assert int(checks["drills that the catalog knew"].expected.partition(",")[0]) >= 1
    assert {"db", "www"} <= {name.partition(":")[0] for name in checks}
    assert {"bootstrap", "rebuild the catalog"} <= {phase["name"] for phase in drill.phases}


def test_what_only_the_lost_catalog_knew_fails(stand: Stand) -> None:
    with stand.context() as context:
        (row, *_) = context.catalog.snapshots(repository="main")
        context.catalog.add_snapshot(
            SnapshotRow(id="f" * 64, repository="main", job="site", time=row.time, status="complete")
        )
        outcome = stand.drill("loss-of-orchestrator")
        context.catalog.forget_snapshot("main", "f" * 64)
    assert outcome.verdict == "fail"
    assert (
        "snapshots that the catalog knew: expected 3, the same, found 1 missing, 0 more, 0 different" in outcome.message
    )


def test_holders_of_shares_bring_the_password_back_and_change_it(stand: Stand) -> None:
    before = stand.content("repository")
    outcome = stand.drill("key-holder-lost")
    assert (outcome.verdict, outcome.message) == ("pass", "")
    _, checks = stand.last()
    assert checks["drawn files read with it"].actual.endswith(" equal")
    assert checks["the old password afterwards"].actual == "refused"
    assert checks["every 2 holders alone"].actual == "2 shares are too few: 3 are needed"
    keys = {name: data for name, data in stand.content("repository").items() if name.startswith("keys/")}
    assert keys == {name: data for name, data in before.items() if name.startswith("keys/")}


def test_a_password_that_stays_good_after_its_change_fails(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_holder_lost, "remove_key", lambda repository, removal: None)
    monkeypatch.setattr(
        key_holder_lost, "combine", lambda shares: combine(shares[:3]) if len(shares) > 3 else combine(shares)
    )
    outcome = stand.drill("key-holder-lost")
    assert outcome.verdict == "fail"
    assert "the old password afterwards: expected refused, found still opens" in outcome.message
    assert "an altered share among one more than needed" in outcome.message


def test_people_are_told_and_silence_is_noticed(stand: Stand) -> None:
    with web_server(Requests()) as web:
        url = f"http://127.0.0.1:{web.port}"
        channels = f"notify: {{ops: {{webhook: {{url: '{url}/hook'}}, heartbeat: {{url: '{url}/beat'}}}}}}\n"
        outcome = stand.drill("notification", main=channels, job="notify: [ops]\n")
        assert (outcome.verdict, outcome.message) == ("pass", "")
        assert [path for _, path, _, _ in web.seen] == ["/hook"]  # no heartbeat for a run that there was not
        _, checks = stand.last()
        assert checks["heartbeats after a run that ended failed"].actual == "1"
        assert "cannot be reached" in checks["a channel that is broken"].actual
        assert any(name.startswith("status when nothing ran") for name in checks)

        web.status = 500
        channels = f"notify: {{ops: {{webhook: {{url: '{url}/hook'}}}}}}\n"
        outcome = stand.drill("notification", main=channels, job="notify: [ops]\n")
    assert outcome.verdict == "fail"
    assert "a test notice over ops (webhook): expected delivered, found" in outcome.message
    assert "a heartbeat that goes silent: expected one channel at least, found none" in outcome.message


def test_who_tells_nobody_proves_nothing(stand: Stand) -> None:
    assert stand.drill("notification").verdict == "inconclusive"


def test_a_job_without_inventory_rebuilds_nothing(stand: Stand) -> None:
    outcome = stand.drill("software-rebuild")
    assert outcome.verdict == "inconclusive"
    assert "saves no software inventory" in outcome.message


def test_a_standby_takes_over_behind_a_fence(stand: Stand) -> None:
    assert stand.run("backup", "site").exit_code == 0
    before = stand.content("repository")
    outcome = stand.drill("standby-promotion")
    assert (outcome.verdict, outcome.exit_code, outcome.message) == ("pass", 0, "")
    after = stand.content("repository")
    new = {name.split("/")[1] for name in after if name not in before}
    assert new == {"drill"} and before.items() <= after.items(), "nothing but the record of the drill was stored"
    drill, checks = stand.last()
    assert drill.rto_seconds is not None and drill.rpo_seconds is not None
    assert checks["the epoch that began"].actual == "2"
    for name in ("a backup of the old primary", "an epoch that nobody began", "a second standby, promoted too"):
        assert checks[name].ok and checks[name].actual, name
    assert checks["backups of the new primary"].ok
    assert sum(": " in name and "against the manifest" in name for name in checks) == 2


def test_a_fence_with_a_gap_fails(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupctl.operations.wal.require_epoch", lambda repository, job, epoch: None)
    outcome = stand.drill("standby-promotion")
    assert outcome.verdict == "fail"
    _, checks = stand.last()
    assert checks["a backup of the old primary"].actual == "it got through"
    assert checks["a second standby, promoted too"].ok


def test_a_standby_that_does_not_hold_what_was_saved_fails(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "backupctl.repository.mirror._certain", lambda *given: True
    )  # whatever lies there is taken for right
    (stand.root / "input" / "www" / "index.html").write_text("<h1>hullo</h1>\n")  # of the same size
    assert stand.run("backup", "site").exit_code == 0
    outcome = stand.drill("standby-promotion")
    assert outcome.verdict == "fail"
    bad = {name for name, check in stand.last()[1].items() if not check.ok}
    assert bad and all("content of" in name or "against the manifest" in name for name in bad), bad

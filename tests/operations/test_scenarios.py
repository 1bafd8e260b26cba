"""Scenarios that need the configuration around a drill, run as the drill of a real job on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupctl.catalog.models import Drill, DrillCheck, Run
from backupctl.clock import SystemClock
from backupctl.config.load import load
from backupctl.drills import clean_point
from backupctl.drills.scenarios import attack_program
from backupctl.hosts.local import LocalHost
from backupctl.hosts.staging import register
from backupctl.operations import execute
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from backupctl.operations.setup import create_repository
from backupctl.sources.streams import program_text
from backupctl.storage.local import LocalStore
from backupctl.storage.protocol import Immutability, ProbeResult
from tests.end_to_end.site import Site

VAULT = "  vault: {storage: {local: {path: vault}}, password: {file: vault.key}}\n"


class Stand:
    """A site with a copy, backed up once, whose drill follows the scenario that a test names."""

    def __init__(self, root: Path) -> None:
        self.site = Site.create(root)
        self.numbers = iter(range(1000))
        self.scenario("full")
        with self.context() as context:
            create_repository(context, "main")
            create_repository(context, "vault")
            register(context.resources.host("staging"), bytes(root / "staging"), "staging")
        assert self.run("backup", "site").exit_code == 0

    @property
    def root(self) -> Path:
        return self.site.root

    def scenario(self, name: str, more: str = "") -> None:
        self.site.configure(job="copies: [vault]\n", drill=f", scenario: {name}{more}")
        main = self.root / "backupctl.yaml"
        main.write_text(main.read_text().replace("hosts:\n", VAULT + "hosts:\n", 1))

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

    def drill(self, name: str, more: str = "") -> Outcome:
        self.scenario(name, more)
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
    assert "seep: " in checks["the attack did damage"].detail
    assert checks["retention leaves the last clean backup in place"].ok


def test_backups_that_their_operator_can_delete_and_a_poisoned_one_taken_for_clean_fail(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean_point, "looks_random", lambda block: False)
    outcome = stand.drill("mock-attack")
    assert (outcome.verdict, outcome.exit_code) == ("fail", 4)
    _, checks = stand.last()
    assert sorted(name for name, check in checks.items() if not check.ok) == [
        "attack on main: take away what is to be kept",
        "attack on vault: take away what is to be kept",
        "the last clean backup is found",
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

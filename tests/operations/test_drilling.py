"""What stands around a drill: the draw and its proof, negative controls, interlocks, measures; on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupctl.drills import control
from backupctl.drills.interlocks import machine_hash, nonce_hash
from backupctl.errors import CouldNotRunError
from backupctl.evidence.draws import read_draws
from backupctl.hosts.local import LocalHost
from backupctl.hosts.staging import FILE_NAME
from backupctl.operations.drawing import draw
from tests.faults.inside import InsideSite
from tests.operations.test_scenarios import Stand

SELECT = "{ages: [latest, oldest], sources: one}"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKUPCTL_WORKERS", "0")
        patch.setattr("backupctl.repository.locks.SETTLE_SECONDS", 0.0)
        yield Stand(tmp_path_factory.mktemp("stand"))


def test_ages_places_and_sources_take_turns_and_anybody_can_check_the_draws(stand: Stand) -> None:
    stand.scenario(f"full, select: {SELECT}")
    assert stand.run("backup", "site").exit_code == 0
    chosen = []
    for _ in range(2):
        outcome = stand.run("drill", "site/full")
        assert outcome.verdict == "pass", outcome.message
        drill, checks = stand.last()
        drawn = drill.facts["draw"]
        chosen.append(drawn)
        assert drill.repository == drawn["place"]
        assert {name.split(":")[0] for name in checks} == {drawn["source"]}
    assert {one["age"] for one in chosen} == {"latest", "oldest"}
    assert {one["place"] for one in chosen} == {"main", "vault"}
    assert len({one["source"] for one in chosen}) == 2
    with stand.context() as context:
        events = context.catalog.events()
        kinds = [
            event.action for event in events if event.subject == "site/full" and event.action.startswith("drill.d")
        ]
        assert kinds == ["drill.drawn", "drill.drawn"]
        found = read_draws(events, {})
        assert [one["faults"] for one in found] == [[], []]
        first = next(event for event in events if event.action == "drill.committed")
        assert first.time < next(event for event in events if event.action == "drill.drawn").time
        secret = bytes.fromhex(found[0]["secret"])
        assert hashlib.sha256(secret).hexdigest() == first.detail["commitment"]


def test_a_draw_that_leads_to_no_drill_stays_in_the_trail(stand: Stand) -> None:
    stand.scenario(f"full, select: {SELECT}")
    with stand.context() as context:
        before = len(read_draws(context.catalog.events(), {}))
        assert draw(context, context.job("site"), "site/full", "a run that was killed") is not None
        found = read_draws(context.catalog.events(), {one.id: one.verdict for one in context.catalog.drills()})
        assert len(found) == before + 1
        assert found[-1]["verdict"] is None
        assert found[-1]["faults"] == []


def test_a_negative_control_passes_when_the_drill_fails(stand: Stand) -> None:
    stand.scenario("full, control: true")
    outcome = stand.run("drill", "site/full")
    assert (outcome.verdict, outcome.exit_code) == ("pass", 0)
    drill, checks = stand.last()
    assert drill.facts["control"]["said"] == "fail"
    assert drill.facts["control"]["object"].startswith("data/")
    assert checks[control.CHECK].ok
    assert (drill.rto_seconds, drill.rpo_seconds, drill.level) == (None, None, 0)
    stand.scenario("full")
    assert stand.run("drill", "site/full").verdict == "pass"  # the real repository was never touched


def test_a_drill_system_that_sees_no_damage_is_reported_as_broken(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PACK_DAMAGE", (("left as it is", lambda store, name, chance: None),))
    stand.scenario("full, control: true")
    outcome = stand.run("drill", "site/full")
    assert (outcome.verdict, outcome.exit_code) == ("fail", 4)
    assert "the drill system is broken: it said pass" in outcome.message


def test_everything_is_measured_from_the_declaration(stand: Stand) -> None:
    stand.scenario("full")
    assert stand.run("drill", "site/full").verdict == "pass"
    drill, _ = stand.last()
    measures = drill.facts["measures"]
    reached = [measures["instants"][name] for name in ("t1", "t2", "t3", "t4", "t5")]
    assert reached == sorted(reached)
    assert reached[-1] == pytest.approx(drill.rto_seconds, abs=1e-6)
    assert 0 < measures["key_seconds"] < reached[0]
    assert {"retrieve keys", "open repository", "decide"} <= {phase["name"] for phase in drill.phases}
    estimate = measures["estimate"]
    assert estimate["seconds"] > 0
    assert estimate["bytes"] > 0
    assert any("secrets: " in line for line in drill.facts["interlocks"])


def test_the_finished_line_says_why_it_is_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = InsideSite.start(tmp_path, monkeypatch)
    stale = site.run("drill", "run", "--json", expect=6).line("finished")
    assert stale["verdict"] == "stale"
    (reason,) = stale["reasons"]
    assert reason.startswith("no complete snapshot exists from before ")
    site.run("run")
    assert site.run("drill", "run", "--json").line("finished")["reasons"] == []
    (tmp_path / "staging" / FILE_NAME.decode()).unlink()
    unable = site.run("drill", "run", "--json", expect=5).line("finished")
    assert unable["verdict"] == "inconclusive"
    assert "is not registered for staging" in unable["reasons"][0]


def refused(stand: Stand) -> str:
    outcome = stand.run("drill", "site/full")
    assert (outcome.verdict, outcome.exit_code) == ("inconclusive", 5)
    assert [path.name for path in (stand.root / "staging").iterdir() if path.name.startswith("drill-")] == []
    return outcome.message


def test_a_marker_that_nobody_registered_is_refused(stand: Stand) -> None:
    stand.scenario("full")
    with stand.context() as context:
        context.audit("host.registered", "staging", nonce=nonce_hash("another"))
    assert "not the one that was registered" in refused(stand)
    with stand.context() as context:
        context.audit("host.registered", "staging")  # as an earlier version wrote it
    assert stand.run("drill", "site/full").verdict == "pass"


@pytest.mark.parametrize("path", ["staging/vault", "~/staging/vault"])
def test_a_scratch_directory_that_holds_a_repository_is_refused(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("HOME", str(stand.root))
    stand.scenario("full")
    main = stand.root / "backupctl.yaml"
    main.write_text(main.read_text().replace("path: vault", f"path: {path}"))
    (stand.root / "staging" / "vault").mkdir()
    message = refused(stand)
    (stand.root / "staging" / "vault").rmdir()
    assert "is the repository vault" in message


def test_more_bytes_than_allowed_stop_the_drill(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan was wrong: what is really taken decides."""
    monkeypatch.setattr("backupctl.drills.sandbox.refuse_too_small", lambda *arguments: None)
    stand.scenario("full")
    main = stand.root / "backupctl.yaml"
    main.write_text(main.read_text().replace("role: staging", "role: staging, max_disk: 4KiB"))
    assert "where it may take 4096" in refused(stand)


def test_production_secrets_stay_closed_in_a_drill(stand: Stand) -> None:
    stand.scenario("full")
    main = stand.root / "backupctl.yaml"
    other = "  other: {storage: {local: {path: other}}, password: {file: other.key}}\n"
    main.write_text(main.read_text().replace("hosts:\n", other + "hosts:\n", 1))
    (stand.root / "other.key").touch(0o600)
    (stand.root / "other.key").write_text("other")
    with stand.context() as context:
        with context.resources.confined(["main"], "staging") as withheld:
            assert withheld >= 1
            assert context.resources.password("main")
            with pytest.raises(CouldNotRunError, match=r"other\.key is a secret of production"):
                context.resources.password("other")
        assert context.resources.password("other") == "other"


def test_a_backup_remembers_its_machine(stand: Stand) -> None:
    with stand.context() as context:
        row = context.catalog.snapshots(job="site", repository="main")[0]
    here = machine_hash(LocalHost("x").facts())
    assert here not in ("", Path("/etc/machine-id").read_text().strip())
    assert {one["machine"] for one in row.sources} == {here}

"""One judgement for every face: what counts, in which order, and how a monitoring plugin and Prometheus are told."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backupctl.catalog.models import Check, Drill
from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.errors import Denied, UsageError
from backupctl.governance import holds
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, save_json
from backupctl.operations.setup import create_repository
from backupctl.repository.format.snapshot import Snapshot
from backupctl.scheduling.metrics import exposition, write_textfile
from backupctl.scheduling.standing import Standing, nagios, standing
from backupctl.scheduling.sweep import TOLERANCE
from tests.end_to_end.site import Site
from tests.operations.conftest import NOW, clock, context, site

__all__ = ["clock", "context", "site"]


def stood(context: Context) -> Standing:
    return standing(context, list(context.settings.jobs.values()))


def backed_up(context: Context, hours_ago: float, *, into: str = "main") -> str:
    tags = SnapshotTags(ours=True, job="site", run="r", fingerprint="f", complete=True).encode()
    moment = NOW - timedelta(hours=hours_ago)
    return context.resources.repository(into).save_snapshot(Snapshot(time=moment, tree=bytes(32), tags=tags))


def checked(context: Context, verdict: str = "pass") -> None:
    """As a check leaves it in the repository, and nowhere else."""
    facts = {"id": f"c-{verdict}", "repository": "main", "mode": "read-data", "verdict": verdict, "problems": []}
    facts |= {"started": NOW.isoformat(), "finished": NOW.isoformat(), "snapshots": 1, "packs": 1, "coverage": {}}
    save_json(context.resources.repository("main"), "check", facts | {"pack_bytes": 1, "bytes_read": 1})


def drilled(context: Context, *, verdict: str = "pass", rto_seconds: float = 60.0) -> None:
    moment = NOW - timedelta(minutes=5)
    row = Drill(id="d", job="site", drill="site/full", scenario="full", host="staging", repository="main")
    row.declared, row.finished, row.verdict, row.level = moment, NOW, verdict, 4
    row.rto_seconds, row.rpo_seconds, row.reasons = rto_seconds, 30.0, []
    context.catalog.add_drill(row, [])


@pytest.fixture
def proven(context: Context) -> Context:
    backed_up(context, 0.5)
    checked(context)
    drilled(context)
    return context


def test_all_is_well(proven: Context) -> None:
    found = stood(proven)
    assert (found.code, list(found.missed()), list(found.bad()), list(found.notes())) == (0, [], [], [])
    assert nagios(found) == (
        0,
        "BACKUPCTL OK - 1 of 1 jobs fresh and proven | 'site_age'=1800s;;86400;0 'stale'=0;;0;0;1 'missed'=0;;0;0",
    )


def test_a_recovery_that_took_longer_than_the_objective_of_today_is_an_objective_missed(proven: Context) -> None:
    drilled(proven, rto_seconds=3 * 3600)
    found = stood(proven)
    assert found.code == 6
    assert list(found.missed()) == ["site/full: recovery took 3h, the RTO is 2h"]
    assert nagios(found)[0] == 2


def test_bad_comes_before_missed_and_missed_before_not_to_be_asked(proven: Context, clock: FakeClock) -> None:
    clock.advance(25 * 3600)
    found = stood(proven)
    assert (found.code, next(iter(found.missed()))) == (6, "site: older than its RPO")
    drilled(proven, verdict="fail")
    assert stood(proven).code == 4
    assert nagios(stood(proven))[1].startswith("BACKUPCTL CRITICAL - site: the last drill full says fail; ")


def test_what_only_deserves_a_look_is_a_warning_to_a_plugin_and_no_failure(context: Context) -> None:
    backed_up(context, 0.5)
    found = stood(context)
    assert found.code == 0
    code, line = nagios(found)
    assert code == 1
    assert "never drilled" in line


def test_a_plugin_line_is_one_line_whatever_is_told(proven: Context) -> None:
    found = stood(proven)
    found.jobs[0].notes.append("a | b\nc 'd'")
    code, line = nagios(found)
    assert (code, line.count("|"), "\n" in line) == (1, 1, False)


def test_a_machine_with_nothing_but_configuration_and_key_says_the_same(
    proven: Context, site: Site, clock: FakeClock
) -> None:
    """The drill of this catalog only is not in the bucket: it is put there as a drill does."""
    found = Context.open(proven.settings, clock=clock, read_only=True)
    with found as elsewhere:
        before = (site.root / "catalog.db").stat().st_mtime_ns
        theirs = stood(elsewhere)
        assert (theirs.jobs[0].state, theirs.jobs[0].last_run) == ("ok", "complete")
        assert theirs.repositories[0].verdict == "pass"
        with pytest.raises(Denied, match="only reads"):
            elsewhere.resources.repository("main").save_record("hold", b"x")
        assert (site.root / "catalog.db").stat().st_mtime_ns == before


def test_a_record_that_cannot_be_read_is_told_and_tried_again(proven: Context, site: Site) -> None:
    (record,) = (site.repository / "backupctl" / "check").iterdir()
    record.write_bytes(b"torn")
    for _ in range(2):
        found = stood(proven)
        assert len(found.unreadable) == 1
        assert record.name in found.unreadable[0]
        assert found.repositories[0].verdict == ""


def test_holds_are_those_of_the_repository(proven: Context, clock: FakeClock) -> None:
    where = proven.resources.repository("main")
    for days, reason in ((None, "court order 7"), (1, "look at it")):
        expires = NOW + timedelta(days=days) if days else None
        holds.place(
            where,
            proven.catalog,
            repository_name="main",
            snapshot=where.snapshots()[0].id,
            reason=reason,
            owner="legal",
            expires=expires,
            clock=clock,
        )
    (found,) = stood(proven).repositories
    assert (found.holds, {one["reason"] for one in found.held}) == (2, {"court order 7", "look at it"})
    clock.advance(2 * 86400)
    (found,) = stood(proven).repositories
    assert (found.holds, [one["owner"] for one in found.held]) == (1, ["legal"])
    assert any("1 hold(s) have ended" in note for note in found.notes)


def test_what_was_configured_since_it_was_due_is_new_and_owes_nothing_yet(
    site: Site, context: Context, clock: FakeClock
) -> None:
    """Where no scheduler's memory is at hand, as on a machine with a read key: its file tells."""

    def said_of_a_file_written(ago: timedelta) -> tuple[list[str], list[str]]:
        moment = (clock.now() - ago).timestamp()
        os.utime(site.root / "jobs" / "site.yaml", (moment, moment))
        with Context.open(load(site.root / "backupctl.yaml"), clock=clock) as written:
            found = stood(written)
            assert found.code == 6, "it has nothing in the bucket, new or not"
            return [one.what for one in found.lapses], [one for one in found.jobs[0].notes if one.startswith("new")]

    minute = timedelta(minutes=1)
    new = ["new: its first start is Sat 2026-11-21 02:15 Asia/Taipei; at once: backupctl run site"]
    assert said_of_a_file_written(minute) == ([], new)
    assert said_of_a_file_written(timedelta(days=1)) == (["never"], [])
    assert said_of_a_file_written(-minute) == (["never"], []), "no word of a wrong clock is taken"
    due = datetime(2026, 11, 20, 18, 15, tzinfo=UTC)
    clock.advance((due + TOLERANCE - minute - NOW).total_seconds())
    assert said_of_a_file_written(timedelta(hours=1))[0] == []
    clock.advance(60)
    assert said_of_a_file_written(timedelta(hours=1)) == (["never"], [])


def test_a_check_or_drill_of_another_machine_is_not_taken_for_never_run(
    site: Site, context: Context, clock: FakeClock
) -> None:
    site.configure(drill=', cron: "0 2 * * *"')
    with Context.open(load(site.root / "backupctl.yaml"), clock=clock) as scheduled:
        backed_up(scheduled, 0.5)
        assert [one.what for one in stood(scheduled).lapses] == ["never"]
        drilled(scheduled)
        assert stood(scheduled).lapses == []


def test_metrics_are_what_a_parser_reads_and_hold_no_word_of_people(proven: Context) -> None:
    found = stood(proven)
    found.jobs[0].notes.append("secret words")
    text = exposition(found)
    samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type == "gauge"
        for one in family.samples:
            samples[one.name, *sorted(one.labels.items())] = one.value
    place = (("copy", "no"), ("job", "site"), ("repository", "main"))
    assert samples["backupctl_snapshot_time_seconds", *place] == (NOW - timedelta(hours=0.5)).timestamp()
    assert samples["backupctl_job_state", *place, ("state", "ok")] == 1
    assert samples["backupctl_job_state", *place, ("state", "stale")] == 0
    assert samples["backupctl_drill_verdict", ("drill", "full"), ("job", "site"), ("verdict", "pass")] == 1
    assert samples["backupctl_check_verdict", ("repository", "main"), ("verdict", "pass")] == 1
    assert samples["backupctl_exit_code",] == 0
    assert "secret" not in text
    assert str(proven.settings.base) not in text


def test_what_is_not_known_is_absent_and_never_zero(context: Context) -> None:
    text = exposition(stood(context))
    assert "backupctl_snapshot_time_seconds{" not in text
    assert "backupctl_check_verdict{" not in text
    assert 'backupctl_snapshots{job="site",repository="main",copy="no"} 0.0' in text


def test_the_textfile_is_old_or_new_and_never_half(
    proven: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "backupctl.prom"
    write_textfile(path, stood(proven))
    first = path.read_text()
    assert first.endswith("\n")
    assert path.stat().st_mode & 0o777 == 0o644

    def torn(number: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr("backupctl.scheduling.metrics.os.fsync", torn)
    with pytest.raises(OSError, match="no space"):
        write_textfile(path, stood(proven))
    assert path.read_text() == first
    assert sorted(one.name for one in tmp_path.glob("*.prom*")) == ["backupctl.prom"]
    assert list(tmp_path.glob(".backupctl*")) == []
    with pytest.raises(UsageError, match=r"\.prom"):
        write_textfile(tmp_path / "metrics.txt", stood(proven))


def test_a_copy_is_told_as_one(site: Site, clock: FakeClock) -> None:
    vault = "  vault: {storage: {local: {path: vault}}, password: {file: repository.key}}\n"
    site.configure(job="copies: [vault]\n")
    main = site.root / "backupctl.yaml"
    main.write_text(main.read_text().replace("hosts:\n", vault + "hosts:\n"))
    with Context.open(load(main), clock=clock) as both:
        for name in ("main", "vault"):
            create_repository(both, name)
        assert stood(both).copies[0].notes == ["there is no complete snapshot of site"], "nor one to copy"
        backed_up(both, 0.5)
        (note,) = stood(both).copies[0].notes
        assert note.endswith("; backupctl copy site --to vault")
        backed_up(both, 30, into="vault")
        found = stood(both)
        assert (found.copies[0].state, found.copies[0].behind) == ("stale", 1)
        assert "site: vault: older than its RPO" in list(found.missed())
        assert 'backupctl_copy_behind_snapshots{job="site",repository="vault"} 1.0' in exposition(found)


def test_a_check_learned_twice_is_one(proven: Context) -> None:
    stood(proven)
    stood(proven)
    rows: list[Check] = proven.catalog.checks(repository="main")
    assert [row.verdict for row in rows] == ["pass"]


def test_a_night_that_left_an_incomplete_snapshot_was_not_missed(context: Context, clock: FakeClock) -> None:
    """02:15 in Taipei is 18:15 UTC of the day before; it is 03:00 UTC."""
    backed_up(context, 23)
    assert [(one.what, one.message.partition(", ")[2]) for one in stood(context).lapses] == [
        ("missed", "and there is no snapshot since")
    ]
    tags = SnapshotTags(ours=True, job="site", run="r2", fingerprint="f", complete=False).encode()
    moment = NOW - timedelta(hours=8)
    context.resources.repository("main").save_snapshot(Snapshot(time=moment, tree=bytes(32), tags=tags))
    found = stood(context)
    assert (found.lapses, found.jobs[0].state, found.jobs[0].last_run) == ([], "ok", "incomplete")

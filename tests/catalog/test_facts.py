from __future__ import annotations

from datetime import timedelta

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Check, Drill, Finding, Hold, Notice, SnapshotRow
from backupctl.clock import FakeClock
from backupctl.sources.protocol import CheckResult
from tests.catalog.conftest import START

HOUR = timedelta(hours=1)


def snapshot(number: int, repository: str = "offsite", job: str = "website") -> SnapshotRow:
    return SnapshotRow(
        id=f"{number:064x}", repository=repository, job=job, time=START + number * HOUR, status="complete", bytes=2**40
    )


def drill(number: int, repository: str = "offsite") -> Drill:
    return Drill(
        id=f"d{number}",
        job="website",
        drill="website/monthly",
        scenario="full",
        host="staging",
        repository=repository,
        declared=START + number * HOUR,
        finished=START + (number + 1) * HOUR,
        verdict="pass",
        level=4,
        rto_seconds=1.5,
    )


def test_snapshots_are_added_once_forgotten_and_listed(catalog: Catalog, clock: FakeClock) -> None:
    for number in (1, 2, 2):
        catalog.add_snapshot(snapshot(number))
    catalog.add_snapshot(snapshot(2, repository="vault"))
    catalog.add_snapshot(snapshot(3, job="other"))
    ids = [row.id[-1] for row in catalog.snapshots(job="website", repository="offsite")]
    assert ids == ["2", "1"]
    catalog.forget_snapshot("offsite", snapshot(2).id)
    clock.advance(9)
    catalog.forget_snapshot("offsite", snapshot(2).id)
    assert [row.id[-1] for row in catalog.snapshots(job="website", repository="offsite")] == ["1"]
    everything = catalog.snapshots(repository="offsite", include_forgotten=True)
    assert [row.forgotten for row in everything] == [None, START, None]
    assert everything[0].bytes == 2**40 and everything[0].sources == []
    assert len(catalog.snapshots(repository="vault")) == 1


def test_checks_and_drills_keep_everything_they_asserted(catalog: Catalog) -> None:
    for number in (1, 2):
        check = Check(
            id=f"c{number}",
            repository="offsite",
            mode="read-data",
            started=START,
            finished=START + number * HOUR,
            verdict="fail",
            problems=[{"object": "data/ab", "message": "bad", "snapshots": []}],
        )
        catalog.add_check(check)
    assert [row.id for row in catalog.checks(repository="offsite", since=START, until=START + 2 * HOUR)] == ["c1"]
    assert catalog.checks(limit=1)[0].problems[0]["object"] == "data/ab"
    results = [
        CheckResult("table public.articles", "12 rows", "11 rows", False, 4, 0.5, "row 7 differs \udcff"),
        CheckResult("probe", "1", "1", True, 5),
    ]
    catalog.add_drill(drill(1), results)
    catalog.add_drill(drill(1), results)  # learning it twice changes nothing
    catalog.add_drill(drill(2), catalog.drill_checks("d1"))
    assert [row.id for row in catalog.drills(job="website", drill="website/monthly")] == ["d2", "d1"]
    assert catalog.drills(until=START + HOUR) == [] and len(catalog.drills(since=START + 2 * HOUR)) == 1
    for name in ("d1", "d2"):
        rows = catalog.drill_checks(name)
        assert [(row.number, row.name, row.ok, row.level) for row in rows] == [
            (1, "table public.articles", False, 4),
            (2, "probe", True, 5),
        ]
        assert rows[0].detail == r"row 7 differs \udcff"


def test_findings_are_opened_and_closed_together(catalog: Catalog, clock: FakeClock) -> None:
    for number, source in enumerate(("backup", "backup", "drill")):
        row = Finding(
            id=f"f{number}", source=source, run="r", job="website", severity="major", title="bad", opened=clock.now()
        )
        catalog.open_finding(row)
        clock.advance(60)
    assert catalog.close_findings("website", "backup", closure="it works again") == 2
    assert catalog.close_findings("website", "backup", closure="twice") == 0
    assert [row.id for row in catalog.findings(job="website", open_only=True)] == ["f2"]
    closed = catalog.findings(source="backup", until=START + timedelta(seconds=30))
    assert [(row.id, row.closure) for row in closed] == [("f0", "it works again")]


def test_holds_and_notices(catalog: Catalog) -> None:
    catalog.add_hold(
        Hold(id="h", repository="offsite", snapshot="ab", reason="court", owner="legal", created=START, expires=None)
    )
    assert [row.id for row in catalog.holds(repository="offsite", snapshot="ab")] == ["h"]
    assert catalog.holds(repository="vault") == []
    assert catalog.remove_hold("h") and not catalog.remove_hold("h")
    for error in ("", "refused"):
        delivered = None if error else START
        catalog.add_notice(
            Notice(channel="ops", kind="email", run="r", subject="s", created=START, delivered=delivered, error=error)
        )
    assert [row.error for row in catalog.notices(run="r")] == ["refused", ""]
    assert [row.error for row in catalog.notices(failed_only=True, limit=5)] == ["refused"]


def test_clearing_leaves_what_no_repository_holds(catalog: Catalog) -> None:
    for repository in ("offsite", "vault"):
        catalog.add_snapshot(snapshot(1, repository=repository))
    catalog.add_drill(drill(1), [CheckResult("a", "b", "b", True, 3)])
    catalog.enqueue("backup", "website", START, trigger="manual")
    catalog.append_event("root", "test", "website", {})
    catalog.clear_rebuildable(repository="offsite")
    assert [row.repository for row in catalog.snapshots()] == ["vault"]
    assert catalog.drills() == [] and catalog.drill_checks("d1") == []
    catalog.clear_rebuildable()
    assert catalog.snapshots(include_forgotten=True) == []
    assert len(catalog.runs()) == 1 and len(catalog.events()) == 1

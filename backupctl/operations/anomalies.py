"""Suspicious snapshots: measured and marked by a run, listed, acknowledged and cleared by people. The rules are in
`governance.anomalies`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backupctl.clock import iso, parse_iso
from backupctl.config.models import Job
from backupctl.errors import DamageError, NoSuchError, UsageError, UserError
from backupctl.governance import clearances
from backupctl.governance.anomalies import Judgement, carried, judge, rows_lost
from backupctl.governance.clearances import ACKNOWLEDGED, CLEARED, Clearance
from backupctl.operations.browse import locate, repository_name
from backupctl.operations.context import Context, actor
from backupctl.operations.execute import FINDING
from backupctl.operations.records import SnapshotTags, fingerprint_of, of_job
from backupctl.repository.changes import Changes, changes
from backupctl.repository.entry import Problem
from backupctl.repository.format.names import display_name
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.looks import Looks
from backupctl.repository.manifest import ManifestReader
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.written import WrittenSnapshot

_MOST_ABSORBED = 50
LOOKED_AT = f"anomaly.{ACKNOWLEDGED}"  # in the audit trail


@dataclass(slots=True)
class Assessment:
    """`record` goes into the sealed record beside the snapshot; `notes` is what a person should know."""

    record: dict[str, Any]
    judgement: Judgement
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Parent:
    """What a run goes on from; `facts` is its sealed record."""

    snapshot: Snapshot | None = None
    manifest: ManifestReader | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def assess(
    job: Job,
    repository: Repository,
    parent: Parent,
    written: WrittenSnapshot,
    looks: Mapping[str, Looks],
    facts: Mapping[str, Any],
    problems: Sequence[Problem],
) -> Assessment:
    """Judge what a run saw. Never raises what a damaged parent is the cause of: then less is measured, and a note says so."""
    notes: list[str] = []
    before = parent.facts.get("anomalies", {})
    past = before.get("past", {}) if isinstance(before, dict) else {}
    past = _with_cleared(repository, job, past, notes)
    measures = measure(job, repository, parent, written, looks, facts, problems, notes)
    judgement = judge(measures, past)
    remembered = past if judgement.suspicious else carried(past, measures) | {"absorbed": past.get("absorbed", [])}
    return Assessment(judgement.record(measures, remembered), judgement, notes)


def measure(
    job: Job,
    repository: Repository,
    parent: Parent,
    written: WrittenSnapshot,
    looks: Mapping[str, Looks],
    facts: Mapping[str, Any],
    problems: Sequence[Problem],
    notes: list[str],
) -> dict[str, Any]:
    """What `judge` takes. The numbers of files come from comparing the two trees, which reads only what differs; what was
    seen of their bytes from the writer; tables from the two fingerprints."""
    old = _trees(repository, parent.snapshot)
    new = _trees(repository, Snapshot(_time(facts), written.tree))
    totals_before = parent.manifest.facts.sources if parent.manifest is not None and parent.manifest.has_facts else {}
    cut = {one.source for one in problems if one.kind in ("failed", "unreadable")}  # what is missing there is not gone
    sources: dict[str, Any] = {}
    for name, one in facts.items():
        totals = written.sources[name]
        found: dict[str, Any] = {"files": totals.files, "bytes": totals.bytes, "looks": _plain(looks.get(name))}
        if one["kind"] == "files" and name in new and name not in cut:
            try:
                if name in old:
                    changed = changes(lambda tree: repository.load_blob("tree", tree), old[name], new[name])
                else:  # all of it is new: nothing to read, and of 60,000 files it would be seconds
                    changed = Changes(new=totals.files)
            except DamageError as error:
                notes.append(f"what changed in {name} is not known: {error.message}")
            else:
                if changed.unread:
                    notes.append(
                        f"{changed.unread} director(ies) of {name} could not be compared with the parent snapshot"
                    )
                found |= {key: getattr(changed, key) for key in ("new", "rewritten", "deleted", "moved")}
                found["suffixed"] = {display_name(kind): count for kind, count in changed.suffixed.items()}
                if name in old and name in totals_before:
                    found |= {"files_before": totals_before[name].files, "bytes_before": totals_before[name].bytes}
                    found["notes"] = changed.notes  # of a first backup everything is new
        previous = parent.facts.get("sources", {}).get(name, {}).get("fingerprint", {})
        if previous and name not in cut:
            _compare_tables(found, _tables(previous), _tables(one["fingerprint"]))
        sources[name] = found
    stats = written.stats
    return {
        "sources": sources,
        "added": stats.data_added,
        "packed": stats.data_added_packed,
        "total": stats.total_bytes_processed,
        **_canaries(job, repository, written, facts, cut, notes),
    }


def _time(facts: Mapping[str, Any]) -> datetime:
    return min(parse_iso(one["data_time"]) for one in facts.values())


def _trees(repository: Repository, snapshot: Snapshot | None) -> dict[str, bytes]:
    """The tree of each source."""
    if snapshot is None:
        return {}
    try:
        with SnapshotReader(repository, snapshot) as reader:
            nodes = list(reader.children(b"", reader.node(b"")))
    except DamageError:
        return {}  # whoever reads the parent for its files has said so
    return {node.name.decode("utf-8", "replace"): node.subtree for node in nodes if node.subtree is not None}


def _plain(looks: Looks | None) -> dict[str, dict[str, list[int]]]:
    if looks is None:
        return {}
    return {
        "new": {display_name(kind): counts for kind, counts in sorted(looks.new.items())},
        "rewritten": {display_name(kind): counts for kind, counts in sorted(looks.rewritten.items())},
    }


def _tables(fingerprint: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Rows and digest by DATABASE.TABLE, of what the fingerprint of a database holds."""
    found: dict[str, tuple[int, str]] = {}
    databases = fingerprint.get("databases")
    for database, content in databases.items() if isinstance(databases, Mapping) else ():
        tables = content.get("tables") if isinstance(content, Mapping) else None
        for table, one in tables.items() if isinstance(tables, Mapping) else ():
            if isinstance(one, Mapping) and isinstance(one.get("rows"), int):
                found[f"{database}.{table}"] = one["rows"], str(one.get("digest", ""))
    return found


def _compare_tables(
    found: dict[str, Any], before: Mapping[str, tuple[int, str]], now: Mapping[str, tuple[int, str]]
) -> None:
    found["tables_gone"] = sorted(name for name, (rows, _) in before.items() if rows and name not in now)
    found["rows_lost"] = {
        name: [rows, now[name][0]]
        for name, (rows, _) in before.items()
        if name in now and rows_lost(rows, now[name][0])
    }


def _canaries(
    job: Job,
    repository: Repository,
    written: WrittenSnapshot,
    facts: Mapping[str, Any],
    cut: set[str],
    notes: list[str],
) -> dict[str, dict[str, str]]:
    """What each canary is now, "" for one that is not there. Sources that could not be read say nothing of theirs."""
    files = [name for name, one in facts.items() if one["kind"] == "files"]
    paths: dict[str, str] = {}
    with SnapshotReader(repository, Snapshot(_time(facts), written.tree)) as reader:
        for path in job.anomalies.canaries if files else ():
            digests = [one for name in files if (one := _digest(reader, name.encode() + path.encode()))]
            if digests or not cut.intersection(files):
                paths[path] = "".join(digests)
    known = {
        f"{name}/{table}": digest
        for name, one in facts.items()
        for table, (_, digest) in _tables(one["fingerprint"]).items()
    }
    tables = {
        table: known.get(table, "")
        for table in job.anomalies.canary_tables
        if table in known or table.partition("/")[0] in facts.keys() - cut
    }
    notes += [f"canary {name} is not in the backup" for name, digest in {**paths, **tables}.items() if not digest]
    return {"canaries": paths, "canary_tables": tables}


def _digest(reader: SnapshotReader, path: bytes) -> str:
    try:
        node = reader.node(path)
    except (NoSuchError, DamageError):
        return ""
    return "-".join(blob.hex()[:32] for blob in node.content or ())[:400] or ("empty" if node.type == "file" else "")


def _with_cleared(repository: Repository, job: Job, past: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """With what the runs saw that were cleared since: it was usual after all."""
    absorbed = list(past.get("absorbed", []))
    cleared = [
        one
        for one in clearances.clearances(repository).values()
        if one.job == job.job and one.decision == CLEARED and one.run not in absorbed
    ]
    by_run = {SnapshotTags.of(one).run: one for one in repository.snapshots()} if cleared else {}
    for one in cleared:
        try:
            snapshot = by_run.get(one.run) or repository.load_snapshot(one.snapshot)
            record = fingerprint_of(repository, snapshot).get("anomalies", {})
            past = carried(past, record.get("measures", {}), everything=True)
        except (NoSuchError, DamageError) as error:
            notes.append(f"what run {one.run} saw cannot be learned from: {error.message}")
        absorbed.append(one.run)
    return past | {"absorbed": absorbed[-_MOST_ABSORBED:]} if cleared else past


# what people do about it


@dataclass(frozen=True, slots=True, eq=False)
class Suspicion:
    """A suspicious snapshot, `decision` is None until somebody said something about it."""

    repository: str
    snapshot: Snapshot
    job: str
    run: str
    decision: Clearance | None = None
    signals: tuple[dict[str, Any], ...] = ()

    @property
    def open(self) -> bool:
        return self.decision is None or self.decision.decision != CLEARED

    @property
    def state(self) -> str:
        return "suspicious" if self.decision is None else self.decision.decision

    @property
    def words(self) -> str:
        return "suspicious" if self.decision is None else f"suspicious, {self.decision.decision}"


def suspicions(
    repository: Repository, name: str, snapshots: Iterable[Snapshot], decisions: Mapping[str, Clearance]
) -> list[Suspicion]:
    """Every marked snapshot among these, oldest first."""
    found = []
    for snapshot in sorted(snapshots, key=lambda one: one.time):
        tags = SnapshotTags.of(snapshot)
        if tags.ours and tags.suspicious:
            found.append(Suspicion(name, snapshot, tags.job, tags.run, decisions.get(tags.run)))
    return found


def protected(
    context: Context, job: Job, repository: Repository, name: str, snapshots: Iterable[Snapshot]
) -> dict[str, str]:
    """What retention has to keep because of a suspicious snapshot that nobody cleared, with why: that one, and everything
    older. Of a copy, what was decided in the primary counts; while that cannot be read, nothing is cleared."""
    mine = of_job(snapshots, job.job)
    marked = [one for one in mine if SnapshotTags.of(one).suspicious]
    if not marked:
        return {}
    decisions = clearances.clearances(repository)
    if name != job.repository:
        try:
            decisions |= clearances.clearances(context.resources.repository(job.repository))
        except UserError as error:
            context.reporter.event("warning", f"what was cleared in {job.repository} is not known: {error.message}")
    still = [one for one in suspicions(repository, name, marked, decisions) if one.open]
    if not still:
        return {}
    found = {one.snapshot.id: one.words for one in still}
    for one in mine:
        after = next((each.snapshot for each in still if each.snapshot.time >= one.time), None)
        if after is not None:
            found.setdefault(one.id, f"older than the suspicious {after.short_id}")
    return found


def list_suspicions(context: Context, jobs: Sequence[Job], *, every: bool) -> list[Suspicion]:
    """Those that nobody cleared, or `every` one, as the repositories of the jobs say."""
    found: list[Suspicion] = []
    for job in jobs:
        repository = context.resources.repository(job.repository)
        mine = of_job(repository.snapshots(), job.job)
        if any(SnapshotTags.of(one).suspicious for one in mine):
            decided = clearances.clearances(repository)
            found += [one for one in suspicions(repository, job.repository, mine, decided) if every or one.open]
    return [_with_signals(context, one) for one in found]


def unsettled(context: Context, job: Job, marked: Sequence[Snapshot]) -> tuple[int, list[str]]:
    """Of the job's suspicious snapshots in its repository: how many nobody has looked at, and what `status` says of those that
    nobody cleared."""
    if not marked:
        return 0, []
    repository = context.resources.repository(job.repository)
    still = [one for one in suspicions(repository, "", marked, clearances.clearances(repository)) if one.open]
    return sum(one.decision is None for one in still), [
        f"{one.snapshot.short_id} is {one.words}: what is older is kept; backupctl anomaly show {one.snapshot.short_id}"
        for one in dict.fromkeys((still[0], still[-1]) if still else ())
    ]


def remembered(context: Context, job: Job) -> tuple[int, list[str]]:
    """The same as the catalog alone knows it. Who has looked at one elsewhere has not said so here."""
    found = context.catalog.findings(job=job.job, source=FINDING, open_only=True)
    seen = {event.detail["run"] for event in context.catalog.events_of([LOOKED_AT])} if found else set()
    since = f"{iso(found[0].opened)}; backupctl anomaly list {job.job}" if found else ""
    notes = [f"{len(found)} suspicious snapshot(s) that nobody cleared, the last since {since}"] if found else []
    return sum(one.run not in seen for one in found), notes


def find_suspicion(context: Context, word: str) -> Suspicion:
    """By the snapshot's id, or a job's name for its newest one that nobody cleared. NoSuchError."""
    if word in context.settings.jobs:
        still = list_suspicions(context, [context.settings.jobs[word]], every=False)
        if not still:
            raise NoSuchError(f"no suspicious snapshot of {word}", next_step="backupctl anomaly list --all")
        return still[-1]
    repository, snapshot = locate(context, word)
    tags = SnapshotTags.of(snapshot)
    if not (tags.ours and tags.suspicious):
        raise NoSuchError(f"snapshot {snapshot.short_id} is not suspicious", next_step="backupctl anomaly list --all")
    decided = clearances.clearances(repository)
    name = repository_name(context, repository)
    return _with_signals(context, Suspicion(name, snapshot, tags.job, tags.run, decided.get(tags.run)))


def _with_signals(context: Context, one: Suspicion) -> Suspicion:
    try:
        record = fingerprint_of(context.resources.repository(one.repository), one.snapshot).get("anomalies", {})
    except (NoSuchError, DamageError) as error:
        record = {"signals": [{"name": "unreadable", "points": 0, "text": error.message}]}
    return Suspicion(one.repository, one.snapshot, one.job, one.run, one.decision, tuple(record.get("signals", ())))


def decide(context: Context, word: str, *, decision: str, reason: str) -> Suspicion:
    """Clear or acknowledge. In the job's own repository, where copies and the next run look for it. The finding is closed
    when it is cleared. UsageError without a reason."""
    if not reason.strip():
        raise UsageError("say why", next_step="--reason TEXT")
    found = find_suspicion(context, word)
    job = context.settings.jobs.get(found.job)
    repository = context.resources.repository(job.repository if job is not None else found.repository)
    clearance = Clearance(found.run, found.snapshot.id, found.job, decision, reason, actor(), context.clock.now())
    with repository.lock():
        clearances.save(repository, clearance)
    told = [row.id for row in context.catalog.alarms() if row.run == found.run]
    context.catalog.acknowledge_notices(told, f"{clearance.by}: {decision}: {reason}")
    context.audit(f"anomaly.{decision}", found.snapshot.id, job=found.job, run=found.run, reason=reason)
    if decision == CLEARED and not (job and list_suspicions(context, [job], every=False)):
        context.catalog.close_findings(found.job, FINDING, closure=f"cleared by {clearance.by}: {reason}")
    return Suspicion(found.repository, found.snapshot, found.job, found.run, clearance, found.signals)


__all__ = [
    "ACKNOWLEDGED",
    "CLEARED",
    "FINDING",
    "Assessment",
    "Parent",
    "Suspicion",
    "assess",
    "decide",
    "find_suspicion",
    "list_suspicions",
    "protected",
    "remembered",
    "unsettled",
]

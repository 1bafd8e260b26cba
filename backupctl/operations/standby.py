"""`standby refresh`: make a host what the newest snapshots hold, fetching only what differs.

Order, for each job: lock on the host → shared lock on the repository → what differs → *state: begun* → removed, placed → on the
disk → *state: whole* → record in the repository. What is gone from the backup is removed only below the standby's own marked
directory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from backupctl.clock import iso
from backupctl.config.models import Job
from backupctl.config.standby import StandbySettings
from backupctl.errors import DamageError, NoSuchError, NotFound, StorageError
from backupctl.governance import clearances
from backupctl.hosts.protocol import FileInfo, Host
from backupctl.operations.anomalies import suspicions
from backupctl.operations.context import Context
from backupctl.operations.fallback import open_snapshot
from backupctl.operations.records import SnapshotTags, load_json, of_job, save_json
from backupctl.operations.standby_kept import ServerState
from backupctl.operations.standby_place import Place
from backupctl.operations.standby_servers import Servers, warm_sources
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.mirror import MirrorPlan, apply_mirror, plan_mirror
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import RestoreProblem

RECORD = "standby"
REFRESHED, PROMOTED = "standby.refreshed", "standby.promoted"


@dataclass(slots=True)
class Refreshed:
    """What became of one job. With `problems`, it is not yet what the snapshot says."""

    job: str
    snapshot: Snapshot
    files: int = 0
    bytes: int = 0
    kept_files: int = 0
    removed: int = 0
    seconds: float = 0.0
    problems: list[RestoreProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    servers: list[ServerState] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        counts = ("files", "bytes", "kept_files", "removed", "seconds")
        return {
            "job": self.job,
            "snapshot": self.snapshot.id,
            "snapshot_time": self.snapshot.time,
            **{name: getattr(self, name) for name in counts},
            "problems": [{"path": one.path, "message": one.message} for one in self.problems],
            "warnings": len(self.warnings),
            "servers": [one.fields() for one in self.servers],
        }


def standby_of(context: Context, name: str) -> StandbySettings:
    try:
        return context.settings.standby[name]
    except KeyError:
        known = ", ".join(sorted(context.settings.standby)) or "none"
        raise NoSuchError(
            f"no standby named {name!r}; known: {known}", next_step="docs/how-to/standby.md shows how one is configured"
        ) from None


def refresh(context: Context, name: str, *, rebuild: str = "") -> Iterator[Refreshed]:
    """Every job that the standby follows, one after the other. `rebuild`: JOB/SOURCE whose server is built anew. Raises
    CouldNotRunError for a directory that is not the standby's own, LockedError, and whatever the repository or the host says."""
    settings = standby_of(context, name)
    if rebuild and not any(
        rebuild == f"{one}/{source}"
        for one in settings.jobs
        for source in warm_sources(context, settings, context.job(one))
    ):
        raise NoSuchError(f"standby {name} keeps no server {rebuild!r}", next_step=f"backupctl standby status {name}")
    place = open_place(context, name)
    place.claim(context.clock)
    with place.exclusive():
        place.refuse_promoted()
        for job_name in settings.jobs:
            yield refresh_job(context, place, settings, context.job(job_name), rebuild)


def stop(context: Context, name: str) -> Iterator[str]:
    """Stop the servers that run there; each as JOB/SOURCE. Nothing is removed."""
    settings = standby_of(context, name)
    place = open_place(context, name)
    place.require()
    with place.exclusive():
        place.refuse_promoted()
        for job_name in settings.jobs:
            job = context.job(job_name)
            yield from (f"{job_name}/{source}" for source in Servers(context, place, settings, job).stop())


def open_place(context: Context, name: str) -> Place:
    settings = standby_of(context, name)
    return Place(context.resources.host(settings.host), name, settings)


def refresh_job(
    context: Context, place: Place, settings: StandbySettings, job: Job, rebuild: str = "", *, anew: bool = True
) -> Refreshed:
    """With the lock on the host held. `rebuild` and `anew` as in `Servers.refresh`."""
    begun = time.monotonic()
    found = open_snapshot(context, job, lambda repository: newest_unsuspicious(context, repository, job))
    repository, snapshot = found.repository, found.snapshot
    done = Refreshed(job.job, snapshot)
    with repository.lock(), ExitStack() as stack:
        reader = stack.enter_context(SnapshotReader(repository, snapshot))
        state = place.state(job.job)
        olds = [
            stack.enter_context(SnapshotReader(repository, one)) for one in _olds(repository, state.mirror.snapshots)
        ]
        if len(olds) < len(state.mirror.snapshots):
            # of one that is gone nobody knows any more what may lie there
            context.reporter.event("note", f"{job.job}: a snapshot that was placed has expired: reading all anew")
            olds = []
        distrust = place.distrusted(state)
        warm = [source.encode() for source in warm_sources(context, settings, job)]
        nodes = reader.children(b"", reader.node(b""))
        sources = [node.name for node in nodes if node.type == "dir" and node.name not in warm]
        plans: list[tuple[bytes, MirrorPlan]] = []
        for source in sources:
            root = place.files(job.job) + b"/" + source
            plan = plan_mirror(reader, source, _scan(place.host, root), olds, distrust_from_ns=distrust)
            plans.append((source, plan))
        done.kept_files = sum(plan.kept_files for _, plan in plans)
        superfluous = _superfluous(place, job.job, sources)
        if not state.mirror.whole or state.mirror.snapshots != (snapshot.id,) or superfluous or _something(plans):
            place.begin(job.job, snapshot.id)
            for root in superfluous:
                place.host.remove_tree(root)
            total = sum(plan.bytes for _, plan in plans)
            for source, plan in plans:
                _apply(context, place, done, reader, source, plan, total)
            if not done.problems:
                place.end(job.job, snapshot.id)
        done.removed += len(superfluous)
        servers = Servers(context, place, settings, job)
        done.servers = list(servers.refresh(repository, snapshot, rebuild, anew=anew))
        _remember(context, place, job, repository, done)
    done.seconds = time.monotonic() - begun
    return done


def _something(plans: list[tuple[bytes, MirrorPlan]]) -> bool:
    return any(not plan.nothing for _, plan in plans)


def _apply(
    context: Context,
    place: Place,
    done: Refreshed,
    reader: SnapshotReader,
    source: bytes,
    plan: MirrorPlan,
    total: int,
) -> None:
    root = place.files(done.job) + b"/" + source
    before = done.bytes

    def progress(files: int, size: int, path: bytes) -> None:
        context.reporter.progress("refreshing", before + size, total, item=path.decode("utf-8", "backslashreplace"))

    def problem(one: RestoreProblem) -> None:
        context.reporter.event("problem", f"/{one.path}: {one.message}", path=one.path)

    place.host.make_directory(root, mode=0o711)
    with place.host.placer(root) as placer:
        stats = apply_mirror(reader, source, placer, plan, progress=progress, on_problem=problem)
    done.files += stats.restored_files
    done.bytes += stats.restored_bytes
    done.removed += len(plan.remove)
    done.problems += stats.problems
    done.warnings += stats.warnings


def _scan(host: Host, root: bytes) -> Iterator[FileInfo]:
    """What lies below a directory, by names relative to it; nothing where there is none."""
    if host.stat(root) is None:
        return
    for info in host.scan(root):
        if info.path != root:
            yield replace(info, path=info.path[len(root) + 1 :])


def _superfluous(place: Place, job: str, sources: list[bytes]) -> list[bytes]:
    """Directories of sources that the snapshot does not hold."""
    root = place.files(job)
    there = place.host.list_directory(root) if place.host.stat(root) is not None else []
    return [root + b"/" + name for name in there if name not in sources]


def _olds(repository: Repository, ids: tuple[str, ...]) -> Iterator[Snapshot]:
    for one in ids:
        with suppress(NotFound, DamageError):
            yield repository.read_snapshot(one)


def newest_unsuspicious(context: Context, repository: Repository, job: Job) -> Snapshot:
    """The newest complete snapshot that nobody has to look at first: a standby that follows an attack is attacked too."""
    complete = of_job(repository.snapshots(), job.job, complete_only=True)
    decided = clearances.clearances(repository) if any(SnapshotTags.of(one).suspicious for one in complete) else {}
    suspect = {one.snapshot.id for one in suspicions(repository, "", complete, decided) if one.open}
    good = [one for one in complete if one.id not in suspect]
    if not good:
        what = "all look attacked" if complete else "there is no complete one"
        raise NoSuchError(
            f"job {job.job} has no snapshot that a standby could follow: {what}",
            next_step=f"backupctl anomaly list {job.job}" if complete else f"backupctl run {job.job}",
        )
    passed = [one for one in complete if one.time > good[-1].time]
    if passed:
        context.reporter.event(
            "warning",
            f"{job.job}: {len(passed)} newer snapshot(s) look attacked and were passed over, the newest {passed[-1].short_id}",
            job=job.job,
        )
    return good[-1]


def _remember(context: Context, place: Place, job: Job, repository: Repository, done: Refreshed) -> None:
    """In the repository, for every machine; in the catalog, for the page that has no key."""
    facts = {
        "standby": place.name,
        "job": job.job,
        "host": place.host.name,
        "snapshot": done.snapshot.id,
        "snapshot_time": iso(done.snapshot.time),
        "whole": not done.problems,
        "refreshed": iso(context.clock.now()),
        "servers": {
            one.source: {
                "kind": one.kind,
                "lsn": one.lsn,
                "commit": iso(one.commit),
                "archived": iso(one.archived),
                "recovering": one.recovering,
            }
            for one in done.servers
        },
    }
    older = [one for one in records_of(repository) if (one[1]["standby"], one[1]["job"]) == (place.name, job.job)]
    save_json(repository, RECORD, facts)
    for record, _ in older:
        with suppress(StorageError):  # a store that keeps everything keeps these too
            repository.delete_record(RECORD, record)
    before = older[-1][1] if older else {}
    if any(before.get(key) != facts[key] for key in ("snapshot", "whole", "host", "servers")):
        context.audit(REFRESHED, place.name, **facts)


def records_of(repository: Repository) -> Iterator[tuple[str, dict[str, Any]]]:
    """What refreshes left in a repository, oldest first; what cannot be read says nothing, and is told by `check`."""
    found = []
    for record in repository.records(RECORD):
        with suppress(NoSuchError, DamageError):
            facts = load_json(repository, RECORD, record)
            if all(
                isinstance(facts.get(key), str)
                for key in ("standby", "job", "host", "snapshot", "snapshot_time", "refreshed")
            ):
                found.append((record, facts))
    yield from sorted(found, key=lambda one: str(one[1]["refreshed"]))

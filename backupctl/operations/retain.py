"""Retention: what the policy would keep and why, then (only when told) forget and prune."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from backupctl.config.models import Job
from backupctl.errors import DamageError, NoSuchError, UserError
from backupctl.governance.holds import held
from backupctl.operations.anomalies import protected
from backupctl.operations.context import Context
from backupctl.operations.copy import held_in_primary
from backupctl.operations.records import SnapshotTags, of_job
from backupctl.operations.wal_expiry import expired_log
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.prune import PruneLimits, PrunePlan, PruneStats, apply_prune, plan_prune
from backupctl.repository.repository import Repository
from backupctl.repository.retention import Decision, RetentionItem, RetentionPolicy, plan_retention


@dataclass(slots=True)
class RetentionPreview:
    """For one repository: every snapshot of the chosen jobs with the rules that keep it, and what space would come back;
    or the damage because of which that cannot be said, nor anything be deleted; or why a copy could not be looked at."""

    repository: str
    decisions: list[tuple[str, Decision]] = field(default_factory=list)  # (job, decision), oldest first
    prune: PrunePlan | None = None
    damage: UserError | None = None
    expired_log: int = 0  # segments of servers' logs that lie before every base backup that stays

    @property
    def forget(self) -> list[tuple[str, Decision]]:
        return [(job, decision) for job, decision in self.decisions if not decision.keep]


def preview(context: Context, jobs: Sequence[Job], *, max_repack: int | None = None) -> list[RetentionPreview]:
    """Decide, change nothing. Jobs without a retention policy keep everything and are left out, said so. `max_repack`
    (bytes) goes before what the configuration says."""

    def look(name: str, members: Sequence[Job]) -> RetentionPreview:
        repository = context.resources.repository(name)
        with repository.lock(exclusive=False):
            decided = _preview(context, name, repository, members, repository.snapshots())
            forgotten = {decision.item.id for _, decision in decided.forget}
            try:
                decided.prune = plan_prune(repository, _limits(context, name, max_repack), without=forgotten)
            except DamageError as error:
                decided.damage = error
            else:
                decided.expired_log = len(expired_log(repository, forgotten))
        return decided

    return list(_each(jobs, _by_repository(context, jobs), look))


def apply(
    context: Context, jobs: Sequence[Job], *, max_repack: int | None = None
) -> list[tuple[RetentionPreview, PruneStats]]:
    """Forget what the policy does not keep, then prune, under an exclusive lock and from a decision made inside it. Where
    something that decides what is needed cannot be read, nothing is forgotten either: DamageError.

    Order: snapshots first, data later. A crash in between leaves data that nothing refers to; the next prune removes it."""

    def progress(done: int, total: int) -> None:
        context.reporter.progress("rewriting packs", done, total)

    done = []

    def act(name: str, members: Sequence[Job]) -> RetentionPreview:
        repository = context.resources.repository(name)
        repository.require_writable()  # before anything is forgotten
        with repository.lock(exclusive=True):
            decided = _preview(context, name, repository, members, repository.snapshots())
            forgotten = {decision.item.id for _, decision in decided.forget}
            # before anything goes: in a damaged repository an older snapshot may be the last whole one
            plan = plan_prune(repository, _limits(context, name, max_repack), without=forgotten)
            expired = expired_log(repository, forgotten)
            for job, decision in decided.forget:
                repository.delete_snapshot(decision.item.id)
                context.catalog.forget_snapshot(name, decision.item.id)
                context.audit("snapshot.forgotten", decision.item.id, job=job, repository=name)
            stats = apply_prune(repository, plan, progress=progress)
            for archive, segment in expired:
                archive.delete(segment)
            decided.expired_log = len(expired)
        context.audit("repository.pruned", name, deleted_bytes=plan.freed_bytes)
        decided.prune = plan
        done.append((decided, stats))
        return decided

    for decided in _each(jobs, _by_repository(context, jobs), act):
        if decided.damage is not None:
            done.append((decided, PruneStats()))
    return done


def _each(
    jobs: Sequence[Job], grouped: dict[str, list[Job]], do: Callable[[str, Sequence[Job]], RetentionPreview]
) -> Iterator[RetentionPreview]:
    """`do` for every repository, those that jobs back up to first. A copy that cannot be reached keeps nothing else
    waiting; what failed is in its preview."""
    primary = {job.repository for job in jobs}
    for name in sorted(grouped, key=lambda name: name not in primary):
        try:
            yield do(name, grouped[name])
        except UserError as error:
            if name in primary:
                raise
            yield RetentionPreview(name, damage=error)


def _limits(context: Context, repository: str, max_repack: int | None) -> PruneLimits:
    settings = context.settings.repositories[repository].prune
    return PruneLimits(settings.max_unused, settings.max_repack if max_repack is None else max_repack)


def _by_repository(context: Context, jobs: Sequence[Job]) -> dict[str, list[Job]]:
    grouped: dict[str, list[Job]] = {}
    for job in jobs:
        if job.retention is None:
            context.reporter.event(
                "note", f"job {job.job} has no retention policy: all its snapshots are kept", job=job.job
            )
            continue
        for name in (job.repository, *job.copies):
            grouped.setdefault(name, []).append(job)
    if not grouped:
        raise NoSuchError("none of these jobs has a retention policy", next_step="add `retention:` to the job")
    return grouped


def _preview(
    context: Context, name: str, repository: Repository, jobs: Sequence[Job], snapshots: Sequence[Snapshot]
) -> RetentionPreview:
    result = RetentionPreview(name)
    for job in jobs:
        assert job.retention is not None
        holds = held(repository, context.clock.now())
        if name != job.repository:
            holds |= held_in_primary(context, job, snapshots)
        items = [
            RetentionItem(one.id, one.time, complete=SnapshotTags.of(one).complete)
            for one in of_job(snapshots, job.job)
        ]
        if not items:
            continue
        decisions = plan_retention(
            items,
            RetentionPolicy(**dict(job.retention)),
            now=context.clock.now(),
            zone=job.timezone,
            held=holds,
            suspicion=protected(context, job, repository, name, snapshots),
        )
        result.decisions += [(job.job, decision) for decision in decisions]
    return result

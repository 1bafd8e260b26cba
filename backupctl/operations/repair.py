"""Repairing a repository: its index, its packs, its snapshots. Each plans, and acts only when told to; what would be deleted
is decided under the same exclusive lock as it is deleted under.

All is judged by the store alone, never by the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from backupctl.errors import DamageError, NoSuchError, UnreachableError, UsageError, UserError
from backupctl.governance import holds
from backupctl.operations.browse import repository_names
from backupctl.operations.context import Context, actor
from backupctl.operations.copy import remember
from backupctl.operations.packs import bad_packs
from backupctl.operations.records import SnapshotTags, readable
from backupctl.repository.adoption import compare_packs
from backupctl.repository.check_trees import CheckProblem
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repair_index import IndexPlan, apply_index, plan_index
from backupctl.repository.repair_packs import PacksPlan, RepairedPacks, apply_packs, plan_packs, suspected
from backupctl.repository.repair_snapshots import SnapshotRepair, apply_snapshot, plan_snapshots
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.survey import Survey
from backupctl.repository.unlisted import pack_of


@dataclass(slots=True)
class Repair:
    """`unreadable`: why a snapshot file cannot be read, so that nobody knows what it needs. `problems`: what stays lost.
    `needs_index`, `needs_packs`: another repair comes first."""

    repository: str
    applied: bool
    unreadable: dict[str, str] = field(default_factory=dict)
    problems: list[CheckProblem] = field(default_factory=list)
    needs_index: bool = False
    needs_packs: bool = False

    @property
    def exit_code(self) -> int:
        return DamageError.exit_code if self.unreadable or self.problems or self.needs_index else 0


@dataclass(slots=True)
class IndexRepair(Repair):
    plan: IndexPlan = field(default_factory=IndexPlan)
    written: int = 0  # index files


@dataclass(slots=True)
class PacksRepair(Repair):
    plan: PacksPlan | None = None
    copies: list[str] = field(default_factory=list)  # that were asked
    done: RepairedPacks | None = None


@dataclass(slots=True)
class RepairedSnapshot:
    repair: SnapshotRepair
    made: str = ""  # id of the repaired snapshot, once it is there
    forgotten: bool = False
    held: str = ""  # why it may not be forgotten


@dataclass(slots=True)
class SnapshotsRepair(Repair):
    snapshots: list[RepairedSnapshot] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)  # of those that cannot be read

    @property
    def exit_code(self) -> int:
        left = set(self.unreadable).difference(self.forgotten)
        whole = not left and not self.needs_index and all(one.forgotten for one in self.snapshots)
        return 0 if whole else DamageError.exit_code


def repair_index(context: Context, name: str, *, read_all: bool = False, apply: bool = False) -> IndexRepair:
    """List what is there. Raises LockedError."""

    def progress(done: int, total: int) -> None:
        context.reporter.progress("reading pack headers", done, total, unit="packs")

    with _opened(context, name, exclusive=apply) as repository:
        plan = plan_index(repository, read_all=read_all, progress=progress)
        result = IndexRepair(name, apply, plan=plan)
        snapshots = _snapshots(repository, result)
        suspects = compare_packs(repository).lost.keys() - set(plan.wrong)
        survey = Survey(repository, snapshots, suspects, extra=plan.found)
        result.problems = survey.problems()
        result.needs_packs = bool(survey.damaged or survey.missing or plan.damaged)
        if apply and plan:
            result.written = apply_index(repository, plan)
            context.audit(
                "index.repaired",
                name,
                listed=len(plan.unlisted),
                corrected=len(plan.wrong),
                dropped=len(plan.gone),
                replaced=len(plan.replace),
            )
    return result


def repair_packs(
    context: Context, name: str, packs: Sequence[str] = (), sources: Sequence[str] = (), *, apply: bool = False
) -> PacksRepair:
    """`packs`: names or beginnings of ids; none: those that are known to be damaged. `sources`: the repositories to take
    from; none: the copies of the jobs that use this one, and what it is a copy of. Raises LockedError, NoSuchError."""
    repository_names(context, [name, *sources])

    def progress(done: int, total: int) -> None:
        context.reporter.progress("storing anew", done, total, unit="blobs")

    with _opened(context, name, exclusive=apply) as repository, ExitStack() as stack:
        result = PacksRepair(name, apply)
        copies = _open_copies(context, sources or copies_of(context, name), repository, stack)
        result.copies = list(copies)
        snapshots = _snapshots(repository, result)
        suspects = _named(repository, packs) if packs else suspected(repository, bad_packs(context, name))
        result.plan = plan = plan_packs(repository, snapshots, suspects, list(copies.values()))
        result.problems = plan.survey.problems()
        result.needs_index = bool(plan.mislisted)
        if apply and plan:
            result.done = apply_packs(repository, plan, progress=progress)
            if result.done.failed:  # a copy that lists what it cannot give
                result.problems = Survey(repository, snapshots, suspected(repository)).problems()
            context.audit(
                "packs.repaired",
                name,
                deleted=[pack_name(pack) for pack in plan.damaged],
                salvaged=result.done.salvaged,
                fetched=result.done.fetched,
                lost=len(plan.survey.lost) + len(result.done.failed),
            )
    return result


def repair_snapshots(
    context: Context, name: str, words: Sequence[str] = (), *, forget: bool = False, apply: bool = False
) -> SnapshotsRepair:
    """`words`: ids of snapshots; none: all that lost something. With `forget` the broken ones go, those that cannot be read
    at all only when they are named, and none that is held. Raises LockedError, NoSuchError; DamageError while the index
    must be repaired first, UnreachableError while a copy cannot be asked."""
    with _opened(context, name, exclusive=apply and forget) as repository, ExitStack() as stack:
        result = SnapshotsRepair(name, apply)
        held = holds.held(repository, context.clock.now())
        wanted = copies_of(context, name)
        copies = _open_copies(context, wanted, repository, stack)
        snapshots = _snapshots(repository, result)
        chosen = _chosen(repository, words, snapshots, result.unreadable)
        survey = Survey(
            repository, snapshots, suspected(repository, bad_packs(context, name)), copies=list(copies.values())
        )
        named = {snapshot.id for snapshot in chosen}
        result.problems = [one for one in survey.problems() if named.intersection(one.snapshots)]
        result.needs_index = bool(survey.unlisted)
        result.snapshots = [
            RepairedSnapshot(one, held=held.get(one.snapshot.id, "")) for one in plan_snapshots(survey, chosen)
        ]
        result.needs_packs = any(one.repair.waits for one in result.snapshots)
        if words:
            result.unreadable = {one: why for one, why in result.unreadable.items() if _is_named(one, words)}
        if not apply:
            return result
        if result.needs_index:
            raise DamageError(
                f"{name}: what snapshots need lies in packs that no index lists",
                name=name,
                next_step=f"backupctl repair index {name} --apply, then this again",
            )
        if result.snapshots and (unasked := [one for one in wanted if one not in copies]):
            raise UnreachableError(
                f"{name}: {', '.join(unasked)} may still have what is lost here, and cannot be asked",
                next_step=f"bring it back, or take it out of `copies`; then: backupctl repair snapshots {name}",
            )
        repository.distrust(survey.damaged)
        for one in result.snapshots:
            if not one.repair.waits:
                _replace(context, name, repository, survey, one, forget=forget)
        for snapshot_id in result.unreadable if words and forget else ():
            if snapshot_id not in held:
                _forget(context, name, repository, snapshot_id)
                result.forgotten.append(snapshot_id)
    return result


def _replace(
    context: Context, name: str, repository: Repository, survey: Survey, one: RepairedSnapshot, *, forget: bool
) -> None:
    """Order: snapshot → hold → the broken one goes. By its age alone retention would let an incomplete snapshot go at once,
    so the repaired one is held until somebody has seen to it."""
    old, present = one.repair.snapshot, one.repair.present
    made = apply_snapshot(repository, survey, one.repair)
    if made is not None:
        one.made = made.id
        holds.place(
            repository,
            context.catalog,
            repository_name=name,
            snapshot=made.id,
            reason=f"repaired: what is left of {old.short_id}",
            owner=actor(),
            expires=None,
            clock=context.clock,
            by=actor(),
        )
        if present is None:
            if SnapshotTags.of(made).fingerprint:
                remember(context, name, repository, made, 0)
            context.audit(
                "snapshot.repaired", old.id, repository=name, snapshot=made.id, lost_paths=len(one.repair.paths)
            )
    if forget and not one.held:
        _forget(context, name, repository, old.id)
        one.forgotten = True


def _forget(context: Context, name: str, repository: Repository, snapshot_id: str) -> None:
    repository.delete_snapshot(snapshot_id)
    context.catalog.forget_snapshot(name, snapshot_id)
    context.audit("snapshot.forgotten", snapshot_id, repository=name, why="broken")


@contextmanager
def _opened(context: Context, name: str, *, exclusive: bool) -> Iterator[Repository]:
    repository_names(context, [name])
    repository = context.resources.repository(name)
    repository.bypass_cache()
    with repository.lock(exclusive=exclusive):
        yield repository


def _snapshots(repository: Repository, result: Repair) -> list[Snapshot]:
    """Those that can be read; why another cannot goes to the result."""
    problems: list[str] = []
    found = readable(repository, problems)
    known = {snapshot.id for snapshot in found}
    for snapshot_id in repository.snapshot_ids():
        if snapshot_id not in known:
            said = next((text for text in problems if snapshot_id in text), "it cannot be read")
            result.unreadable[snapshot_id] = said
    return found


def copies_of(context: Context, name: str) -> list[str]:
    """The repositories that may hold the same snapshots: of every job that uses this one, its own and its copies."""
    found: dict[str, None] = {}
    for job in context.settings.jobs.values():
        places = [job.repository, *job.copies]
        if name in places:
            found.update(dict.fromkeys(places))
    found.pop(name, None)
    return list(found)


def _open_copies(
    context: Context, names: Sequence[str], repository: Repository, stack: ExitStack
) -> dict[str, Repository]:
    """Each under a shared lock, so that no prune takes away what is counted on. One that cannot be used is passed over,
    said so. Raises UsageError for the repository itself."""
    found = {}
    for name in names:
        try:
            copy = context.resources.repository(name)
            if copy.id == repository.id:
                raise UsageError(f"{name} is the repository that is to be repaired", next_step="name a copy of it")
            stack.enter_context(copy.lock())
            copy.distrust(compare_packs(copy).lost)
        except UsageError:
            raise
        except UserError as error:
            context.reporter.event("warning", f"{name} cannot be asked: {error.message}", repository=name)
            continue
        found[name] = copy
    return found


def _named(repository: Repository, words: Sequence[str]) -> set[bytes]:
    """The packs of the index that these words mean. Raises NoSuchError."""
    found = set()
    for word in words:
        if (pack := pack_of(word)) is not None:
            matching = [pack] if pack in repository.index.packs else []
        else:
            matching = [pack for pack in repository.index.packs if word and pack.hex().startswith(word.lower())]
        if len(matching) != 1:
            what = f"{len(matching)} packs begin with" if matching else "no index lists a pack"
            raise NoSuchError(f"{what} {word}", next_step="give the name that `backupctl check` prints")
        found.add(matching[0])
    return found


def _chosen(
    repository: Repository, words: Sequence[str], snapshots: Sequence[Snapshot], unreadable: dict[str, str]
) -> list[Snapshot]:
    """Raises NoSuchError for a word that no snapshot, or more than one, begins with."""
    if not words:
        return list(snapshots)
    found: dict[str, Snapshot] = {}
    for word in words:
        if sum(one.startswith(word) for one in unreadable) == 1 and not any(
            one.id.startswith(word) for one in snapshots
        ):
            continue
        snapshot = repository.load_snapshot(word)
        found[snapshot.id] = snapshot
    return list(found.values())


def _is_named(snapshot_id: str, words: Sequence[str]) -> bool:
    return any(snapshot_id.startswith(word) for word in words)

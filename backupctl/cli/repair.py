"""`repair`: the index, the packs, the snapshots of a damaged repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backupctl.cli import completing
from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, size

if TYPE_CHECKING:
    from backupctl.operations.repair import IndexRepair, PacksRepair, Repair, SnapshotsRepair

_REPOSITORY = click.argument("repository", shell_complete=completing.repositories)
_APPLY = click.option("--apply", "really", is_flag=True, help="Do it.")


@click.group(cls=Group)
def repair() -> None:
    """Repair a damaged repository: show what would be done, do it with --apply.

    In this order, as far as `backupctl check --read-data` asks for it: the index, then packs, for which copies give what
    is lost here, and only then snapshots, for what nobody has any more.

    Exit code: 0 nothing to do or all repaired, 4 something is lost or stays so, 11 somebody else is at work.
    """


@repair.command()
@_REPOSITORY
@click.option("--read-all-packs", is_flag=True, help="Hold every listing against the pack's own header.")
@_APPLY
def index(repository: str, read_all_packs: bool, really: bool) -> int:
    """Make the index of REPOSITORY right again, from the headers of the packs.

    Packs that no index file lists are listed, those that one lists wrongly are listed as they are, those that are gone are
    listed no more. No pack is touched.
    """
    from backupctl.operations import repair as operation

    result = operation.repair_index(open_context(), repository, read_all=read_all_packs, apply=really)
    _tell_index(result)
    _tell_rest(result)
    if result.needs_packs:
        _next(f"backupctl repair packs {repository}")
    elif result.plan and not really:
        _next(f"backupctl repair index {repository}{' --read-all-packs' if read_all_packs else ''} --apply")
    elif really and result.plan:
        _next(f"backupctl check {repository}")
    return result.exit_code


def _tell_index(result: IndexRepair) -> None:
    plan, output = result.plan, output_of()
    for name, why in plan.bad_files.items():
        output.event("problem", f"{why}: it is replaced", object=name)
    for name, why in {**plan.damaged, **plan.headless}.items():
        left = "stays listed as it is" if name in plan.damaged else "is in no index, and nobody can tell what it holds"
        output.event("problem", f"{name} {left}: {why}", object=name)
    for pack in sorted(plan.gone):
        output.event("problem", f"{_name(pack)} is gone, {count(plan.gone[pack], 'blob')} with it", object=_name(pack))
    parts = [
        f"{count(len(plan.unlisted), 'pack')} in no index listed" if plan.unlisted else "",
        f"{count(len(plan.wrong), 'pack')} listed as they are" if plan.wrong else "",
        f"{count(len(plan.gone), 'pack')} that are gone listed no more" if plan.gone else "",
    ]
    told = ", ".join(filter(None, parts)) or "every pack is listed"
    told += f"; {count(len(plan.replace), 'index file')} replaced" if plan.replace else ""
    _result(
        result,
        told if plan else "nothing to do: the index is right",
        list_packs=len(plan.unlisted),
        correct_packs=len(plan.wrong),
        drop_packs=len(plan.gone),
        replace_indexes=len(plan.replace),
        unreadable_packs=[*plan.headless, *plan.damaged],
        written_indexes=result.written,
    )


@repair.command()
@_REPOSITORY
@click.argument("pack_names", nargs=-1, metavar="[PACK]...")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="REPOSITORY",
    help="Take what is lost from here (default: the copies of the jobs that use REPOSITORY).",
    shell_complete=completing.repositories,
)
@_APPLY
def packs(repository: str, pack_names: tuple[str, ...], sources: tuple[str, ...], really: bool) -> int:
    """Write damaged packs of REPOSITORY anew, with what they still give and what a copy has.

    PACK: as `backupctl check` names it, or the beginning of its id. Without any: packs that are missing or cut, and those
    that a check found bad. What snapshots need of packs that are in no index any more is taken from copies too. What cannot
    be found anywhere is named, with the snapshots and paths it hits.
    """
    from backupctl.operations import repair as operation

    result = operation.repair_packs(open_context(), repository, pack_names, sources, apply=really)
    _tell_packs(result)
    _tell_rest(result)
    again = "".join(f" {pack}" for pack in pack_names) + "".join(f" --from {name}" for name in sources)
    if result.needs_index:
        _next(f"backupctl repair index {repository}")
    elif result.plan and not really:
        _next(f"backupctl repair packs {repository}{again} --apply")
    elif result.problems:
        _next(
            f"another copy: backupctl repair packs {repository} --from …; else: backupctl repair snapshots {repository}"
        )
    elif result.plan:
        _next(f"backupctl check --read-data {repository}")
    return result.exit_code


def _tell_packs(result: PacksRepair) -> None:
    plan, done, output = result.plan, result.done, output_of()
    assert plan is not None
    for pack in sorted(plan.damaged.values(), key=lambda one: one.name):
        good = pack.blobs - len(pack.bad)
        output.event(
            "problem",
            f"{pack.name}: {pack.why}; {good} of {count(pack.blobs, 'blob')} can be read",
            object=pack.name,
            blobs=pack.blobs,
            readable=good,
        )
    for pack in sorted(plan.mislisted.values(), key=lambda one: one.name):
        output.event("problem", f"{pack.name}: {pack.why}: left alone until the index is right", object=pack.name)
    holders = list(plan.fetch.values())
    fetch = {name: holders.count(number) for number, name in enumerate(result.copies) if number in holders}
    parts = [f"{count(len(plan.damaged), 'damaged pack')} cleared away" if plan.damaged else ""]
    parts += [f"{count(plan.salvage, 'blob')} of them kept" if plan.salvage else ""]
    parts += [f"{count(number, 'blob')} from {name}" for name, number in fetch.items()]
    parts.append(f"{count(len(plan.adopt), 'pack')} in no index listed" if plan.adopt else "")
    if lost := len(plan.survey.lost) + (len(done.failed) if done else 0):
        parts.append(f"{count(lost, 'blob')} that snapshots need LOST")
        if not result.copies:
            output.event("note", f"no copy of {result.repository} was asked: none is configured or can be opened")
    if done is not None:
        parts.append(f"{size(done.new_bytes)} stored")
    _result(
        result,
        ", ".join(filter(None, parts)) or "nothing to do: no damaged pack is known, and nothing is missing",
        packs=sorted(pack.name for pack in plan.damaged.values()),
        salvage_blobs=plan.salvage,
        fetch_blobs=fetch,
        list_packs=len(plan.adopt),
        lost_blobs=lost,
        deleted_packs=done.deleted_packs if done else 0,
        stored_bytes=done.new_bytes if done else 0,
    )


@repair.command()
@_REPOSITORY
@click.argument("snapshot_ids", nargs=-1, metavar="[SNAPSHOT]...")
@click.option("--forget", is_flag=True, help="Forget the broken ones, but for those that are held.")
@_APPLY
def snapshots(repository: str, snapshot_ids: tuple[str, ...], forget: bool, really: bool) -> int:
    """Save what is left of each SNAPSHOT of REPOSITORY (default: all) that lost content for good, as a new snapshot.

    A file that lacks a part is left out, a directory whose list is lost stays empty. The new snapshot is tagged `repaired`
    and `incomplete`: it never counts as a backup for `status`, and a drill of it says what is lacking. It is held, for
    retention would let it go; release it when nobody needs it. What a copy still has is no loss: `backupctl repair packs`.
    """
    from backupctl.operations import repair as operation

    result = operation.repair_snapshots(open_context(), repository, snapshot_ids, forget=forget, apply=really)
    _tell_snapshots(result, forget)
    again = "".join(f" {one}" for one in snapshot_ids)
    if result.needs_index:
        _next(f"backupctl repair index {repository}")
    elif result.needs_packs:
        _next(f"backupctl repair packs {repository}")
    elif result.snapshots and not really:
        _next(f"backupctl repair snapshots {repository}{again}{' --forget' if forget else ''} --apply")
    elif really and result.snapshots and not forget:
        _next(f"compare, then let the broken ones go: backupctl repair snapshots {repository}{again} --forget --apply")
    elif really and result.snapshots:
        _next(f"backupctl check {repository}")
    return result.exit_code


def _tell_snapshots(result: SnapshotsRepair, forget: bool) -> None:
    output = output_of()
    _tell_unreadable(result)
    for one in result.snapshots:
        repair, old = one.repair, one.repair.snapshot
        lacks = ", ".join(repair.paths[:10])
        lacks += f" and {len(repair.paths) - 10} more" if len(repair.paths) > 10 else ""
        if repair.waits:
            fate = "a copy still has something of it: left alone"
        elif repair.tree is None:
            fate = "nothing of it can be reached any more"
        elif one.made:
            fate = f"what is left is in {one.made[:8]}"
        elif repair.present is not None:
            fate = f"what is left is in {repair.present.short_id} already"
        else:
            fate = "the rest would become a new snapshot"
        if one.forgotten:
            fate += "; forgotten"
        elif forget and one.held:
            fate += f"; NOT forgotten, it is held: {one.held}"
        elif forget and not result.applied and not repair.waits:
            fate += "; it would be forgotten"
        output.event(
            "problem",
            f"snapshot {old.short_id} lost {lacks}: {fate}",
            snapshot=old.id,
            paths=repair.paths if output.json_lines else [],
            repaired=one.made or (repair.present.id if repair.present else ""),
            forgotten=one.forgotten,
            hold=one.held,
        )
    broken, made = len(result.snapshots), sum(bool(one.made) for one in result.snapshots)
    gone = sum(one.forgotten for one in result.snapshots) + len(result.forgotten)
    text = f"{count(broken, 'broken snapshot')}"
    text += f": {made} repaired, {gone} forgotten" if result.applied else ""
    _result(
        result,
        text if broken or result.unreadable else "nothing to do: no snapshot lost anything",
        broken=broken,
        repaired=made,
        forgotten=gone,
    )


def _name(pack: bytes) -> str:
    from backupctl.repository.repository import pack_name

    return pack_name(pack)


def _tell_unreadable(result: Repair) -> None:
    for snapshot_id, why in result.unreadable.items():
        output_of().event("problem", f"{why}: nobody can tell what it needs", snapshot=snapshot_id)


def _tell_rest(result: Repair) -> None:
    """What stays lost."""
    from backupctl.operations.check import facts_of, told

    _tell_unreadable(result)
    for problem in result.problems:
        output_of().event("problem", f"lost: {told(problem)}", **facts_of(problem))


def _result(result: Repair, text: str, **fields: Any) -> None:
    kind = "repaired" if result.applied else "plan"
    would = "" if result.applied or text.startswith("nothing") else "would be done: "
    output_of().result(kind, f"{result.repository}: {would}{text}", repository=result.repository, **fields)


def _next(command: str) -> None:
    output_of().event("next", f"next: {command}")

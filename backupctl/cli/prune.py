"""`prune`: retention, previewed unless told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, size

if TYPE_CHECKING:
    from backupctl.repository.prune import PrunePlan


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    from backupctl.hosts.sizes import parse_size

    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


@click.command(cls=Common)
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=completing.jobs)
@click.option("--apply", "really", is_flag=True, help="Forget what no rule keeps, then free its space.")
@click.option(
    "--max-repack",
    metavar="SIZE",
    callback=_bytes,
    help="Write at most so much anew, such as 20GiB, the most wasteful packs first; 0: only delete whole packs.",
)
def prune(jobs: tuple[str, ...], really: bool, max_repack: int | None) -> int:
    """Show what the retention policy of each JOB (default: all) keeps, and by which rule, and what it would remove, in its
    repository and in its copies.

    Nothing is removed without --apply. Held snapshots stay. An incomplete snapshot never makes a complete one expire.
    """
    from backupctl.operations import retain

    context = open_context()
    output = output_of()
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    done = (
        retain.apply(context, chosen, max_repack=max_repack)
        if really
        else [(one, None) for one in retain.preview(context, chosen, max_repack=max_repack)]
    )
    for preview, stats in done:
        if preview.damage is not None and not preview.decisions:
            continue  # a copy that could not be looked at: told below
        rows = [
            {
                "job": job,
                "snapshot": decision.item.id if output.json_lines else decision.item.id[:8],
                "snapshot_time": decision.item.time,
                "action": "keep" if decision.keep else ("removed" if really else "remove"),
                "because": list(decision.reasons) or ["no rule keeps it"]
                if output.json_lines
                else "; ".join(decision.reasons) or "no rule keeps it",
                "repository": preview.repository,
            }
            for job, decision in preview.decisions
        ]
        output.table(
            "retention",
            rows,
            ("job", "snapshot", "snapshot_time", "action", "because"),
            empty=f"{preview.repository}: no snapshot",
        )
        removed = len(preview.forget)
        if preview.prune is not None:
            output.result(
                "plan",
                f"{preview.repository}: {_told(preview.prune, really)}",
                repository=preview.repository,
                **_numbers(preview.prune),
            )
        if stats is None:
            text = f"{preview.repository}: {removed} of {count(len(rows), 'snapshot')} would be removed"
            if preview.expired_log:
                text += f", and {count(preview.expired_log, 'log segment')} before every base backup that stays"
            if removed or preview.prune or preview.expired_log:
                text += "; do it with: backupctl prune --apply" + "".join(f" {name}" for name in jobs)
            output.result(
                "preview",
                text,
                repository=preview.repository,
                remove=removed,
                keep=len(rows) - removed,
                log_segments=preview.expired_log,
            )
        else:
            output.result(
                "pruned",
                f"{preview.repository}: {count(removed, 'snapshot')} removed, {size(stats.freed_bytes)} freed, "
                f"{count(stats.repacked_packs, 'pack')} repacked"
                + (f", {count(preview.expired_log, 'log segment')} removed" if preview.expired_log else ""),
                repository=preview.repository,
                removed=removed,
                log_segments=preview.expired_log,
                freed_bytes=stats.freed_bytes,
                repacked_packs=stats.repacked_packs,
                written_bytes=stats.new_bytes,
                deleted_packs=stats.deleted_packs,
            )
    for preview, _ in done:
        if preview.damage is not None:
            raise preview.damage
    return 0


def _told(plan: PrunePlan, really: bool) -> str:
    """One sentence: total, to free, to rewrite, left."""
    text = f"{size(plan.total_bytes)} stored{' before' if really else ''}, "
    text += f"{size(plan.freed_bytes)} {'were' if really else 'to be'} freed"
    if plan.repack:
        text += f" ({size(plan.moved_bytes)} in {count(len(plan.repack), 'pack')} rewritten for it)"
    text += f", {size(plan.left_bytes)} unused left"
    if plan.waiting_packs:
        text += f"; {count(plan.waiting_packs, 'pack')} more for the next time (--max-repack)"
    if plan.young_packs:
        text += f"; {count(plan.young_packs, 'pack')} in no index may belong to a writer and stay for an hour"
    return text


def _numbers(plan: PrunePlan) -> dict[str, int]:
    return {
        "total_bytes": plan.total_bytes,
        "free_bytes": plan.freed_bytes,
        "rewrite_bytes": plan.moved_bytes,
        "unused_bytes": plan.left_bytes,
        "keep_packs": plan.keep,
        "delete_packs": len(plan.delete),
        "rewrite_packs": len(plan.repack),
        "waiting_packs": plan.waiting_packs,
        "unindexed_packs": len(plan.unindexed),
        "young_packs": plan.young_packs,
        "replace_indexes": len(plan.indexes),
        "orphan_records": len(plan.orphan_records),
    }

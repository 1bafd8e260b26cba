"""`prune`: retention, previewed unless told otherwise."""

from __future__ import annotations

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, size


@click.command(cls=Common)
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=completing.jobs)
@click.option("--apply", "really", is_flag=True, help="Forget what no rule keeps, then free its space.")
def prune(jobs: tuple[str, ...], really: bool) -> int:
    """Show what the retention policy of each JOB (default: all) keeps, and by which rule, and what it would remove.

    Nothing is removed without --apply. Held snapshots stay. An incomplete snapshot never makes a complete one expire.
    """
    from backupctl.operations import retain

    context = open_context()
    output = output_of()
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    done = retain.apply(context, chosen) if really else [(one, None) for one in retain.preview(context, chosen)]
    for preview, stats in done:
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
        if stats is None:
            text = f"{preview.repository}: {removed} of {count(len(rows), 'snapshot')} would be removed"
            if removed:
                text += "; do it with: backupctl prune --apply" + "".join(f" {name}" for name in jobs)
            output.result("preview", text, repository=preview.repository, remove=removed, keep=len(rows) - removed)
        else:
            output.result(
                "pruned",
                f"{preview.repository}: {count(removed, 'snapshot')} removed, {size(stats.freed_bytes)} freed, "
                f"{count(stats.repacked_packs, 'pack')} repacked",
                repository=preview.repository,
                removed=removed,
                freed_bytes=stats.freed_bytes,
                repacked_packs=stats.repacked_packs,
            )
    return 0

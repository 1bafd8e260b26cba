"""`diff`: what changed between two nights."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, moment, path_fields, size, text_of
from backupctl.errors import UsageError

if TYPE_CHECKING:
    from backupctl.repository.diff import Difference, DiffStats, Tally
    from backupctl.repository.format.node import Node

_MARKS = {"added": "+", "removed": "-", "changed": "M", "type": "T", "metadata": "U"}


@click.command(cls=Common)
@click.argument("words", nargs=-1, metavar="SNAPSHOT SNAPSHOT [PATH]", shell_complete=completing.jobs)
@click.option("--job", shell_complete=completing.jobs, help="The two newest complete snapshots of this job.")
@click.option("--metadata", is_flag=True, help="Also entries of which only rights, owner, times or attributes differ.")
def diff(words: tuple[str, ...], job: str | None, metadata: bool) -> int:
    """Show what differs between two snapshots, or between the last two nights of a job, below PATH or everywhere.

    \b
    backupctl diff 9a240feb 3f81cc02 site-files/srv/www
    backupctl diff --job website [PATH]

    + added, - removed, M content changed, T another type, U only metadata (with --metadata). The number is the size, or by how
    much it changed. A directory that is equal on both sides is not read, however large it is.

    Exit code: 0 also when they differ; 4 a directory could not be read.
    """
    from backupctl.operations.diff import open_diff, open_job_diff

    most, what = (1, "diff --job JOB [PATH]") if job else (3, "diff SNAPSHOT SNAPSHOT [PATH]")
    if not most - 1 <= len(words) <= most:
        one_job = not job and len(words) == 1
        raise UsageError(
            f"`{what}` takes {most - 1} or {most} words, not {len(words)}",
            next_step=f"the last two nights of a job: backupctl diff --job {words[0]}"
            if one_job
            else "backupctl diff --help",
        )
    path = os.fsencode(words[most - 1]) if len(words) == most else b""
    context = open_context()
    output = output_of()
    opened = (
        open_job_diff(context, job, path, metadata=metadata)
        if job
        else open_diff(context, words[0], words[1], path, metadata=metadata)
    )
    with opened as (old, new, differences):
        sides = [f"{one.short_id} ({output.local(one.time)})" for one in (old, new)]
        output.event("note", f"from {sides[0]} to {sides[1]}")
        for one in differences:
            _show(one)
    stats = differences.stats
    for problem in stats.problems:
        output.event("problem", problem)
    fields = asdict(stats) | {"old": old.id, "new": new.id, "differences": stats.differences}
    output.result("diff", _summary(stats), **fields)
    return 4 if stats.problems else 0


def _show(one: Difference) -> None:
    node = one.node
    old_size, new_size = (side.size if side and side.type == "file" else None for side in (one.old, one.new))
    number = ""
    if node.type == "file" and one.kind != "metadata":
        change = (new_size or 0) - (old_size or 0)
        number = f"{change:+,}"
    path = "/" + text_of(one.path) + ("/" if node.type == "dir" else "")
    changes = _changes(one)
    if one.kind == "type" and one.old and one.new:
        path += f"  ({one.old.type} → {one.new.type})"
    elif one.kind == "changed" and node.type == "symlink" and one.old and one.new:
        path += f"  ({text_of(one.old.linktarget)} → {text_of(one.new.linktarget)})"
    elif one.kind == "metadata":
        path += "  (" + "; ".join(f"{name} {text}" if text else name for name, text in changes) + ")"
    output_of().result(
        "difference",
        f"{_MARKS[one.kind]} {number:>16}  {path}",
        **path_fields("path", b"/" + one.path),
        change=one.kind,
        kind=node.type,
        old_kind=one.old.type if one.old else None,
        old_size=old_size,
        new_size=new_size,
        fields=list(one.fields),
        old=_metadata(one.old),
        new=_metadata(one.new),
    )


def _metadata(node: Node | None) -> dict[str, Any] | None:
    if node is None:
        return None
    facts: dict[str, Any] = {
        "mode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
        "user": node.user,
        "group": node.group,
        "mtime": moment(node.mtime_ns),
    }
    return facts | path_fields("target", node.linktarget) if node.type == "symlink" else facts


def _changes(one: Difference) -> list[tuple[str, str]]:
    """Each metadata field that differs, and how."""
    if one.old is None or one.new is None:
        return []
    found = []
    for name in one.fields:
        if name == "mtime":
            before, after = (output_of().local(moment(node.mtime_ns)) for node in (one.old, one.new))
            found.append((name, f"{before} → {after}" if before != after else "by less than a second"))
        elif name == "mode":
            found.append((name, f"{one.old.mode:04o} → {one.new.mode:04o}"))
        elif name == "xattrs":
            names = {name for name, _ in set(one.old.xattrs) ^ set(one.new.xattrs)}
            found.append((name, ", ".join(sorted(map(text_of, names)))))
        else:
            found.append((name, f"{getattr(one.old, name)} → {getattr(one.new, name)}"))
    return found


def _summary(stats: DiffStats) -> str:
    def words(tally: Tally) -> str:
        parts = [count(tally.files, "file") + (f" ({size(tally.bytes)})" if tally.files else "")]
        parts += [count(tally.directories, "directory")] if tally.directories else []
        parts += [f"{tally.others:,} other"] if tally.others else []
        return ", ".join(parts)

    if not stats.differences and not stats.problems:
        return "no difference"
    lines = [f"added {words(stats.added)}; removed {words(stats.removed)}; changed {words(stats.changed)}"]
    if stats.retyped or stats.metadata:
        lines[0] += f"; another type {stats.retyped:,}; only metadata {stats.metadata:,}"
    lines.append(f"blobs: {size(stats.added_blob_bytes)} new, {size(stats.removed_blob_bytes)} no longer used here")
    return "\n".join(lines)

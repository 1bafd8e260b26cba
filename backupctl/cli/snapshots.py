"""`snapshots`, `ls`: look around before restoring."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import moment, path_fields, size, text_of

if TYPE_CHECKING:
    from backupctl.operations.records import SnapshotTags

_TYPE_LETTERS = {"dir": "d", "symlink": "l", "fifo": "p", "socket": "s", "chardev": "c", "dev": "b", "file": "-"}


@click.command(cls=Common)
@click.argument("job", required=False, shell_complete=completing.jobs)
def snapshots(job: str | None) -> int:
    """List the snapshots of JOB, or all in every repository, oldest first, as the repositories hold them."""
    from backupctl.operations.browse import list_snapshots

    context = open_context()
    rows = [
        {
            "snapshot": one.snapshot.id if output_of().json_lines else one.snapshot.id[:8],
            "snapshot_time": one.snapshot.time,
            "job": one.tags.job or f"({one.snapshot.hostname}, not ours)",
            "status": _status(one.tags, one.decision),
            "sources": [path.lstrip("/") for path in one.snapshot.paths],
            "size": size(one.bytes) if one.bytes is not None else None,
            "bytes": one.bytes,
            "hold": one.hold,
            "repository": one.repository,
        }
        for one in list_snapshots(context, job)
    ]
    columns = ("snapshot", "snapshot_time", "job", "status", "sources", "size", "hold", "repository")
    output_of().table("snapshot", rows, columns, empty="no snapshot", right=("size",))
    return 0


def _status(tags: SnapshotTags, decision: str) -> str:
    if not tags.ours:
        return "foreign"
    state = "rewritten" if tags.rewritten else "complete" if tags.complete else "incomplete"
    return f"{state}, {decision or 'suspicious'}" if tags.suspicious else state


@click.command(cls=Common)
@click.argument("snapshot", shell_complete=completing.jobs)
@click.argument("path", default="")
@click.option("--recursive", "-r", is_flag=True, help="Everything below PATH.")
def ls(snapshot: str, path: str, recursive: bool) -> int:
    """List PATH in SNAPSHOT: an id, or a job's name for its newest complete snapshot."""
    import os

    from backupctl.operations.browse import open_reader

    output = output_of()
    with open_reader(open_context(), snapshot) as reader:
        for found, node in reader.list(os.fsencode(path), recursive=recursive):
            when = moment(node.mtime_ns)
            mode = _TYPE_LETTERS[node.type] + stat.filemode(node.mode)[1:]
            name = "/" + text_of(found) + (f" -> {text_of(node.linktarget)}" if node.type == "symlink" else "")
            owner = f"{node.user or node.uid}:{node.group or node.gid}"
            output.result(
                "entry",
                f"{mode} {owner:<15} {node.size:>14,} {output.local(when)} {name}",
                **path_fields("path", b"/" + found),
                **(path_fields("target", node.linktarget) if node.type == "symlink" else {}),
                kind=node.type,
                mode=node.mode,
                uid=node.uid,
                gid=node.gid,
                size=node.size,
                mtime=when,
            )
    return 0

"""`find`: where is that file, and since when does it look like this."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, moment, path_fields, text_of

if TYPE_CHECKING:
    from backupctl.operations.find import Found


@click.command(cls=Common)
@click.argument("pattern", default="*")
@click.option("--job", shell_complete=completing.jobs, help="Only in snapshots of this job.")
@click.option("--snapshot", metavar="ID", help="Only in this snapshot.")
@click.option("--since", metavar="TIME", help="Only in snapshots made then or later.")
@click.option("--until", metavar="TIME", help="Only in snapshots made then or earlier.")
@click.option("--oldest", metavar="TIME", help="Only what was last changed then or later.")
@click.option("--newest", metavar="TIME", help="Only what was last changed then or earlier.")
@click.option("--ignore-case", "-i", is_flag=True, help="Upper and lower case are the same.")
@click.option("--sha256", metavar="HEX", help="Only files with this content, as `sha256sum` prints it.")
@click.option("--object", "object_id", metavar="HEX", help="Only what uses this blob or tree: what did damage take?")
@click.option("--pack", metavar="HEX", help="Only what uses anything in this pack.")
def find(
    pattern: str,
    job: str | None,
    snapshot: str | None,
    since: str | None,
    until: str | None,
    oldest: str | None,
    newest: str | None,
    ignore_case: bool,
    sha256: str | None,
    object_id: str | None,
    pack: str | None,
) -> int:
    """Find files by PATTERN: a name like `*.sql`, or with a slash a path, whole when it begins with one.

    One line per version of a file: the newest snapshot that holds it so, since when, and in how many. Versions follow each
    other newest first. A day as TIME counts whole.

    \b
    backupctl find 'invoice*.pdf'                         anywhere, in every snapshot
    backupctl find 'www/**/*.php' --job website --oldest 2026-11-20
    backupctl find --pack 3f1c90aa                        which files does this damaged pack cost?

    Exit code: 0 found, 4 something could not be looked into, 10 nothing matches.
    """
    from backupctl.operations.find import Search
    from backupctl.operations.find import find as search_in
    from backupctl.operations.select import parse_time
    from backupctl.repository.find import Query

    context = open_context()
    output = output_of()
    zone = context.settings.defaults.timezone

    def instant(text: str | None, *, start: bool) -> datetime | None:
        return parse_time(text, zone, start=start) if text else None

    search = Search(
        Query(pattern, ignore_case, instant(oldest, start=True), instant(newest, start=False)),
        job=job,
        snapshot=snapshot,
        since=instant(since, start=True),
        until=instant(until, start=False),
        sha256=sha256,
        object_id=object_id,
        pack=pack,
    )
    result = search_in(context, search)
    for problem in result.problems:
        output.event("problem", problem)
    if result.found:
        columns = ["snapshot", "snapshot_time", "snapshots", "since", "size", "modified", "path"]
        if len({one.repository for one in result.found}) > 1:
            columns.insert(0, "repository")
        rows = [_row(one, short=not output.json_lines) for one in result.found]
        output.table("found", rows, columns, empty="", right=("snapshots", "size"))
    else:
        output.event("note", f"nothing matches in {count(result.searched, 'snapshot')}", snapshots=result.searched)
    return 4 if result.problems else 0 if result.found else 10


def _row(one: Found, *, short: bool) -> dict[str, Any]:
    version, node = one.version, one.version.node
    row: dict[str, Any] = {
        "snapshot": version.newest.short_id if short else version.newest.id,
        "snapshot_time": version.newest.time,
        "kind": node.type,
        "size": f"{node.size:,}" if short and node.type == "file" else node.size if not short else None,
        "modified": moment(node.mtime_ns),
        "snapshots": len(version.snapshots),
        "since": version.oldest.time,
        "job": one.job,
        "repository": one.repository,
    }
    if short:
        return row | {"path": "/" + text_of(version.path) + ("/" if node.type == "dir" and version.path else "")}
    return row | {"oldest_snapshot": version.oldest.id, **path_fields("path", b"/" + version.path)}

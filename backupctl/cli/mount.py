"""`mount`: look around in all snapshots with ordinary tools."""

from __future__ import annotations

from pathlib import Path

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context


@click.command(cls=Common)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("repository", required=False, shell_complete=completing.repositories)
@click.option("--job", shell_complete=completing.jobs, help="Only snapshots of this job.")
@click.option("--allow-other", is_flag=True, help="Other users may look too, each as far as the files' rights go.")
def mount(directory: Path, repository: str | None, job: str | None, allow_other: bool) -> int:
    """Mount the snapshots of REPOSITORY on DIRECTORY, read-only, until Ctrl-C or `umount`.

    DIRECTORY, which must be empty, then holds JOB/2026-11-22T02:15:00Z/… (times in UTC) and JOB/latest. Only the parts of files
    that are read are loaded. Damaged content is an input/output error, and a line here names it. Snapshots made later
    appear at the next mount. Until this one ends, prune is refused.

    Needs FUSE: pip install 'backupctl[mount]', and the Debian package fuse3.
    """
    from backupctl.operations.mount import mount as serve

    output = output_of()

    def ready() -> None:
        output.event("mounted", f"mounted on {directory}; ends with Ctrl-C", directory=str(directory))

    serve(open_context(), directory, repository=repository, job=job, allow_other=allow_other, ready=ready)
    output.event("unmounted", f"{directory} is unmounted", directory=str(directory))
    return 0

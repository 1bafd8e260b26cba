"""`init`: from nothing to a repository that can be backed up to."""

from __future__ import annotations

from pathlib import Path

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, config_path, output_of
from backupctl.cli.session import open_context


@click.command(cls=Common)
@click.argument("repositories", nargs=-1, metavar="[REPOSITORY]...", shell_complete=completing.repositories)
@click.option(
    "--starter",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="First write a small configuration here that backs up PATH.",
)
@click.option("--kit/--no-kit", default=True, help="Write a recovery kit for each repository made (default: yes).")
def init(repositories: tuple[str, ...], starter: Path | None, kit: bool) -> int:
    """Create each REPOSITORY (default: all in the configuration), generate the key files that do not exist yet, and write a
    recovery kit: the one page that brings the backups back when this machine is gone.

    \b
    backupctl init --starter /srv/www     nothing configured yet: begin here
    backupctl init                        create what the configuration names

    A repository that exists and opens is left as it is. Without its key nobody, not even its maker, can read a backup.
    """
    from backupctl.operations.browse import repository_names
    from backupctl.operations.setup import create_repository
    from backupctl.operations.starter import write_recovery_kit, write_starter

    output = output_of()
    if starter is not None:
        directory = (config_path() or Path("backupctl.yaml")).absolute().parent
        for path in write_starter(directory, starter.absolute(), _zone()):
            output.result("written", f"wrote {path}", path=str(path))
    context = open_context()
    for name in repository_names(context, repositories):
        made = create_repository(context, name)
        words = "is there and opens" if made.existed else "created"
        output.result(
            "repository",
            f"repository {name} {words}: {made.location} (id {made.repository_id[:8]})",
            repository=name,
            location=made.location,
            id=made.repository_id,
            existed=made.existed,
            key_file=made.key_file,
        )
        if made.key_file:
            output.event("key", f"new key: {made.key_file}. Without it the backups cannot be read.", path=made.key_file)
        if kit and not made.existed:
            path = write_recovery_kit(context, name)
            text = f"recovery kit: {path}. Print it, lock it away, and remove the file."
            output.event("kit", text, path=str(path))
    if starter is not None:
        output.event(
            "next", "next: backupctl host register staging; backupctl job check; backupctl run; backupctl drill run"
        )
    return 0


def _zone() -> str:
    """This machine's time zone name, UTC when it cannot be told."""
    target = Path("/etc/localtime").resolve()
    return target.as_posix().partition("zoneinfo/")[2] or "UTC"

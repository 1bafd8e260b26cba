"""`bootstrap`: a new orchestrator from the recovery kits, when the old one is gone."""

from __future__ import annotations

from pathlib import Path

import click

from backupctl.cli.catalog import tell_rebuilt
from backupctl.cli.main import Common, output_of
from backupctl.cli.words import count


@click.command(cls=Common)
@click.argument("kits", nargs=-1, required=True, metavar="KIT...", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where configuration, keys and catalog are written (default: here).",
)
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="The storage credentials on this machine (default: where the kit says they were).",
)
def bootstrap(kits: tuple[Path, ...], into: Path, credentials: Path | None) -> int:
    """Begin again from recovery kits alone: write a configuration and the keys, open every repository, rebuild the catalog.

    KIT is the page as a file that only you may read (chmod 600), one for each repository. Nothing is overwritten. What the
    kits do not know are the jobs: put their files back before the next night. Until then everything can be restored.
    """
    from backupctl.config.load import load
    from backupctl.operations.bootstrap import Kit, write_bootstrap
    from backupctl.operations.context import Context
    from backupctl.operations.keys import password_of
    from backupctl.operations.rebuild import rebuild

    output = output_of()
    read = [Kit.read(password_of(path)) for path in kits]
    path = write_bootstrap(read, into.absolute(), credentials=credentials)
    output.result("written", f"wrote {path} and {count(len(read), 'key file')} beside it", path=str(path))
    with Context.open(load(path)) as context:
        opened = [(kit, context.resources.repository(kit.repository)) for kit in read]
        found = rebuild(context)
    found.problems += [
        f"{one.store.location} is another repository than the kit of {kit.repository}"
        for kit, one in opened
        if one.id != kit.id
    ]
    code = tell_rebuilt(found)
    output.event(
        "next", f"next: backupctl --config {path} snapshots; backupctl --config {path} restore --at SNAPSHOT --into DIR"
    )
    return code

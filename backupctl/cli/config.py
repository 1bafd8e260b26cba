"""`config`: validate, show, describe, reload."""

from __future__ import annotations

import json
from typing import Literal

import click

from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context, settings
from backupctl.cli.words import count


@click.group(cls=Group)
def config() -> None:
    """Validate the configuration, show what it means, print its schema, or have `serve` take it."""


@config.command()
def validate() -> int:
    """Read every file and report every fault as file:line:column. Exit code 13 when there is one."""
    loaded = settings()
    words = f"{count(len(loaded.jobs), 'job')}, {count(len(loaded.repositories), 'repository')}"
    output_of().result("config", f"{loaded.path}: valid; {words}", path=str(loaded.path), valid=True)
    return 0


@config.command()
def show() -> int:
    """The configuration as it is in force, defaults filled in. Secrets appear only as references."""
    from backupctl.config.show import effective
    from backupctl.config.show import show as render

    loaded = settings()
    output_of().result("config", render(loaded), config=effective(loaded))
    return 0


@config.command()
def reload() -> int:
    """Have the running `serve` of this machine take the configuration as it is now, as SIGHUP does.

    A broken one is refused, here and by the service, which goes on with the old one. Runs that go on are not touched.
    """
    from backupctl.scheduling.reload import ask_to_reload

    context = open_context()  # refuses it here, with every fault
    taken = ask_to_reload(context.catalog, context.clock, context.settings)
    jobs = count(len(context.settings.jobs), "job")
    output_of().result(
        "reloaded", f"{count(len(taken), 'service')} took {context.settings.path}: {jobs}", services=len(taken)
    )
    return 0


@config.command()
@click.argument("which", type=click.Choice(["main", "job"]), default="main")
def schema(which: Literal["main", "job"]) -> int:
    """JSON Schema of the main file or of a job file, for completion and checking in editors."""
    from backupctl.config.schema import schema as make

    described = make(which)
    output_of().result("schema", json.dumps(described, indent=2, ensure_ascii=False), schema=described)
    return 0

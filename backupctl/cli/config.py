"""`config`: validate, show, describe, reload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

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
@click.argument("which", type=click.Choice(["main", "job", "host"]), default="main")
def schema(which: Literal["main", "job", "host"]) -> int:
    """JSON Schema of the main file, a job file or a host file, for completion and checking in editors."""
    from backupctl.config.schema import schema as make

    described = make(which)
    output_of().result("schema", json.dumps(described, indent=2, ensure_ascii=False), schema=described)
    return 0


@config.command()
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    help="Write them below this directory: / for this machine. Without: list.",
)
@click.option(
    "--only", type=click.Choice(["systemd", "logrotate", "man", "completion"]), multiple=True, help="These kinds only."
)
@click.option("--program", help="Where backupctl is on that machine (default: this one).")
@click.option(
    "--for",
    "configuration",
    default="/etc/backupctl/backupctl.yaml",
    show_default=True,
    metavar="FILE",
    help="The configuration over there.",
)
@click.option("--user", default="backupctl", show_default=True, help="Whom the units run as.")
@click.option("--state", default="/var/lib/backupctl", show_default=True, help="Directory of the catalog.")
@click.option("--writable", multiple=True, metavar="DIR", help="What the units may write: local repositories, scratch.")
@click.option("--listen", metavar="ADDRESS:PORT", help="Where `serve` shows its page.  [default: 127.0.0.1:8642]")
def files(
    into: Path | None,
    only: tuple[str, ...],
    program: str | None,
    configuration: str,
    user: str,
    state: str,
    writable: tuple[str, ...],
    listen: str | None,
) -> int:
    """What belongs to an installation beside the program: hardened systemd units and timers, log rotation, man pages, and
    completion for bash, zsh and fish.

    What is there already and says the same is left alone; nothing is enabled or started.
    """
    from backupctl.cli.shipping import KINDS, Place, write
    from backupctl.cli.shipping import files as make

    given: dict[str, Any] = {"program": program, "listen": listen, "writable": writable or None}
    place = Place(
        config=configuration,
        user=user,
        state=state,
        **{key: value for key, value in given.items() if value is not None},
    )
    output = output_of()
    for path, text in make(place, only or KINDS).items():
        if into is None:
            output.result("file", f"/{path}", path=f"/{path}")
        else:
            changed = write(into, path, text)
            word = "written" if changed else "unchanged"
            output.result("file", f"{into / path}: {word}", path=str(into / path), changed=changed)
    return 0

"""What commands share: the configuration and the context, opened once and closed with the command.

Nothing heavy is imported before it is needed: `--help` and shell completion import every command."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import click

from backupctl.cli.main import config_path, output_of

if TYPE_CHECKING:
    from backupctl.config.document import Document
    from backupctl.config.models import Settings
    from backupctl.operations.context import Context


def settings(ahead: Callable[[Document], AbstractContextManager[None]] | None = None) -> Settings:
    """As it stands in the files. From before anything is known of what the main file says, the rest of the command is within
    `ahead` of it."""
    from backupctl.config.document import read_main

    main = read_main(config_path())
    if ahead is not None:
        click.get_current_context().with_resource(ahead(main))
    from backupctl.config.load import load

    return load(main=main)


def open_context(
    given: Settings | None = None,
    *,
    read_only: bool = False,
    upgrade: bool = True,
    ahead: Callable[[Document], AbstractContextManager[None]] | None = None,
) -> Context:
    """A Context that reports to this process's Output and is closed when the command ends. `given` instead of what stands
    in the files; `upgrade` as in `Catalog.open`, `ahead` as in `settings`."""
    given = given or settings(ahead)
    from backupctl.cli.logs import apply as configure_log
    from backupctl.operations.context import Context

    output = output_of()
    context = Context.open(given, reporter=output, read_only=read_only, upgrade=upgrade)
    output.zone = context.settings.defaults.timezone
    configure_log(context.settings.log, output)
    click.get_current_context().call_on_close(context.close)
    return context

"""What commands share: the configuration and the context, opened once and closed with the command.

Nothing heavy is imported before it is needed: `--help` and shell completion import every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backupctl.cli.main import config_path, output_of

if TYPE_CHECKING:
    from backupctl.config.models import Settings
    from backupctl.operations.context import Context


def settings() -> Settings:
    from backupctl.config.load import load

    return load(config_path())


def open_context(given: Settings | None = None, *, read_only: bool = False, upgrade: bool = True) -> Context:
    """A Context that reports to this process's Output and is closed when the command ends. `given` instead of what stands
    in the files; `upgrade` as in `Catalog.open`."""
    from backupctl.cli.logs import apply as configure_log
    from backupctl.operations.context import Context

    output = output_of()
    context = Context.open(given or settings(), reporter=output, read_only=read_only, upgrade=upgrade)
    output.zone = context.settings.defaults.timezone
    configure_log(context.settings.log, output)
    click.get_current_context().call_on_close(context.close)
    return context

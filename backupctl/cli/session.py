"""What commands share: the configuration and the context, opened once and closed with the command."""

from __future__ import annotations

import click

from backupctl.cli.main import config_path, output_of
from backupctl.config.models import Settings
from backupctl.operations.context import Context


def settings() -> Settings:
    from backupctl.config.load import load

    return load(config_path())


def open_context() -> Context:
    """A Context that reports to this process's Output and is closed when the command ends."""
    context = Context.open(settings(), reporter=output_of())
    click.get_current_context().call_on_close(context.close)
    return context

"""`completion`: the script a shell sources."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from backupctl.cli.main import Common, cli


@click.command(cls=Common)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script for SHELL.

    bash: backupctl completion bash > /etc/bash_completion.d/backupctl
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "backupctl", "_BACKUPCTL_COMPLETE").source())
    return 0

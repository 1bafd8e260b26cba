"""`completion`: the script a shell sources."""

from __future__ import annotations

import click

from backupctl.cli.main import Common


@click.command(cls=Common)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script for SHELL.

    \b
    bash: backupctl completion bash > /usr/local/share/bash-completion/completions/backupctl
    zsh:  backupctl completion zsh > /usr/local/share/zsh/site-functions/_backupctl
    fish: backupctl completion fish > ~/.config/fish/completions/backupctl.fish
    """
    from backupctl.cli.shipping import completion_script

    click.echo(completion_script(shell))
    return 0

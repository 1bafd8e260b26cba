"""What a shell may complete beyond commands and options: names out of the configuration. Silent when there is none or it is
broken: a person is typing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from backupctl.errors import UserError

if TYPE_CHECKING:
    from backupctl.config.models import Settings

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _names(of: Callable[[Settings], Iterable[str]]) -> Completer:
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from backupctl.config.load import load

        try:
            found = of(load(context.find_root().ensure_object(dict).get("config")))
        except (UserError, OSError):
            return []
        given = context.params.get(str(parameter.name)) or ()
        taken = set(given) if isinstance(given, tuple) else set()
        return [CompletionItem(name) for name in found if name.startswith(incomplete) and name not in taken]

    return complete


def _drills(settings: Settings) -> list[str]:
    return [f"{job.job}/{name}" for job in settings.jobs.values() for name in job.drills]


jobs = _names(lambda settings: settings.jobs)
repositories = _names(lambda settings: settings.repositories)
hosts = _names(lambda settings: settings.hosts)
staging_hosts = _names(lambda settings: (name for name, one in settings.hosts.items() if one.role == "staging"))
channels = _names(lambda settings: settings.notify)
drills = _names(_drills)
runs = _names(lambda settings: (*settings.jobs, *_drills(settings), *settings.repositories))
"""What a run may be called by."""

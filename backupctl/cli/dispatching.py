"""Runs that a person asks for: each recorded, claimed and executed like a scheduled one."""

from __future__ import annotations

from collections.abc import Iterable

from backupctl.cli.main import output_of
from backupctl.cli.worst import worst
from backupctl.operations.context import Context
from backupctl.scheduling.dispatch import enqueue_now
from backupctl.scheduling.launch import Launcher


def launcher_of(context: Context) -> Launcher:
    output = output_of()
    arguments = ("--json",) if output.json_lines else ("--quiet",) if output.quiet else ()
    return Launcher(context.settings.path, context.catalog, arguments=arguments)


def run_in_foreground(context: Context, wanted: Iterable[tuple[str, str, dict[str, object]]]) -> int:
    """Each (kind, name, options) in turn; the gravest exit code. An interrupted one ends the row."""
    launcher = launcher_of(context)
    codes = []
    for kind, name, options in wanted:
        codes.append(launcher.foreground(enqueue_now(context.catalog, context.clock, kind, name, options)))
        if codes[-1] == 130:
            break
    return worst(codes)

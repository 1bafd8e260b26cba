"""Runs that a person asks for: each recorded, claimed and executed like a scheduled one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from backupctl.cli.main import main, output_of
from backupctl.cli.worst import worst

if TYPE_CHECKING:
    from backupctl.operations.context import Context
    from backupctl.scheduling.launch import Launcher


def launcher_of(context: Context, *, hand_over: bool = False) -> Launcher:
    """Runs talk as this command was asked to talk. With `hand_over` they work with the configuration that the context has
    when they start."""
    from backupctl.scheduling.launch import Launcher

    output = output_of()
    chosen = {"--json": output.json_lines, "--quiet": output.quiet, "--verbose": output.verbose}
    arguments = tuple(word for word, on in chosen.items() if on)
    given = (lambda: context.settings) if hand_over else None
    return Launcher(context.settings.path, context.catalog, arguments=arguments, main=main, settings=given)


def run_in_foreground(context: Context, wanted: Iterable[tuple[str, str, dict[str, object]]]) -> int:
    """Each (kind, name, options) in turn; the gravest exit code. An interrupted one ends the row."""
    from backupctl.scheduling.dispatch import enqueue_now

    launcher = launcher_of(context)
    codes = []
    for kind, name, options in wanted:
        codes.append(launcher.foreground(enqueue_now(context.catalog, context.clock, kind, name, options)))
        if codes[-1] == 130:
            break
    return worst(codes)

"""Runs that a person asks for: each recorded, claimed and executed like a scheduled one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from backupctl.cli.main import main, output_of
from backupctl.cli.watching import is_watched, observed
from backupctl.cli.worker import execute
from backupctl.cli.worst import worst

if TYPE_CHECKING:
    from backupctl.catalog.models import Run
    from backupctl.operations.context import Context
    from backupctl.scheduling.fleet import FleetQueue
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


def fleet_queue(context: Context) -> FleetQueue:
    """Where a scheduler of a fleet leaves its runs. Raises ConfigError for a clock that is wrong, UnreachableError."""
    from backupctl.scheduling.fleet import FleetQueue, check_clock, fleet_of
    from backupctl.scheduling.messages import Messages

    messages = Messages(context.settings.catalog, fleet_of(context.settings))
    check_clock(context)
    messages.prepare()
    return FleetQueue(messages)


def run_in_foreground(context: Context, wanted: Iterable[tuple[str, str, dict[str, object]]]) -> int:
    """Each (kind, name, options) in turn, in a process of its own, which is this one when it is watched and there is but one run;
    the gravest exit code. An interrupted one ends the row."""

    def enqueued(kind: str, name: str, options: dict[str, object]) -> Run:
        from backupctl.scheduling.dispatch import enqueue_now

        return enqueue_now(context.catalog, context.clock, kind, name, options, fleet=context.settings.fleet)

    from backupctl.operations.ahead import begun

    wanted = list(wanted)
    if len(wanted) == 1 and is_watched():
        kind, name, _ = wanted[0]
        with begun(context, kind, name):
            run_id = enqueued(*wanted[0]).id
            return observed(run_id, partial(execute, context, run_id))
    launcher = launcher_of(context)
    codes = []
    for kind, name, options in wanted:
        codes.append(launcher.foreground(enqueued(kind, name, options)))
        if codes[-1] == 130:
            break
    return worst(codes)

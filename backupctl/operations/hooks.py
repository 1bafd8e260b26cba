"""A job's commands before and after its sources are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backupctl.catalog.models import Run
from backupctl.config.models import Job
from backupctl.errors import UserError
from backupctl.operations.context import Context

if TYPE_CHECKING:
    from backupctl.config.hooks import HookSettings


@contextmanager
def around(context: Context, run: Run, job: Job, warnings: list[str]) -> Iterator[list[str]]:
    """Inside, every command `before` has ended well; otherwise UserError is raised, and what should come after is run all
    the same. Give the state of the reading to what is yielded; `warnings` gets what failed afterwards."""
    states: list[str] = []
    try:
        for hook in job.hooks:
            if hook.before:
                _before(context, run, hook)
        yield states
    finally:
        for hook in job.hooks:
            if hook.after:
                try:
                    _run(context, run, hook, {"BACKUPCTL_STATE": states[-1] if states else "failed"})
                except UserError as error:
                    warnings.append(f"hook after: {' '.join(error.message.split())}")
                    context.reporter.event("warning", warnings[-1], job=job.job, run=run.id)


def _before(context: Context, run: Run, hook: HookSettings) -> None:
    try:
        _run(context, run, hook, {})
    except UserError as error:
        raise UserError(
            f"hook before: {' '.join(error.message.split())}; nothing was read",
            next_step=error.next_step or "see why by running it by hand, or take it out of `hooks`",
        ) from error


def _run(context: Context, run: Run, hook: HookSettings, environment: dict[str, str]) -> None:
    host = context.resources.host(hook.host)
    when = "before" if hook.before else "after"
    context.reporter.event("note", f"hook {when}: {hook.command[0]} on {hook.host}", job=run.name, run=run.id)
    host.run(
        hook.command,
        stdin=context.resources.secret(hook.stdin) if hook.stdin is not None else None,
        env={"BACKUPCTL_JOB": run.name, "BACKUPCTL_RUN": run.id, **environment},
        timeout=hook.timeout.total_seconds(),
        check=True,
    )

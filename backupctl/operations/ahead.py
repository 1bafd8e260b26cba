"""What a run will need and need not wait for: begun while the catalog is still being imported, which takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from backupctl.hosts import workers
from backupctl.operations.context import Context


def prepared(context: Context, kind: str) -> AbstractContextManager[None]:
    """Within, there are workers for a run of this kind, forked before the process has threads. Not where each process of a run
    has a limit: a fork begins with all that we hold."""
    module = {"backup": "backupctl.repository.subtree", "check": "backupctl.repository.check_reading"}.get(kind)
    if module is None or context.settings.concurrency.memory is not None:
        workers.dismiss()  # made before anybody knew
        return nullcontext()
    return workers.prepared(module)


@contextmanager
def begun(context: Context, kind: str, name: str) -> Iterator[None]:
    """Within, the run's workers are there, and its repository is being opened and locked."""
    settings = context.settings
    with prepared(context, kind):
        repository = settings.jobs[name].repository if kind == "backup" else name if kind == "check" else None
        if repository in settings.repositories:
            context.resources.open_ahead(repository)
        yield

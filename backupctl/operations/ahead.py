"""What a run will need and need not wait for: begun while what reads the configuration, then the catalog, is still being
imported, which takes longer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from backupctl.config import unlocking
from backupctl.hosts import workers

if TYPE_CHECKING:
    from backupctl.config.document import Document
    from backupctl.operations.context import Context

_EARLY = {"backup": "backupctl.repository.subtree", "check": "backupctl.repository.pack_opening"}


def prepared(context: Context, kind: str) -> AbstractContextManager[None]:
    """Within, there are workers for a run of this kind, forked before the process has threads. Not where each process of a run
    has a limit: a fork begins with all that we hold."""
    module = {"backup": _EARLY["backup"], "check": "backupctl.repository.check_reading"}.get(kind)
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


@contextmanager
def before_all(main: Document, kind: str, names: Sequence[str]) -> Iterator[None]:
    """Within, there is for a backup of these jobs, or a check of these repositories, what the main file tells by itself, which
    is not checked yet: the workers, and the key of the repository, which is being derived. Nothing relies on it."""
    jobs, repositories = _table(main.value, "jobs"), _table(main.value, "repositories")
    if not names:
        names = list(repositories) if kind == "check" else [] if "jobs_dir" in main.value else list(jobs)
    if len(names) != 1:
        yield  # each of several runs has a process of its own, forked while this one has no threads
        return
    job = {"repository": names[0]} if kind == "check" else _table(jobs, names[0])
    name = job.get("repository", next(iter(repositories)) if len(repositories) == 1 else None)
    # a worker keeps what we hold now, while we touch it and get copies: 14 MiB, and 33 once the configuration is read
    with workers.prepared(_EARLY[kind]):
        unlocking.begin(main.path.parent, _table(repositories, name))
        yield


def _table(value: dict[Any, Any], key: object) -> dict[Any, Any]:
    found = value.get(key) if isinstance(key, str) else None
    return found if isinstance(found, dict) else {}

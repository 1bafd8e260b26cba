"""The storage credentials were stolen, and have been rotated: the old ones open nothing, the new ones do, and nothing that is
not ours lies among the backups."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome, explain
from backupctl.errors import CouldNotRunError, Denied, NotFound, UnreachableError
from backupctl.hosts.secret import SecretRef
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.protocol import CheckResult
from backupctl.storage.options import StorageOptions
from backupctl.storage.probing import probe_basics, scratch_name
from backupctl.storage.protocol import ObjectStore
from backupctl.storage.registry import open_store

OURS = re.compile(
    r"config|(?:keys|index|snapshots|locks)/[0-9a-f]{64}|data/(?P<two>[0-9a-f]{2})/(?P=two)[0-9a-f]{62}"
    r"|backupctl/[a-z-]+/[0-9a-f]{64}"
)
SHOWN_OBJECTS = 5


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    request, around = stage.request, stage.surroundings
    stolen = request.settings.stolen
    if stolen is None:
        raise CouldNotRunError(
            "the drill does not say which credentials were stolen", next_step="add `stolen: {file: …}` to the drill"
        )
    places = [
        name
        for name in (request.job.repository, *request.job.copies)
        if (s3 := around.settings.repositories[name].storage.s3) is not None and s3.credentials is not None
    ]
    if not places:
        raise CouldNotRunError(f"no place of job {request.job.job} is opened with credentials that can be stolen")
    stage.stopwatch.strike()
    for name in places:
        stage.deadline.left()
        outcome = SourceOutcome(f"credentials of {name}", level=3)
        stage.outcomes.append(outcome)
        store = around.resources.store(name)
        with stage.stopwatch.phase("use the new credentials"):
            for what, said, good in probe_basics(store, scratch_name()):
                outcome.checks.append(CheckResult(f"{name}, new credentials: {what}", "works", said, good, 4))
        with stage.stopwatch.phase("use the stolen credentials"), _opened(stage, name, stolen) as old:
            for what, act in _attempts(old):
                _must_be_refused(outcome, f"{name}, stolen credentials: {what}", act)
        with stage.stopwatch.phase("look for what is not ours"):
            outcome.checks.append(_foreign(name, store))
    stage.run(reader, record)


@contextmanager
def _opened(stage: Rehearsal, name: str, stolen: SecretRef) -> Iterator[ObjectStore]:
    """The place as the thief opens it."""
    around = stage.surroundings
    s3 = around.settings.repositories[name].storage.s3
    assert s3 is not None
    store = open_store(
        StorageOptions(s3=s3.model_copy(update={"credentials": stolen})),
        secrets=around.resources.secret,
        base=around.settings.base,
        clock=stage.deadline.clock,
    )
    try:
        yield store
    finally:
        store.close()


def _attempts(store: ObjectStore) -> list[tuple[str, Callable[[], object]]]:
    name = scratch_name()
    return [
        ("list the backups", lambda: next(iter(store.list("snapshots/")), None)),
        ("read the repository's configuration", lambda: store.get("config")),
        ("write an object", lambda: store.put(name, b"scratch")),
        ("delete an object", lambda: store.delete(name)),
    ]


def _must_be_refused(outcome: SourceOutcome, title: str, act: Callable[[], object]) -> None:
    refused = False
    try:
        act()
        said = "accepted"
    except Denied as error:
        refused, said = True, f"refused: {error.message}"
    except UnreachableError as error:
        outcome.trouble.append(f"{title}: {explain(error)}")
        return
    except NotFound:
        said = "accepted, and nothing was found"
    outcome.checks.append(CheckResult(title, "refused", said, refused, 4))


def _foreign(name: str, store: ObjectStore) -> CheckResult:
    """Names that no repository has. Of what was written over ours, its hash tells: check reads it."""
    every = others = 0
    shown: list[str] = []
    for info in store.list():
        every += 1
        if not OURS.fullmatch(info.name):
            others += 1
            shown += [info.name] if len(shown) < SHOWN_OBJECTS else []
    found = f"{others} of {every} objects" if others else "none"
    return CheckResult(
        f"{name}: objects that are not of a repository", "none", found, not others, 4, detail=", ".join(shown)
    )


SCENARIO = Scenario(
    name="credential-rotated",
    proves="storage credentials that were stolen open nothing any more, and the backups do with the new ones",
    steps=(
        "use the configured, new credentials on scratch objects of every place",
        "use the stolen ones, named in the drill as `stolen`: list, read, write, delete",
        "look for objects that no repository has",
        "restore and compare everything with the new credentials, as in `full`",
    ),
    criteria=(
        "everything works with the new credentials",
        "everything is refused with the stolen ones, in every place",
        "nothing lies there that is not of a repository",
        "everything that `full` asks for",
    ),
    needs=("a place in S3 with `credentials`", "`stolen: {file: …}` in the drill, after the rotation"),
    run=run,
)

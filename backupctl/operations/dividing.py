"""One source of a backup, stored by several workers of a fleet into the one snapshot of its run.

The run's worker divides the source into stretches and asks for helpers, which are runs of kind `stretch`: dispatched like any
other. It stores what is in no stretch. Then it takes stretches like its helpers do, until none is left, and joins what
everybody has stored. Nobody waits for a helper: where none comes, the run does everything itself, and a helper that falls
silent, or is slow, loses its stretch to whoever asks next. What a stretch needs is durable before it is told, and the
run's own lock, which is older than all of it, keeps every prune away until the snapshot is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from backupctl.catalog.catalog import Catalog, FencedError
from backupctl.catalog.models import Run, Stretch
from backupctl.config.models import Job
from backupctl.errors import DamageError, NoSuchError, SourceError, StorageError, UnreachableError, UserError
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from backupctl.operations.records import fingerprint_of
from backupctl.repository import stretches
from backupctl.repository.entry import Problem
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import RECORD_KIND as MANIFEST
from backupctl.repository.manifest import ManifestReader, read_manifest
from backupctl.repository.pool import Pool
from backupctl.repository.repository import Repository
from backupctl.repository.stretches import Plan, load_stretch, plan_stretches
from backupctl.repository.writer import SnapshotWriter
from backupctl.sources.protocol import DividedSession, DividedSource

T = TypeVar("T")

KIND = "stretch"
POLL_SECONDS = 1.0
AT_ONCE = 8  # requests
SLOW = 3
"""A stretch of which nothing was read for so many times as long as a silent worker is waited for is taken from its helper."""


@dataclass(frozen=True, slots=True)
class Part:
    """A source as one worker of several reads it. `run`: what it executes, under an epoch of its own."""

    context: Context
    run: Run
    job: Job
    repository: Repository
    parent: Snapshot | None
    manifest: ManifestReader | None
    plan_id: str
    plan: Plan
    pool: Pool

    def open(self) -> DividedSession:
        source = self.context.resources.source(self.job, self.plan.source)
        if not isinstance(source, DividedSource):
            raise SourceError(
                f"source {self.plan.source} of job {self.job.job} cannot be divided", next_step="backupctl config show"
            )
        host = self.context.resources.host(self.job.sources[self.plan.source].host)
        return source.open_part(host, self.context.clock)

    def store(self, number: int, *, helping: bool = False) -> str:
        """A stretch; its record's id. Everything it names is durable then. Raises SourceError, with `helping`, when something
        could not be read to its end: it may be this worker that cannot."""
        said = self.context.clock.monotonic()

        def progress(files: int, done: int, path: bytes) -> None:
            nonlocal said
            self.context.reporter.progress("backing up", done, None, item=path.decode("utf-8", "backslashreplace"))
            if (now := self.context.clock.monotonic()) - said > self.patience.total_seconds() / 4:
                said = now
                self._moves(number)

        with (
            SnapshotWriter(
                self.repository,
                parent=self.parent,
                parent_manifest=self.manifest,
                progress=progress,
                clock=self.context.clock,
                part=True,
                pool=self.pool,
            ) as writer,
            self.open() as session,
        ):
            problems = writer.add_source(self.plan.source, session.stretch(self.plan.stretches[number]))
            broken = next((one for one in problems if one.kind == "failed"), None)
            if helping and broken is not None:
                raise SourceError(
                    f"{broken.source}/{broken.path}: {broken.message}",
                    source=broken.source,
                    next_step=f"backupctl job check {self.job.job}",
                )
            written = writer.finish()
            looks = writer.looks[self.plan.source]
            return stretches.save_stretch(self.repository, written, looks, problems, writer.notes, session.met())

    @property
    def patience(self) -> timedelta:
        fleet = self.context.settings.fleet
        assert fleet is not None
        return fleet.stalled_after

    def _moves(self, number: int) -> None:
        try:
            self.context.catalog.stretch_moves(self.plan_id, number, self.run.id, self.run.epoch)
        except UnreachableError as error:
            self.context.reporter.event("warning", f"the catalog was not told: {error.message}", run=self.run.id)

    def take(self, late: datetime | None = None) -> int | None:
        return self.ask(lambda of: of.take_stretch(self.plan_id, self.run.id, self.run.epoch, late=late))

    def finish(self, number: int, record: str) -> bool:
        return self.ask(lambda of: of.finish_stretch(self.plan_id, number, self.run.id, self.run.epoch, record))

    def rows(self) -> list[Stretch]:
        return self.ask(lambda of: of.stretches(self.plan_id))

    def ask(self, question: Callable[[Catalog], T]) -> T:
        """The catalog's server may be away for a while. A run for which that is too long is stopped by its heartbeat."""
        while True:
            try:
                return question(self.context.catalog)
            except UnreachableError as error:
                self.context.reporter.event("warning", f"waiting for the catalog: {error.message}", run=self.run.id)
                self.context.clock.sleep(POLL_SECONDS)


def add_divided(
    context: Context,
    run: Run,
    job: Job,
    repository: Repository,
    writer: SnapshotWriter,
    parent: Snapshot | None,
    manifest: ManifestReader | None,
    name: str,
    session: DividedSession,
) -> list[Problem]:
    """`SnapshotWriter.add_source`, by as many workers as `split` allows and there are."""
    if context.settings.fleet is None:  # a drill rehearses it, for one
        return writer.add_source(name, session.trees())
    plan = _plan(context, job, repository, parent, name, session)
    if not plan.stretches:
        return writer.add_source(name, session.trees())
    with _workers() as pool:
        part = Part(context, run, job, repository, parent, manifest, plan.save(repository), plan, pool)
        return _divided(part, writer, session)


def _divided(part: Part, writer: SnapshotWriter, session: DividedSession) -> list[Problem]:
    context, job, run, plan = part.context, part.job, part.run, part.plan
    name = plan.source
    try:
        helpers = _ask_for_helpers(part, (session.split or 1) - 1)
    except UnreachableError as error:
        text = f"{name} is not divided: {error.message}"
        context.reporter.event("warning", text, job=job.job, run=run.id, source=name)
        return writer.add_source(name, session.trees())
    context.reporter.event(
        "note",
        f"{name} is divided into {len(plan.stretches)} stretches, for at most {session.split} workers",
        job=job.job,
        run=run.id,
        source=name,
    )
    with _helped(part, helpers):
        problems = writer.add_source(name, session.trees(plan.directories), divided=True)
        rows = _work_to_the_end(part)
        found = _loaded(part, rows)
    problems += writer.add_stretches(plan.directories, found)
    for one in found:
        session.seen(one.kinds, one.seen_bytes)
    by_others = sum(row.hand != run.id for row in rows)
    text = f"{name}: {len(rows)} stretches, {by_others} of them stored by other workers"
    context.reporter.event("note", text, job=job.job, run=run.id, source=name, stretches=len(rows), by_others=by_others)
    kept = [(stretches.RECORD_KIND, record) for record in (part.plan_id, *(row.record for row in rows))]
    _forget(part, [*kept, *((MANIFEST, one.manifest) for one in found)])
    return problems


def _plan(
    context: Context, job: Job, repository: Repository, parent: Snapshot | None, name: str, session: DividedSession
) -> Plan:
    def load(tree: bytes) -> bytes:
        return repository.load_blob("tree", tree)

    tree = None
    if parent is not None:
        try:
            nodes = stretches.nodes_of(load, parent.tree)
            tree = next((node.subtree for node in nodes if node.name == name.encode()), None)
        except DamageError as error:
            context.reporter.event("warning", f"dividing {name} by looking at it: {error.message}", job=job.job)
    least = stretches.LEAST
    found = plan_stretches(session.weights(load, tree, least=least), session.split or 1, least=least)
    distrusted = sorted(repository.distrusted)
    return Plan(name, parent.id if parent is not None else "", session.inodes(), found, distrusted)


@contextmanager
def _workers() -> Iterator[Pool]:
    """For all stretches that this process stores."""
    pool = Pool()
    try:
        yield pool
    except BaseException:
        pool.close(kill=True)
        raise
    pool.close()


def _ask_for_helpers(part: Part, number: int) -> list[Run]:
    """Raises UnreachableError: then nobody was asked."""
    context, plan = part.context, part.plan
    catalog, now = context.catalog, context.clock.now()
    catalog.add_stretches(part.plan_id, len(plan.stretches), run=part.run.id, epoch=part.run.epoch)
    options = {"job": part.job.job, "after": part.run.id, "plan": part.plan_id}
    names = [f"{part.job.job}/{plan.source}/{one + 1}" for one in range(min(number, len(plan.stretches) - 1))]
    return catalog.enqueue_all(catalog.draft(KIND, name, now, trigger="after", options=options) for name in names)


@contextmanager
def _helped(part: Part, helpers: Sequence[Run]) -> Iterator[None]:
    """Helpers take stretches inside. None is left waiting afterwards."""
    catalog = part.context.catalog
    try:
        yield
    finally:
        try:
            for one in helpers:
                if not catalog.cancel(one.id, message="no worker was free for it", state="skipped", states=("queued",)):
                    catalog.ask_to_stop(one.id, message="the run that it helped is done with it")
            catalog.remove_stretches(part.plan_id)
        except UserError as error:  # they find out by themselves that the run is over
            text = f"helpers of this run were not told: {error.message}"
            part.context.reporter.event("warning", text, run=part.run.id)


def _work_to_the_end(part: Part) -> list[Stretch]:
    """Take stretches until every one is stored, by whomever; who has stored which."""
    while True:
        rows = part.rows()
        number = part.take(part.context.clock.now() - SLOW * part.patience)
        if number is not None:
            part.finish(number, part.store(number))
        elif len(rows) == len(part.plan.stretches) and all(row.record for row in rows):
            return rows
        else:
            part.context.clock.sleep(POLL_SECONDS)


def _loaded(part: Part, rows: Sequence[Stretch]) -> list[stretches.Stretch]:
    """What is stored of each stretch; stored here and now where that cannot be used."""

    def load(row: Stretch) -> stretches.Stretch | DamageError | NoSuchError:
        try:
            return load_stretch(part.repository, row.record)
        except (DamageError, NoSuchError) as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        loaded = list(pool.map(load, rows))
    found = []
    for row, one in zip(rows, loaded, strict=True):
        if not isinstance(one, stretches.Stretch):
            text = f"a stretch of {part.plan.source} is stored again: {one.message}"
            part.context.reporter.event("warning", text, job=part.job.job, run=part.run.id)
            row.record, row.hand = part.store(row.number), part.run.id
            one = load_stretch(part.repository, row.record)
        found.append(one)
    return found


def _forget(part: Part, records: Iterable[tuple[str, str]]) -> None:
    """What was kept for joining. A store that forbids deleting keeps it until a prune."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        gone = [pool.submit(part.repository.delete_record, *one) for one in records]
    for one in gone:
        error = one.exception()
        if error is not None and not isinstance(error, StorageError):
            raise error
        if error is not None:
            text = f"records that are no longer needed stay: {error.message}"
            part.context.reporter.event("note", text, run=part.run.id)
            return


def run_stretch(context: Context, run: Run) -> Outcome:
    """A helper: takes stretches of another run's source and stores them, until none is left or that run is over. Raises UserError
    when this worker cannot read what the other reads; what it could not store is left to the others."""
    job_name, source, _ = run.name.split("/")
    job = context.job(job_name)
    repository = context.resources.repository(job.repository)
    with repository.lock(), _workers() as pool:
        part = _part(context, run, job, repository, pool)
        with part.open() as session:
            if session.inodes() != part.plan.inodes:
                raise SourceError(
                    f"host {job.sources[source].host} shows this worker another place than the one that is backed up",
                    source=source,
                    next_step="give the host a tag (`needs`) that only workers have which see the same files; docs/how-to/fleet.md",
                )
        done = lost = 0
        message = ""
        try:
            while (number := part.take()) is not None:
                record = part.store(number, helping=True)
                if part.finish(number, record):
                    done += 1
                else:
                    lost += 1
                    _forget(part, [(stretches.RECORD_KIND, record)])
        except FencedError as error:
            message = error.message
    words = [f"{done} of {len(part.plan.stretches)} stretches"]
    words += [f"{lost} stored in vain: another worker has them"] if lost else []
    return Outcome(
        state="complete",
        exit_code=0,
        message="; ".join(filter(None, (*words, message))),
        job=job.job,
        repository=job.repository,
        summary={"stretches": done},
    )


def _part(context: Context, run: Run, job: Job, repository: Repository, pool: Pool) -> Part:
    plan_id = str(run.options["plan"])
    plan = Plan.load(repository, plan_id)
    repository.distrust(plan.distrusted)
    parent, manifest = None, None
    if plan.parent:
        try:
            parent = repository.load_snapshot(plan.parent)
            manifest = read_manifest(repository, fingerprint_of(repository, parent)["manifest"])
        except (DamageError, NoSuchError) as error:
            context.reporter.event("warning", f"reading every file again: {error.message}", job=job.job)
            parent = None
    return Part(context, run, job, repository, parent, manifest, plan_id, plan, pool)

"""Objects rot, vanish and are swapped in the repository: each is found by name, none is handed out, and a copy mends them.

All of it on the real objects of the tested snapshot, in an overlay that keeps damage and repair in memory: nothing is written
to the real places.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.scenarios.single_file import draw
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError, DamageError, NoSuchError
from backupctl.repository.check import check
from backupctl.repository.check_records import check_records
from backupctl.repository.check_trees import CheckProblem
from backupctl.repository.format.names import display_name
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import ManifestEntry
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repair_packs import apply_packs, plan_packs
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.survey import examine
from backupctl.sources.protocol import CheckResult
from backupctl.storage.protocol import ObjectStore

DRAWN_FILES = 40  # to find packs by

Damage = Callable[[ObjectStore, str, random.Random], None]


def flip(store: ObjectStore, name: str, chance: random.Random) -> None:
    data = bytearray(store.get(name))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    store.put(name, bytes(data))


def truncate(store: ObjectStore, name: str, chance: random.Random) -> None:
    data = store.get(name)
    store.put(name, data[: chance.randrange(1, len(data))])


def lose(store: ObjectStore, name: str, chance: random.Random) -> None:
    store.delete(name)


def replay(store: ObjectStore, name: str, chance: random.Random) -> None:
    """Another good object under this one's name."""
    others = [info.name for info in store.list(name.partition("/")[0] + "/") if info.name != name]
    if not others:
        flip(store, name, chance)
    else:
        store.put(name, store.get(chance.choice(others)))


PACK_DAMAGE: tuple[tuple[str, Damage], ...] = (
    ("one bit flipped", flip),
    ("lost", lose),
    ("cut short", truncate),
    ("replaced by another good one", replay),
)


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    request, chance = stage.request, stage.chance()
    snapshot = request.snapshot
    others = [name for name in (request.job.repository, *request.job.copies) if name != request.repository]
    if not others or snapshot is None or request.manifest is None:
        raise CouldNotRunError(
            f"job {request.job.job} has no copy to repair from", next_step="give it one: `copies: [REPOSITORY]`"
        )
    outcome = SourceOutcome(f"repository {request.repository}", level=3)
    stage.outcomes.append(outcome)
    with stage.stopwatch.phase("check"):
        outcome.checks += _facts_found(stage, snapshot, record, chance)
    with stage.stopwatch.phase("damage"):
        repository = stage.rehearsed(request.repository)
        victims = victims_of(stage)
        damaged = _damage_packs(repository, snapshot, reader, victims, chance)
    stage.stopwatch.strike()
    with stage.stopwatch.phase("find the damage"):
        found = examine(repository, list(damaged))
    names = {pack_name(pack): one.why for pack, one in found.items()}
    outcome.checks += [_named(pack_name(pack), how, names) for pack, how in damaged.items()]
    outcome.checks += _refused(repository, snapshot, victims, set(damaged))
    stage.deadline.left()
    with stage.stopwatch.phase("repair"), repository.lock(exclusive=True):
        plan = plan_packs(repository, [snapshot], list(damaged), [stage.rehearsed(name) for name in others])
        done = apply_packs(repository, plan)
    lost = len(plan.survey.lost) + len(done.failed)
    outcome.checks.append(
        CheckResult(
            f"repair from {', '.join(others)}",
            "nothing stays lost",
            f"{lost} blobs stay lost" if lost else "nothing stays lost",
            not lost,
            4,
            detail=f"{done.salvaged} blobs still readable, {done.fetched} from the copy",
        )
    )
    repaired = Repository(repository.store, repository.keys, repository.config, clock=stage.deadline.clock)
    with SnapshotReader(repaired, snapshot) as again:
        stage.request = replace(request, reader=again)
        mended = Rehearsal(
            stage.request,
            stage.sandbox,
            stage.stopwatch,
            stage.deadline,
            stage.progress,
            instances=stage.instances,
            heartbeats=stage.heartbeats,
            looked=stage.looked,
        )
        mended.run(again, record)
    stage.outcomes += mended.outcomes
    stage.probes += mended.probes
    stage.trouble += mended.trouble
    stage.restored_bytes = mended.restored_bytes


def _facts_found(stage: Rehearsal, snapshot: Snapshot, record: Record, chance: random.Random) -> list[CheckResult]:
    """One bit in what says what the snapshot is: the snapshot itself and an index, for `check`; each of its records alone,
    since a damaged one no longer names the next."""
    repository = stage.rehearsed(stage.request.repository)
    index = chance.choice([info.name for info in repository.store.list("index/")])
    damaged = [(repository, [f"snapshots/{snapshot.id}", index])]
    records = [tag.replace(":", "/") for tag in snapshot.tags if tag.startswith("fingerprint:")]
    for name in (*records, f"manifest/{record['manifest']}"):
        damaged.append((stage.rehearsed(stage.request.repository), [f"backupctl/{name}"]))
    checks = []
    for number, (repository, names) in enumerate(damaged):
        said: dict[str, str] = {}

        def report(name: str, message: str, said: dict[str, str] = said) -> CheckProblem:
            said[name] = message
            return CheckProblem(name, message)

        for name in names:
            flip(repository.store, name, chance)
        if number == 0:
            with repository.lock():
                said |= {problem.object_name: problem.message for problem in check(repository).problems}
        else:
            check_records(repository, [snapshot], report, every=False)
        checks += [_named(name, "one bit flipped", said) for name in names]
    return checks


def victims_of(stage: Rehearsal) -> list[ManifestEntry]:
    """Drawn files and dumps of the tested snapshot that have content."""
    manifest, sources = stage.request.manifest, sorted(stage.request.sources)
    assert manifest is not None
    every = (one for source in sources for one in manifest.source(source) if one.type == "file" and one.size)
    return draw(every, DRAWN_FILES, stage.chance())


def _damage_packs(
    repository: Repository,
    snapshot: Snapshot,
    reader: SnapshotReader,
    victims: list[ManifestEntry],
    chance: random.Random,
) -> dict[bytes, str]:
    """Each kind of damage to a pack that the snapshot needs, as far as there are packs, of content first; how, by pack."""
    packs = dict.fromkeys(
        repository.locate("data", blob)[0].pack for one in victims for blob in reader.node(one.path).content or ()
    )
    packs |= {repository.locate("tree", snapshot.tree)[0].pack: None}
    if not victims:
        raise CouldNotRunError("the snapshot has no content to damage", next_step="back something up first")
    chosen = dict(zip(packs, PACK_DAMAGE, strict=False))
    for pack, (_, damage) in chosen.items():
        damage(repository.store, pack_name(pack), chance)
    return {pack: how for pack, (how, _) in chosen.items()}


def _named(name: str, how: str, said: dict[str, str]) -> CheckResult:
    return CheckResult(f"found: {name}, {how}", "named as damaged", said.get(name, "not found"), name in said, 4)


def _refused(
    repository: Repository, snapshot: Snapshot, victims: list[ManifestEntry], damaged: set[bytes]
) -> list[CheckResult]:
    """What lies in damaged packs comes either out right, since that part is whole, or not at all."""
    refused = right = 0
    wrong: list[str] = []
    with SnapshotReader(repository, snapshot) as reader:
        for one in victims:
            try:
                with reader.open(one.path) as stream:
                    digest = hashlib.sha256()
                    while data := stream.read(1 << 20):
                        digest.update(data)
            except (DamageError, NoSuchError):
                refused += 1
            else:
                good = digest.hexdigest() == one.sha256
                right += good
                wrong += [] if good else [display_name(one.path)]
    actual = f"{refused} refused, {right} whole, {len(wrong)} wrong"
    return [
        CheckResult(
            "no damaged content is handed out", "0 wrong, some refused", actual, not wrong and refused > 0, 4,
            detail=", ".join(wrong[:3]),
        )
    ]  # fmt: skip


SCENARIO = Scenario(
    name="corrupted-objects",
    proves="damage in the repository is found by name, never handed out as good, and mended from a copy",
    steps=(
        "flip one bit in the snapshot, its manifest, its fingerprint and an index; check must name each",
        "flip a bit in one pack, lose one, cut one short, put another good one in the place of one",
        "declare the disaster; find them, and read drawn files while they are damaged",
        "repair the packs from the job's copies",
        "restore and compare everything from the repaired repository, as in `full`",
    ),
    criteria=(
        "every damaged object is named",
        "no file comes out with other bytes than its manifest says, and some are refused",
        "nothing stays lost after the repair",
        "everything that `full` asks for",
    ),
    needs=("a job with `copies`", "memory for the damaged packs (about 16 MiB each, four of them)"),
    run=run,
)

"""Negative controls: a drill on a copy that was damaged on purpose must say `fail`, or nothing that drills say is worth much.

The damage lies in an overlay in memory. The drill itself is not told of it, and gets no copy to read from instead.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from backupctl.clock import Clock
from backupctl.drills.model import DrillRequest, DrillResult
from backupctl.drills.scenarios.corrupted_objects import PACK_DAMAGE
from backupctl.drills.scenarios.single_file import draw
from backupctl.errors import CouldNotRunError
from backupctl.repository.format.names import display_name
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository, pack_name
from backupctl.sources.protocol import CheckResult
from backupctl.storage.overlay import OverlayStore

CHECK = "the drill says `fail` of a damaged backup"
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Damage:
    """`kind` of damage to `object`, which holds content of `path`."""

    kind: str
    object: str
    path: str


def damaged_request(request: DrillRequest, repository: Repository, clock: Clock) -> tuple[DrillRequest, Damage]:
    """The same request, reading from a damaged copy of the snapshot: one pack that it needs, drawn with the drill's id, is
    spoiled. Raises CouldNotRunError when there is nothing to damage."""
    snapshot, manifest, reader = request.snapshot, request.manifest, request.reader
    if snapshot is None or manifest is None or reader is None:
        raise CouldNotRunError("there is no backup to damage", next_step=f"backupctl run {request.job.job}")
    chance = random.Random(request.id)  # noqa: S311  a draw that anybody can repeat, no secret
    every = (
        one for name in sorted(request.sources) for one in manifest.source(name) if one.type == "file" and one.size
    )
    victims = draw(every, 1, chance)
    if not victims:
        raise CouldNotRunError("the snapshot has no content to damage", next_step="back something up first")
    overlay = OverlayStore(repository.store, clock=clock, hidden=("locks/",))
    copy = Repository(overlay, repository.keys, repository.config, clock=clock)
    content = reader.node(victims[0].path).content or []
    name = pack_name(repository.locate("data", chance.choice(content))[0].pack)
    kind, spoil = chance.choice(PACK_DAMAGE)
    spoil(overlay, name, chance)
    damage = Damage(kind, name, display_name(victims[0].path))
    return replace(request, reader=SnapshotReader(copy, snapshot)), damage


def judged(result: DrillResult, damage: Damage) -> None:
    """Turn what the drill said of the damaged copy into what that says of the drill: `pass` when it said `fail`, `fail` when
    it did not see the damage, and nothing when it could not run."""
    said, why = result.verdict, result.reasons
    result.control = {
        "damage": damage.kind,
        "object": damage.object,
        "path": damage.path,
        "expected": "fail",
        "said": said,
        "reasons": why[:SHOWN],
    }
    seen = said == "fail"
    result.checks = [
        CheckResult(
            CHECK,
            "fail",
            said,
            seen,
            0,
            detail=f"{damage.object} {damage.kind}, of {damage.path}: {'; '.join(why[:1])}",
        )
    ]
    result.level = 0
    result.rto_seconds = result.rpo_seconds = None  # nothing was to be recovered
    if seen:
        result.verdict, result.reasons = "pass", []
    elif said in ("pass", "stale"):
        result.verdict = "fail"
        result.reasons = [
            f"the drill system is broken: it said {said} of a backup that was damaged on purpose ({damage.kind}: {damage.object})"
        ]

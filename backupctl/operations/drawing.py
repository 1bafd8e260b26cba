"""Draw what a drill rehearses, with the proof of the draw in the audit trail. See `catalog/selection`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from backupctl.catalog.models import Event
from backupctl.catalog.selection import (
    ALL_SOURCES,
    COMMITTED,
    DRAWN,
    LATEST,
    OLDEST,
    Population,
    choose,
    commitment_of,
    population,
    seed_of,
)
from backupctl.config.durations import parse_duration
from backupctl.config.models import Job
from backupctl.config.resources import Resources
from backupctl.errors import UserError
from backupctl.operations.context import Context
from backupctl.operations.records import of_job

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Drawn:
    """`sources` is None for all that the snapshot has. `facts`: what the drill's record says of the draw."""

    place: str
    snapshot: str
    sources: frozenset[str] | None
    facts: dict[str, Any]


def commit(context: Context, job: Job) -> None:
    """Commit to the secret of the next draw for every drill of the job that draws and has no commitment open."""
    for name, settings in job.drills.items():
        drill = f"{job.job}/{name}"
        if settings.select is not None and _open_commitment(context, drill) is None:
            context.audit(COMMITTED, drill, commitment=_new_secret(context, drill))


def draw(context: Context, job: Job, drill: str, run: str) -> Drawn | None:
    """What this drill rehearses; written to the audit trail before it returns. None when there is nothing to choose from.
    Raises what a place said when none could be looked into."""
    there = look(context, job, drill.partition("/")[2])
    if not there.ages:
        return None
    commit(context, job)
    found = _open_commitment(context, drill)
    assert found is not None  # made just now
    committing, secret = found
    events = context.catalog.events_of([DRAWN], drill)
    history = [event.detail["chosen"] for event in events]
    seed = seed_of(secret, committing.hash)
    choice = choose(there, history, seed)
    chosen = choice.chosen
    snapshot = there.ages[chosen["age"]][chosen["place"]]
    context.audit(
        DRAWN,
        drill,
        run=run,
        committed=committing.number,
        secret=secret.hex(),
        seed=seed.hex(),
        population=there.to_json(),
        candidates=dict(choice.candidates),
        chosen={**chosen, "snapshot": snapshot},
        commitment=_new_secret(context, drill),
    )
    event = context.catalog.events_of([DRAWN], drill)[-1]
    source = chosen["source"]
    return Drawn(
        chosen["place"],
        snapshot,
        None if source == ALL_SOURCES else frozenset((source,)),
        {"event": event.number, "committed": committing.number, **chosen, "candidates": dict(choice.candidates)},
    )


def look(context: Context, job: Job, drill_name: str) -> Population:
    """What there is to choose from now. The repositories are opened for this alone: what a recovery needs for that is
    measured in the drill itself."""
    settings = job.drills[drill_name].select
    assert settings is not None
    points, sources, missing = {}, {}, {}
    first: UserError | None = None
    with Resources(context.settings, context.clock) as resources:
        for place in settings.places or [job.repository, *job.copies]:
            try:
                repository = resources.repository(place)
                complete = of_job(repository.snapshots(), job.job, complete_only=True)
            except UserError as error:
                first = first or error
                missing[place] = error.message
                continue
            points[place] = [(one.id, one.time) for one in complete]
            for one in complete:
                held = {path.strip("/") for path in one.paths} & job.sources.keys()
                sources[one.id] = sorted(held) if settings.sources == "one" else [ALL_SOURCES] if held else []
    if first is not None and not points:
        raise first
    ages: Mapping[str, timedelta | str] = {
        word: word if word in (LATEST, OLDEST) else parse_duration(word) for word in settings.ages
    }
    return population(points, ages, sources, missing, context.clock.now())


def _open_commitment(context: Context, drill: str) -> tuple[Event, bytes] | None:
    """The event with the newest commitment, and its secret; None when there is none, or the secret is lost."""
    events = context.catalog.events_of([COMMITTED, DRAWN], drill)
    if not events:
        return None
    secret = context.catalog.draw_secret(events[-1].detail["commitment"])
    return None if secret is None else (events[-1], secret)


def _new_secret(context: Context, drill: str) -> str:
    """Make one, keep it, and return what it is committed to by."""
    secret = secrets.token_bytes(SECRET_BYTES)
    commitment = commitment_of(secret)
    context.catalog.keep_draw_secret(drill, commitment, secret)
    return commitment

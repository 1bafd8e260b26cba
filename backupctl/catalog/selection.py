"""Which snapshot, from which place, and which sources a drill rehearses: a rotation, drawn so that nobody can choose. Pure.

The rotation goes over ages, places and sources, each on its own: what had no turn in the current round is a candidate, and
the draw decides among those. The draw is by commit and reveal. A secret is made, and its hash written to the audit trail,
before anybody knows what there will be to choose from. At the drill the secret is revealed there, with everything that was to
be chosen from and what came out, before anything is restored; and the next secret is committed to in the same event. So a draw
cannot be made again without a trace, and one whose drill never ended stands there too.

    commitment = SHA-256(secret)                                        secret: 32 bytes
    seed       = SHA-256(secret || SHA-256 of the event with the commitment, as that event's `hash` says)
    chosen     = of the candidates, the one with the smallest SHA-256(seed || dimension || 0x00 || candidate)

Texts in UTF-8, hashes as 32 bytes. `evidence/draws.py` computes all of it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

LATEST, OLDEST = "latest", "oldest"
ALL_SOURCES = "all"
DIMENSIONS = ("age", "place", "source")
COMMITTED, DRAWN = "drill.committed", "drill.drawn"

Points = Mapping[str, Sequence[tuple[str, datetime]]]
"""By place, the complete snapshots of a job there: (id, time), oldest first."""


@dataclass(frozen=True, slots=True)
class Population:
    """What there was to choose from. `ages`: by age, in each place that has one, the snapshot. `missing`: places that could
    not be looked into, with the reason. `sources`: of each of those snapshots, what can be rehearsed."""

    ages: Mapping[str, Mapping[str, str]]
    sources: Mapping[str, Sequence[str]]
    missing: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "ages": {age: dict(places) for age, places in self.ages.items()},
            "sources": {snapshot: list(names) for snapshot, names in self.sources.items()},
            "missing": dict(self.missing),
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """`candidates` and `chosen` by dimension."""

    candidates: Mapping[str, list[str]]
    chosen: Mapping[str, str]


def commitment_of(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def seed_of(secret: bytes, committing_hash: str) -> bytes:
    return hashlib.sha256(secret + bytes.fromhex(committing_hash)).digest()


def snapshot_of_age(points: Sequence[tuple[str, datetime]], age: timedelta | str, now: datetime) -> str | None:
    """The newest snapshot, the oldest, or the newest of those at least so old; None when there is none."""
    if not points:
        return None
    if isinstance(age, str):
        return points[-1 if age == LATEST else 0][0]
    old_enough = [one for one, time in points if time <= now - age]
    return old_enough[-1] if old_enough else None


def population(
    points: Points,
    ages: Mapping[str, timedelta | str],
    sources: Mapping[str, Sequence[str]],
    missing: Mapping[str, str],
    now: datetime,
) -> Population:
    """`ages` by the word the configuration has for each; `sources` by snapshot. An age that nothing has yet is left out, and so
    is a snapshot of which nothing can be rehearsed."""
    found: dict[str, dict[str, str]] = {}
    for word, age in ages.items():
        places = {
            place: snapshot
            for place, those in points.items()
            if (snapshot := snapshot_of_age([one for one in those if sources[one[0]]], age, now)) is not None
        }
        if places:
            found[word] = places
    used = {snapshot for places in found.values() for snapshot in places.values()}
    return Population(found, {one: sorted(sources[one]) for one in sorted(used)}, missing)


def choose(there: Population, history: Sequence[Mapping[str, str]], seed: bytes) -> Choice:
    """`history`: what earlier draws of this drill chose, oldest first. ValueError for an empty population."""
    candidates: dict[str, list[str]] = {}
    chosen: dict[str, str] = {}
    for dimension in DIMENSIONS:
        available = sorted(_available(there, dimension, chosen))
        candidates[dimension] = open_round([one[dimension] for one in history if dimension in one], available)
        chosen[dimension] = draw(seed, dimension, candidates[dimension])
    return Choice(candidates, chosen)


def _available(there: Population, dimension: str, chosen: Mapping[str, str]) -> Iterable[str]:
    if dimension == "age":
        return there.ages
    places = there.ages[chosen["age"]]
    return places if dimension == "place" else there.sources[places[chosen["place"]]]


def open_round(history: Iterable[str], available: Sequence[str]) -> list[str]:
    """Of `available`, what had no turn in the round that is under way; all of it when the round is over. Of what is no longer
    available nothing is remembered."""
    done: set[str] = set()
    for one in history:
        done.add(one)
        if done.issuperset(available):
            done.clear()
    return [one for one in available if one not in done]


def draw(seed: bytes, dimension: str, candidates: Sequence[str]) -> str:
    return min(candidates, key=lambda one: hashlib.sha256(seed + dimension.encode() + b"\0" + one.encode()).digest())

"""Whether a run saw what an attack looks like. Pure: measures of one run and what is remembered of earlier ones go in, signals
with points come out.

No signal alone decides, except those that hardly have another cause: points are added up, and 100 of them make a snapshot
suspicious. Nothing here stops a backup. A run's measures enter what is remembered only when it was not suspicious, or when a
person cleared it, so that an attack does not become what is usual.

Everything is plain JSON, kept in the sealed record `fingerprint` beside the snapshot under `anomalies`:
`{"measures": {...}, "past": {...}, "signals": [...], "suspicious": bool}`. `past` is carried from record to record, so the
newest one is enough to go on, and the bucket is enough to have it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import median
from typing import Any

from backupctl.sources.protocol import differ

SUSPICIOUS = 100
WORTH_A_NOTE = 50
RUNS = 30
"""So many earlier runs are remembered."""
WARM_UP = 14
"""So many are needed before a day can be unusual."""

HEAVY_DELETION = ((0.3, 50), (0.5, 10))
"""Share of the files that were there, and how many at least."""
SUFFIXED_SHARE, SUFFIXED_FILES, SUFFIXED_ALWAYS = 0.2, 5, 200
CHANGED_SHARE, CHANGED_FILES, CHANGED_Z = 0.05, 100, 4.0
CALM_SHARE, CALM_FILES = 0.05, 10
"""A type of file of which fewer than this share had a random block, in at least so many files, is text-like."""
TURNED_FILES, TURNED_SHARE, TURNED_SOME = 20, 0.3, 5
SEEPING, SEEPING_TIMES, SEEPING_SLACK = 8.0, 2.0, 0.1
"""A cumulative sum (Page's CUSUM): each run adds its odd files less twice what is usual and a tenth; so many are an alarm."""
UNSURE = 10
"""So many runs later it is learned what a type of file usually looks like: by then slow poison should have added up."""
BLOCK_RISE, BLOCKS = 0.3, 200
MISTYPED_SHARE, MISTYPED_FILES, MISTYPED_BEFORE = 0.05, 5, 0.02
PACKED_NOW, PACKED_BEFORE, PACKED_BYTES = 0.95, 0.7, 8 << 20
ADDED_TIMES, ADDED_SHARE = 5.0, 0.2
SHRUNK_SHARE, SHRUNK_BYTES = 0.3, 1 << 20
ROWS_SOME, ROWS_MANY, ROWS_AT_LEAST = 0.2, 0.5, 20

COMPRESSED = frozenset(
    {"gz", "bz2", "xz", "zst", "lz4", "zip", "7z", "bak", "old", "orig", "tmp", "part", "asc", "sig", "sha256"}
)
"""Endings that people and programs add to many files at once."""

Measures = dict[str, Any]
Past = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Signal:
    """`text` holds counts, and names of sources, tables, canaries and file types: it is for those who may see the job."""

    name: str
    points: int
    text: str


@dataclass(frozen=True, slots=True)
class Judgement:
    signals: tuple[Signal, ...] = ()

    @property
    def points(self) -> int:
        return sum(one.points for one in self.signals)

    @property
    def suspicious(self) -> bool:
        return self.points >= SUSPICIOUS

    @property
    def words(self) -> str:
        return "; ".join(one.text for one in self.signals)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Judgement:
        """As a record tells it, of this version or an earlier one; without signals when it has none."""
        return cls(tuple(Signal(**one) for one in record.get("signals", ())))

    def record(self, measures: Measures, past: Past) -> dict[str, Any]:
        return {
            "measures": measures,
            "past": past,
            "signals": [asdict(one) for one in self.signals],
            "points": self.points,
            "suspicious": self.suspicious,
        }


def judge(measures: Measures, past: Past) -> Judgement:
    """`measures`: `{"sources": {name: {...}}, "added", "packed", "total", "canaries", "canary_tables"}`; see
    `operations.anomalies.measure` for how each is taken. What is missing is not judged."""
    signals = [*_canaries(measures, past)]
    for name, source in sorted(measures.get("sources", {}).items()):
        signals += _tables(name, source)
        signals += _files(name, source, past)
        signals += _content(name, source, past)
    return Judgement((*signals, *_space(measures, past)))


def carried(past: Past, measures: Measures, *, everything: bool = False) -> Past:
    """What the next run remembers, after one that is taken for usual. Of types of which more files turned random than chance
    allows, or some while odd files add up, nothing is learned, lest slow poison become usual; unless a person said that all
    of it was (`everything`)."""
    kinds: dict[str, dict[str, list[int]]] = {}
    for name, each in past.get("kinds", {}).items():
        kinds[name] = {**each}
    seeping = dict(past.get("seeping", {}))
    unsure: dict[str, list[dict[str, dict[str, list[int]]]]] = {
        name: [*each] for name, each in past.get("unsure", {}).items()
    }
    settled = len(past.get("runs", [])) >= WARM_UP
    for name, source in measures.get("sources", {}).items():
        risen = {kind for kind, rise, *_ in _turned(name, source, past) if rise >= 1}  # one alone may be chance
        level = _seeping(name, source, past)
        seeping.pop(name, None)
        if level.height > 0 and not everything:
            seeping[name] = [round(level.height, 2), level.files, level.runs]
        seen: dict[str, dict[str, list[int]]] = {"kinds": {}, "doubted": {}}
        for looks in source.get("looks", {}).values():
            for kind, counts in looks.items():
                into = seen["doubted" if kind in risen else "kinds"]
                into[kind] = _added(into.get(kind), counts)
        waiting = unsure.setdefault(name, [])
        waiting.append(seen)
        known = kinds.setdefault(name, {})
        while waiting and (everything or not settled or len(waiting) > UNSURE):
            oldest = waiting.pop(0)
            trusted = ("kinds", "doubted") if everything else ("kinds",) if level.height < SEEPING / 2 else ()
            for kind, counts in chain.from_iterable(oldest[one].items() for one in trusted):
                known[kind] = _added(known.get(kind), counts)
    keep = ("files", "bytes", "rewritten", "deleted", "files_before")
    run: Measures = {
        "sources": {
            name: {key: source[key] for key in keep if source.get(key) is not None}
            | ({"suffixed": sum(_endings(source).values())} if "suffixed" in source else {})
            for name, source in measures.get("sources", {}).items()
        },
        **{key: measures[key] for key in ("added", "packed", "total") if key in measures},
    }
    canaries = {**past.get("canaries", {}), **measures.get("canaries", {})}
    tables = {**past.get("canary_tables", {}), **measures.get("canary_tables", {})}
    runs = [*past.get("runs", []), run][-RUNS:]
    return {
        "kinds": kinds,
        "runs": runs,
        "seeping": seeping,
        "unsure": unsure,
        "canaries": {path: digest for path, digest in canaries.items() if digest},
        "canary_tables": {name: digest for name, digest in tables.items() if digest},
    }


def _added(known: Sequence[int] | None, counts: Sequence[int]) -> list[int]:
    summed = [a + b for a, b in zip(known or [0] * len(counts), counts, strict=True)]
    return [count // 2 for count in summed] if summed[0] > 1_000_000 else summed  # old days fade


def _canaries(measures: Measures, past: Past) -> Iterator[Signal]:
    for what, word in (("canaries", "canary"), ("canary_tables", "canary table")):
        for name, digest in sorted(measures.get(what, {}).items()):
            before = past.get(what, {}).get(name)
            if before is not None and differ(before, digest):
                yield Signal("canary", 100, f"{word} {name} is {'changed' if digest else 'gone'}")


def _tables(name: str, source: Measures) -> Iterator[Signal]:
    gone = source.get("tables_gone", [])
    if gone:
        yield Signal("tables gone", 100, f"{name}: {len(gone)} table(s) with rows are gone: {', '.join(gone[:3])}")
    for table, (before, after) in sorted(source.get("rows_lost", {}).items()):
        share = (before - after) / before
        points = 100 if share >= ROWS_MANY else 60
        yield Signal("rows lost", points, f"{name}: {table} has {after:,} of {before:,} rows left")


def rows_lost(before: int, after: int) -> bool:
    """Whether a table lost so many rows that it is worth a signal."""
    return before - after >= max(ROWS_AT_LEAST, ROWS_SOME * before)


def _files(name: str, source: Measures, past: Past) -> Iterator[Signal]:
    notes = source.get("notes", 0)
    if notes:
        yield Signal("ransom note", 100 if notes > 2 else 60, f"{name}: {notes} new file(s) called as ransom notes are")
    before = source.get("files_before")
    if not before:
        return
    deleted, rewritten = source.get("deleted", 0), source.get("rewritten", 0)
    if any(deleted >= max(least, share * before) for share, least in HEAVY_DELETION):
        yield Signal("deletion", 100, f"{name}: {deleted:,} of {before:,} files are gone and not elsewhere")
    added = _endings(source)
    suffixed = sum(added.values())
    if suffixed >= SUFFIXED_ALWAYS or suffixed >= max(SUFFIXED_FILES, SUFFIXED_SHARE * before):
        kinds = ", ".join(sorted(added, key=lambda kind: -added[kind])[:3])
        yield Signal("renaming", 100, f"{name}: {suffixed:,} files have other content and a further ending: {kinds}")
    usual = [one["rewritten"] for one in _history(name, past) if "rewritten" in one]
    if len(usual) >= WARM_UP and rewritten >= max(CHANGED_FILES, CHANGED_SHARE * before):
        z = robust_z(rewritten, usual)
        if z > CHANGED_Z:
            yield Signal(
                "changed", 50, f"{name}: {rewritten:,} of {before:,} files changed, {median(usual):,.0f} are usual"
            )
    shrunk = source.get("bytes_before", 0) - source.get("bytes", 0)
    if shrunk >= max(SHRUNK_BYTES, SHRUNK_SHARE * source.get("bytes_before", 0)):
        yield Signal("size", 30, f"{name}: {shrunk:,} bytes less than before")


def _endings(source: Measures) -> dict[str, int]:
    """Files whose name got an ending that people and programs do not add, by that ending."""
    return {kind: count for kind, count in source.get("suffixed", {}).items() if kind not in COMPRESSED}


def robust_z(value: float, usual: Sequence[float]) -> float:
    """On log(1+x): (x - median) / (1.4826 · MAD). Days that are all alike count as if they varied by a tenth."""
    logs = [math.log1p(one) for one in usual]
    middle = median(logs)
    deviation = median(abs(one - middle) for one in logs)
    return (math.log1p(value) - middle) / (1.4826 * max(deviation, 0.1))


def _history(name: str, past: Past) -> list[Measures]:
    return [run["sources"][name] for run in past.get("runs", []) if name in run.get("sources", {})]


def _turned(name: str, source: Measures, past: Past) -> Iterator[tuple[str, float, int, int]]:
    """By type that was text-like: how many more of its files have a random block than chance allows; how many have one; how
    many were rewritten. Chance: three deviations above the rate of the past, taken for a little higher than it was."""
    known = past.get("kinds", {}).get(name, {})
    for kind, (files, _, _, hits, *_) in source.get("looks", {}).get("rewritten", {}).items():
        all_files, _, _, all_hits, *_ = known.get(kind, (0, 0, 0, 0))
        if not hits or all_files < CALM_FILES or all_hits > CALM_SHARE * all_files:
            continue
        expected = (all_hits + 0.5) / (all_files + 20) * files
        rise = hits - expected - 3 * math.sqrt(expected)
        if rise > 0:
            yield kind, rise, hits, files


def _odd(name: str, source: Measures, past: Past) -> Iterator[tuple[str, int, float]]:
    """By type: rewritten files that turned random where that is rare, or no longer begin as their name says, whichever is
    more; and how many of them are usual among so many."""
    known = past.get("kinds", {}).get(name, {})
    for kind, now in source.get("looks", {}).get("rewritten", {}).items():
        before = known.get(kind, [0] * 6)
        found = [
            (now[odd], (before[odd] + 0.5) / (before[tried] + 20) * now[tried])
            for odd, tried, share in ((3, 0, CALM_SHARE), (5, 4, MISTYPED_BEFORE))
            if before[tried] >= CALM_FILES and before[odd] <= share * before[tried]
        ]
        if found:
            yield (kind, *max(found, key=lambda one: one[0] - one[1]))


@dataclass(frozen=True, slots=True)
class _Level:
    """How high odd files of a source have added up: the sum, their number and that of the runs since it left zero. `kinds`:
    of this run's. `rising`: this run added to it."""

    height: float
    files: int
    runs: int
    kinds: tuple[str, ...]
    rising: bool


def _seeping(name: str, source: Measures, past: Past) -> _Level:
    odd = list(_odd(name, source, past))
    files, usual = sum(one[1] for one in odd), sum(one[2] for one in odd)
    kinds = [kind or "no ending" for kind, count, _ in odd if count]
    renamed = [one["suffixed"] for one in _history(name, past) if "suffixed" in one]
    if len(renamed) >= WARM_UP and (endings := _endings(source)):
        files, usual, kinds = files + sum(endings.values()), usual + median(renamed), [*kinds, *endings]
    height, files_before, runs_before = past.get("seeping", {}).get(name, (0.0, 0, 0))
    more = files - SEEPING_TIMES * usual - SEEPING_SLACK
    height = max(0.0, height + more)
    return _Level(height, files_before + files, runs_before + 1, tuple(kinds), files > 0 and more > 0)


def _content(name: str, source: Measures, past: Past) -> Iterator[Signal]:
    turned = list(_turned(name, source, past))
    rise, hits, files = sum(one[1] for one in turned), sum(one[2] for one in turned), sum(one[3] for one in turned)
    kinds = ", ".join(kind or "no ending" for kind, *_ in turned[:3])
    level = _seeping(name, source, past)
    if hits >= TURNED_FILES and hits >= TURNED_SHARE * files:
        yield Signal("encryption", 100, f"{name}: {hits:,} of {files:,} rewritten files turned random ({kinds})")
    elif level.rising and level.height >= SEEPING:
        what = f"{level.files:,} files within {level.runs:,} run(s) turned random, or are not what their name says"
        yield Signal("seeping", 100, f"{name}: {what} ({', '.join(level.kinds[:3])})")
    elif rise >= TURNED_SOME:
        yield Signal("encryption", 60, f"{name}: {hits:,} of {files:,} rewritten files turned random ({kinds})")
    looks = source.get("looks", {}).get("rewritten", {})
    known = past.get("kinds", {}).get(name, {})
    blocks, random = (sum(counts[number] for counts in looks.values()) for number in (1, 2))
    were, random_were = (sum(counts[number] for counts in known.values()) for number in (1, 2))
    if blocks >= BLOCKS and were >= BLOCKS and random / blocks - random_were / were >= BLOCK_RISE:
        share, before = random / blocks, random_were / were
        yield Signal("entropy", 40, f"{name}: {share:.0%} of rewritten blocks look random, {before:.0%} before")
    typed, wrong, known_typed, known_wrong = 0, 0, 0, 0
    for kind, counts in looks.items():
        past_counts = known.get(kind, [0] * 6)
        if past_counts[5] <= MISTYPED_BEFORE * past_counts[4] and past_counts[4]:
            typed, wrong = typed + counts[4], wrong + counts[5]
            known_typed, known_wrong = known_typed + past_counts[4], known_wrong + past_counts[5]
    if wrong >= max(MISTYPED_FILES, MISTYPED_SHARE * typed):
        points = 100 if wrong >= 2 * MISTYPED_FILES else 60
        yield Signal(
            "types", points, f"{name}: {wrong:,} of {typed:,} rewritten files no longer are what their name says"
        )


def _space(measures: Measures, past: Past) -> Iterator[Signal]:
    """Of the whole run. Both have harmless causes (an import of films), and so few points."""
    added, packed, total = (measures.get(key, 0) for key in ("added", "packed", "total"))
    runs = [run for run in past.get("runs", []) if run.get("added") and run.get("total")]
    if len(runs) < WARM_UP or not added or not total:
        return
    usual = median(run["packed"] / run["added"] for run in runs)
    if added >= PACKED_BYTES and packed / added >= PACKED_NOW and usual <= PACKED_BEFORE:
        yield Signal("compression", 20, f"new data hardly compresses ({packed / added:.0%}, {usual:.0%} is usual)")
    share, share_usual = added / total, median(run["added"] / run["total"] for run in runs)
    if share >= max(ADDED_SHARE, ADDED_TIMES * share_usual):
        yield Signal(
            "deduplication", 20, f"{share:.0%} of everything is new to the repository, {share_usual:.0%} is usual"
        )

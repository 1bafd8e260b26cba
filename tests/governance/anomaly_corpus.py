"""Days in the life of a small web site, harmless ones and attacks, and what the detector says to each.

Files are written by the real writer into a repository in memory, with the parent's content taken over as a run does, and the
measures are taken and judged by the same code as in a run. Everything follows from a seed. For people:

    python -m tests.governance.anomaly_corpus > docs/reference/anomaly-detection.md
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from backupctl.config.models import Job
from backupctl.governance.anomalies import Judgement
from backupctl.operations.anomalies import Parent, assess
from backupctl.repository.entry import Entry, Problem
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import read_manifest
from backupctl.repository.writer import SnapshotWriter
from tests.governance import slow_nights
from tests.repository.helpers import NOW, OLD_NS, file, new_repository

SEEDS = (1, 2)
WARM_UP_DAYS = 16
LONGEST = 24  # days of a slow attack
CANARY = "www/finance/passwords.docx"

JOB = Job.model_validate(
    {
        "job": "site",
        "sources": {"files": {"files": {"paths": ["/www"]}}},
        "repository": "main",
        "objectives": {"rpo": "1d", "rto": "1h"},
        "anomalies": {"canaries": [f"/{CANARY}"]},
    }
)

_WORDS = [
    "the",
    "of",
    "and",
    "backup",
    "site",
    "page",
    "order",
    "article",
    "image",
    "public",
    "office",
    "table",
    "notice",
    "road",
    "permit",
    "form",
    "number",
]


class Texts:
    """Slices of one long text: quick to make, and as compressible as prose."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._text = " ".join(rng.choice(_WORDS) + str(rng.randrange(99)) for _ in range(60_000)).encode()

    def __call__(self, size: int) -> bytes:
        start = self._rng.randrange(len(self._text) - size)
        return b"%d " % self._rng.randrange(10**9) + self._text[start : start + size]


@dataclass
class Site:
    """What a backup finds: files by path, with the day each was last written, and rows by table."""

    seed: int
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    day: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.text = Texts(self.rng)

    def write(self, path: str, data: bytes) -> None:
        self.files[path] = data, self.day

    def some(self, ending: str, count: int) -> list[str]:
        names = sorted(path for path in self.files if path.endswith(ending) and path != CANARY)
        return self.rng.sample(names, min(count, len(names)))

    def picture(self) -> bytes:
        return b"\xff\xd8\xff\xe0" + self.rng.randbytes(self.rng.randrange(8_000, 40_000))

    def document(self) -> bytes:
        return b"PK\x03\x04" + self.rng.randbytes(self.rng.randrange(5_000, 20_000))

    def program(self) -> bytes:
        return b"\x7fELF" + bytes(self.rng.choices((0, 0, 0, 1, 2, 72, 137, 243, 157, 255), k=12_000))

    @classmethod
    def new(cls, seed: int) -> Site:
        site = cls(seed)
        for number in range(160):
            ending = ("html", "txt", "csv", "sql")[number % 4]
            site.write(f"www/pages/{number % 8}/p{number}.{ending}", site.text(site.rng.randrange(4_200, 40_000)))
        for number in range(60):
            site.write(f"www/media/{number % 3}/m{number}.jpg", site.picture())
        for number in range(40):
            site.write(f"www/finance/d{number}.docx", site.document())
        for number in range(40):
            site.write(f"www/app/lib{number}.so", site.program())
        for number in range(4):
            site.write(f"www/log/{number}.log", site.text(20_000))
        site.write(CANARY, site.document())
        site.write("www/data/store.db", b"SQLite format 3\0" + b"".join(site.text(4_000) for _ in range(40)))
        site.rows = {"shop.orders": (5_000, 0), "shop.customers": (800, 0), "shop.session": (60, 0)}
        return site


def normal(site: Site) -> None:
    """People edit, a few new files, few go, logs grow, orders come in."""
    rng = site.rng
    for ending, most in ((".html", 8), (".txt", 4), (".csv", 3)):
        for path in site.some(ending, rng.randrange(1, most)):
            site.write(path, site.text(rng.randrange(4_200, 40_000)))
    for path in site.some(".docx", rng.randrange(3)):
        site.write(path, site.document())
    for number in range(rng.randrange(4)):
        site.write(f"www/pages/{rng.randrange(8)}/new{site.day}-{number}.html", site.text(9_000))
    for path in site.some(".txt", rng.randrange(2)):
        del site.files[path]
    for path in site.some(".log", 9):
        site.write(path, site.files[path][0][-200_000:] + site.text(4_000))
    site.write("www/data/store.db", site.files["www/data/store.db"][0][:-4_000] + site.text(4_000))
    rows, version = site.rows["shop.orders"]
    site.rows["shop.orders"] = rows + rng.randrange(40), version + 1


# Harmless days


def log_growth(site: Site) -> None:
    for path in site.some(".log", 9):
        site.write(path, site.files[path][0] + site.text(180_000))


def software_upgrade(site: Site) -> None:
    for path in site.some(".so", 40):
        site.write(path, site.program())
    for path in site.some(".so", 8):
        del site.files[path]
    for number in range(20):
        site.write(f"www/app/plugin{number}.so", site.program())


def media_import(site: Site) -> None:
    for number in range(200):
        site.write(f"www/media/import/{number}.jpg", site.picture())


def compaction(site: Site) -> None:
    """Logs are rotated and compressed, the database's file is written anew."""
    import zlib

    for path in site.some(".log", 9):
        site.write(path + ".1.gz", b"\x1f\x8b\x08\0" + zlib.compress(site.files[path][0]))
        site.write(path, site.text(500))
    site.write("www/data/store.db", b"SQLite format 3\0" + b"".join(site.text(4_000) for _ in range(30)))


def reorganised(site: Site) -> None:
    for path in [path for path in site.files if path.startswith("www/pages/")]:
        site.files[path.replace("www/pages/", "www/site/articles/")] = site.files.pop(path)


def pictures_encoded_again(site: Site) -> None:
    for path in site.some(".jpg", 60):
        site.write(path, site.picture())


def search_and_replace(site: Site) -> None:
    for path in [*site.some(".html", 99), *site.some(".txt", 99)]:
        site.write(path, site.files[path][0].replace(b"office", b"bureau") + b"!")


def old_year_removed(site: Site) -> None:
    for path in [path for path in sorted(site.files) if path.startswith(("www/pages/0", "www/pages/1"))]:
        del site.files[path]


def exports_compressed(site: Site) -> None:
    import zlib

    for path in site.some(".csv", 99):
        site.write(path + ".gz", b"\x1f\x8b\x08\0" + zlib.compress(site.files.pop(path)[0]))


def batch_job(site: Site) -> None:
    rows, version = site.rows["shop.orders"]
    site.rows["shop.orders"] = int(rows * 0.85), version + 1
    site.rows["shop.session"] = 0, version + 1
    site.rows["shop.session"] = 55, version + 2


# Attacks; each is called once a day until it is seen


def encrypted(site: Site, data: bytes, every: int = 1) -> bytes:
    blocks = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    return b"".join(site.rng.randbytes(len(one)) if number % every == 0 else one for number, one in enumerate(blocks))


def targets(site: Site) -> list[str]:
    return [path for path in sorted(site.files) if not path.endswith((".so", ".log")) and path != CANARY]


def full_encryption(site: Site) -> None:
    for path in targets(site):
        site.write(path, encrypted(site, site.files[path][0]))


def intermittent(site: Site) -> None:
    for path in targets(site):
        site.write(path, site.files[path][0][:64] + encrypted(site, site.files[path][0], 8)[64:])


def renamed(site: Site) -> None:
    for path in targets(site):
        data = site.files.pop(path)[0]
        site.write(path + ".locked", encrypted(site, data))
    site.write("www/HOW_TO_DECRYPT_FILES.txt", site.text(900))


def mass_deletion(site: Site) -> None:
    for path in site.rng.sample(targets(site), len(targets(site)) * 2 // 3):
        del site.files[path]


def slow_poison(site: Site) -> None:
    """Four texts a day, every second block, times and sizes kept."""
    for path in [*site.some(".txt", 2), *site.some(".html", 2)]:
        site.write(path, site.files[path][0][:64] + encrypted(site, site.files[path][0], 2)[64:])


def one_a_night(site: Site) -> None:
    for path in site.some(site.rng.choice((".txt", ".html", ".csv", ".sql")), 1):
        site.write(path, encrypted(site, site.files[path][0]))


def one_in_three_nights(site: Site) -> None:
    if site.day % 3 == 0:
        one_a_night(site)


def pictures_slowly(site: Site) -> None:
    for path in site.some(".jpg", 2):
        site.write(path, encrypted(site, site.files[path][0]))


def renamed_slowly(site: Site) -> None:
    for path in [*site.some(".txt", 1), *site.some(".docx", 1)]:
        site.write(path + ".locked", encrypted(site, site.files.pop(path)[0]))


def media_only(site: Site) -> None:
    for path in site.some(".jpg", 99):
        site.write(path, encrypted(site, site.files[path][0]))


def base64_texts(site: Site) -> None:
    """Ciphertext in base64 passes for text: names, sizes of blocks and entropy are those of text."""
    for path in [*site.some(".html", 99), *site.some(".txt", 99)]:
        site.write(path, base64.b64encode(encrypted(site, site.files[path][0])))


def rows_deleted(site: Site) -> None:
    rows, version = site.rows["shop.orders"]
    site.rows["shop.orders"] = rows // 3, version + 1


def table_dropped(site: Site) -> None:
    site.rows.pop("shop.customers", None)


def canary_touched(site: Site) -> None:
    """Five files, the bait among them."""
    for path in [*site.some(".docx", 2), *site.some(".html", 2), CANARY]:
        site.write(path, encrypted(site, site.files[path][0]))


BENIGN: dict[str, Callable[[Site], None]] = {
    "normal edits": normal,
    "logs grow tenfold": log_growth,
    "software upgrade": software_upgrade,
    "big import of pictures": media_import,
    "logs rotated, database compacted": compaction,
    "directory reorganised": reorganised,
    "every picture encoded again": pictures_encoded_again,
    "search and replace in every page": search_and_replace,
    "an old part removed": old_year_removed,
    "exports compressed in place": exports_compressed,
    "batch job deletes rows": batch_job,
}
ATTACKS: dict[str, Callable[[Site], None]] = {
    "full encryption in place": full_encryption,
    "intermittent encryption (1 block of 8)": intermittent,
    "encryption, renamed with an ending, a note": renamed,
    "mass deletion": mass_deletion,
    "slow poisoning (4 files a day)": slow_poison,
    "slow poisoning (1 file a day)": one_a_night,
    "slow poisoning (1 file in three days)": one_in_three_nights,
    "slow poisoning (2 pictures a day)": pictures_slowly,
    "slow renaming with an ending (2 files a day)": renamed_slowly,
    "pictures encrypted, nothing else": media_only,
    "database: two thirds of a table deleted": rows_deleted,
    "database: a table dropped": table_dropped,
    "five files encrypted, a canary among them": canary_touched,
    "texts encrypted and written in base64": base64_texts,
}


class Nights:
    """A repository in memory and a backup each night."""

    def __init__(self, seed: int) -> None:
        self.site = Site.new(seed)
        self.repository = new_repository()
        self.parent = Parent()

    def back_up(self, problems: Sequence[Problem] = ()) -> Judgement:
        facts = {"files": _facts("files", {}), "db": _facts("sqlite", {"databases": _tables(self.site.rows)})}
        parent = self.parent
        with SnapshotWriter(
            self.repository, parent=parent.snapshot, parent_manifest=parent.manifest, clock=self.repository.clock
        ) as writer:
            writer.add_source("db", [])
            writer.add_source("files", self._entries())
            written = writer.finish()
        assessment = assess(JOB, self.repository, parent, written, writer.looks, facts, problems)
        snapshot = Snapshot(NOW, written.tree, ["/db", "/files"])
        manifest = read_manifest(self.repository, written.manifest)
        self.parent = Parent(snapshot, manifest, {"sources": facts, "anomalies": assessment.record})
        return assessment.judgement

    def _entries(self) -> Iterator[Entry]:
        for path in sorted(self.site.files, key=lambda path: path.encode().split(b"/")):
            data, day = self.site.files[path]
            when = OLD_NS + day
            yield file(path.encode(), data, mtime_ns=when, ctime_ns=when, inode=hash_of(path))

    def day(self, *happens: Callable[[Site], None]) -> Judgement:
        self.site.day += 1
        for one in happens:
            one(self.site)
        return self.back_up()

    def mark(self) -> tuple[Site, Parent]:
        return deepcopy(self.site), self.parent

    def back_to(self, mark: tuple[Site, Parent]) -> None:
        self.site, self.parent = deepcopy(mark[0]), mark[1]


def hash_of(path: str) -> int:
    return int.from_bytes(random.Random(path).randbytes(4), "big") + 1


def _facts(kind: str, fingerprint: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "host": "local", "data_time": "2026-11-22T00:00:00Z", "fingerprint": fingerprint}


def _tables(rows: dict[str, tuple[int, int]]) -> dict[str, Any]:
    tables = {
        name.partition(".")[2]: {"rows": count, "digest": str(version)} for name, (count, version) in rows.items()
    }
    return {"shop": {"tables": tables}}


@dataclass
class Result:
    """`days`: for each seed, the day of the attack on which it was seen; None for never. `signals`: their names."""

    days: list[int | None] = field(default_factory=list)
    signals: dict[str, int] = field(default_factory=dict)

    def note(self, judgement: Judgement) -> None:
        for one in judgement.signals:
            self.signals[one.name] = self.signals.get(one.name, 0) + 1


@dataclass
class Results:
    attacks: dict[str, Result] = field(default_factory=lambda: {name: Result() for name in ATTACKS})
    alarms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("first backup", "warm-up", *BENIGN), 0))
    days: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("first backup", "warm-up", *BENIGN), 0))
    why: dict[str, dict[str, int]] = field(default_factory=dict)
    many_nights: dict[float, int] = field(default_factory=slow_nights.false_alarms)

    def benign(self, name: str, judgement: Judgement) -> None:
        self.days[name] += 1
        self.alarms[name] += judgement.suspicious
        for one in judgement.signals:
            counts = self.why.setdefault(name, {})
            counts[one.name] = counts.get(one.name, 0) + 1


def measure() -> Results:
    results = Results()
    for seed in SEEDS:
        nights = Nights(seed)
        results.benign("first backup", nights.back_up())
        for _ in range(WARM_UP_DAYS):
            results.benign("warm-up", nights.day(normal))
        mark = nights.mark()
        for name, happens in BENIGN.items():
            nights.back_to(mark)
            results.benign(name, nights.day(normal, happens))
            results.benign("normal edits", nights.day(normal))  # what comes after must not alarm either
        for name, happens in ATTACKS.items():
            nights.back_to(mark)
            result = results.attacks[name]
            for day in range(1, LONGEST + 1):
                judgement = nights.day(normal, happens)
                if judgement.suspicious:
                    result.days.append(day)
                    break
                if name in _AT_ONCE:
                    result.days.append(None)
                    break
            else:
                result.days.append(None)
            result.note(judgement)
    return results


_AT_ONCE = tuple(name for name in ATTACKS if not name.startswith("slow"))


def markdown(results: Results) -> str:
    lines = [
        "# Detection of attacks: what was measured",
        "",
        f"A generated site (306 files, a database of three tables) is backed up for {WARM_UP_DAYS} ordinary days; then one",
        f"thing happens. {len(SEEDS)} sites per row, each from its own seed. Made by `python -m tests.governance.anomaly_corpus`;",
        "a test compares it with what is measured. What the signals are stands in [Signs of an attack](../how-to/anomalies.md).",
        "It is a small, tidy corpus of our own making: it shows what each rule sees and what it does not, not how often your",
        "site will be right.",
        "",
        "## Attacks",
        "",
        "| attack | seen | on its day | signals |",
        "|---|---|---|---|",
    ]
    for name, result in results.attacks.items():
        seen = [day for day in result.days if day is not None]
        when = f"{min(seen)}" + (f" to {max(seen)}" if seen and max(seen) > min(seen) else "") if seen else "never"
        lines.append(f"| {name} | {len(seen)} of {len(result.days)} | {when} | {_names(result.signals)} |")
    seen_all = sum(day is not None for result in results.attacks.values() for day in result.days)
    every = sum(len(result.days) for result in results.attacks.values())
    lines += ["", f"Seen: {seen_all} of {every}.", "", "## Harmless days", ""]
    lines += ["| day | false alarms | points without an alarm |", "|---|---|---|"]
    for name, alarms in results.alarms.items():
        lines.append(f"| {name} | {alarms} of {results.days[name]} | {_names(results.why.get(name, {}))} |")
    lines += ["", f"False alarms: {sum(results.alarms.values())} in {sum(results.days.values())} runs.", ""]
    return "\n".join([*lines, *slow_nights.table(results.many_nights)])


def _names(signals: dict[str, int]) -> str:
    return ", ".join(f"{name} ×{count}" for name, count in sorted(signals.items())) or "none"


if __name__ == "__main__":
    print(markdown(measure()), end="")
